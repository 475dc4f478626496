"""A call that is asked for twice is one call: one after the other, at the same time, and over a hold; other arguments are another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.streams.local import Gate
from sluicegate.streams.sdk.call_once import intent_id_of
from sluicegate.streams.sdk.errors import Refused
from sluicegate.streams.sdk.in_process import LocalFunction
from sluicegate.streams.sdk.in_session import connect, current, in_session
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

REFUNDS = Path(__file__).parents[2] / "examples" / "refunds"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ARGUMENTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), JSON, max_size=4)


def test_one_call_whoever_asks_again() -> None:
    paid: list[int] = []

    async def main() -> None:
        gate = Gate.local(REFUNDS)
        async with gate.agent("support-7") as agent, agent.session("refunds") as session:

            async def refund(order: str, amount: int) -> dict[str, int]:
                paid.append(amount)
                await asyncio.sleep(0)
                return {"refunded": amount}

            def ask(amount: int, intent_id: str) -> object:
                asked: dict[str, Json] = {"order": "7", "amount": amount}
                return session.call_once("refund", asked, intent_id=intent_id, run=LocalFunction(refund))

            both = await asyncio.gather(ask(12, "a"), ask(12, "a"))  # type: ignore[call-overload]
            assert both == [{"refunded": 12}] * 2 and paid == [12]
            assert await ask(12, "a") == {"refunded": 12}  # type: ignore[misc]
            assert isinstance(await ask(500, "b"), Held) and isinstance(await ask(500, "b"), Held)  # type: ignore[misc]
            gate.approve("b")
            assert await ask(500, "b") == {"refunded": 500} and paid == [12, 500]  # type: ignore[misc]

    asyncio.run(main())


@given(ARGUMENTS, ARGUMENTS, st.sampled_from(["x", "y"]), st.sampled_from(["x", "y"]))
def test_an_id_is_of_one_call(one: dict[str, Json], other: dict[str, Json], a: str, b: str) -> None:
    def same(value: Json, than: Json) -> bool:
        if isinstance(value, dict) and isinstance(than, dict):
            return value.keys() == than.keys() and all(same(value[k], than[k]) for k in value)
        if isinstance(value, list) and isinstance(than, list):
            return len(value) == len(than) and all(map(same, value, than))
        return type(value) is type(than) and value == than

    ids = intent_id_of("s", a, "t", one), intent_id_of("s", b, "t", other)
    assert (ids[0] == ids[1]) is (a == b and same(one, other))
    assert intent_id_of("s", a, "t", dict(reversed(one.items()))) == ids[0]


def test_what_has_no_id_or_is_no_json_is_refused_here() -> None:
    for call_id, arguments, reason in (
        ("", {}, "bad_identifier"),
        ("c", {"x": float("nan")}, "arguments_not_json"),
    ):
        with pytest.raises(Refused) as refused:
            intent_id_of("s", call_id, "t", arguments)  # type: ignore[arg-type]
        assert refused.value.reason == reason and not refused.value.published


def test_where_an_agent_asks_the_environment_says() -> None:
    from sluicegate.schemas.errors import Terminal
    from sluicegate.streams.client import AgentClient
    from sluicegate.streams.sdk.gateway_client import GatewayAgent

    assert isinstance(connect("support-7", {"SLUICEGATE_LOCAL": str(REFUNDS)}), AgentClient)
    assert isinstance(connect("support-7", {}), AgentClient)
    with pytest.raises(Terminal, match="SLUICEGATE_KEY"):
        connect("support-7", {"SLUICEGATE_GATEWAY": "http://127.0.0.1:9"})

    async def over_http() -> bool:
        where = {"SLUICEGATE_GATEWAY": "http://127.0.0.1:9", "SLUICEGATE_KEY": "k", "SLUICEGATE_LOCAL": "x"}
        async with connect("support-7", where) as agent:
            return isinstance(agent, GatewayAgent)

    assert asyncio.run(over_http())

    @in_session(Gate.local(REFUNDS).agent("support-7"), "refunds", session_id="mine")
    async def main() -> str:
        return current().session_id

    assert asyncio.run(main()) == "mine"
    with pytest.raises(Terminal, match="in_session"):
        current()
