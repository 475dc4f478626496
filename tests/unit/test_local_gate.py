"""Local mode: the SDK and `check` against a gate in memory answer as workers do; time, people and quarantines by hand."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from sluicegate.adapters.tools import Calls
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.client import Ended, Started, Text
from sluicegate.streams.local import FakeClock, Gate
from sluicegate.streams.sdk.errors import Expired, Failed, InDoubt, NotReleased, Refused, Withheld
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

from tests.driver import DESK_FILES, release_files
from tests.unit.test_attempts import files as models
from tests.unit.test_memory import FILES as MEMORY
from tests.unit.test_prompt_read import files as prompt_files

pytest_plugins = ["sluicegate.streams.testing"]

ROLE = ["desk"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' release as a folder: a tool of each class, one held, one in process, one nobody may call."""
    root = tmp_path_factory.mktemp("release")
    for name, text in release_files().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, "utf-8")
    (root / "agents.yaml").write_text("agents:\n  known: {tenant: t, team: a, roles: [desk]}\n")
    return root


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(main())


def test_check_says_what_a_worker_would(folder: Path) -> None:
    gate = Gate.local(folder)
    allowed = gate.check("known", "desk.pay", {"value": "7"})
    assert allowed.allowed and allowed.policies == ("desk-use",) and allowed.arguments == b'{"value":"7"}'
    forbidden = gate.check("known", "desk.pay", {"value": "no"})
    assert (forbidden.status, forbidden.stage, forbidden.reason) == ("refuse", "authorize", "forbidden")
    assert "desk-not-this" in str(forbidden) and forbidden.for_model
    held = gate.check("known", "desk.ask", {})
    assert held.status == "hold" and "desk-ask" in str(held)
    wrong = gate.check("known", "desk.pay", {"value": 7})
    assert (wrong.stage, wrong.status) == ("conform", "refuse")
    assert gate.check("nobody", "desk.pay", {}).reason == "unknown_agent"
    assert gate.check("new", "desk.pay", {}, roles=ROLE).allowed
    assert len({o.origin.intent_id for o in gate.events}) == 0  # nothing is remembered


def test_check_knows_what_the_user_said() -> None:
    gate = Gate.local(Path(__file__).parents[2] / "bench" / "releases" / "banking")
    pay = {"recipient": "DE89370400440532013000", "amount": 50, "subject": "rent", "date": "2022-01-01"}

    def said(text: str) -> str:
        return gate.check(
            "a", "banking.send_money", pay, said=text, on_behalf_of="c-1", roles=["banking"]
        ).status

    assert said(f"pay 50 to {pay['recipient']} for the rent on 2022-01-01") == "permit"
    assert said("pay my rent") != "permit"


def test_a_session_of_the_sdk(folder: Path) -> None:
    seen: list[str] = []

    def pay(value: str) -> dict[str, bool]:
        seen.append(value)
        return {"ok": True}

    async def main() -> None:
        gate = Gate.local(folder, tools={"desk.pay": pay})
        async with gate.agent("a", roles=ROLE) as agent, agent.session("pay") as session:
            assert await session.call_tool("desk.pay", {"value": "7"}, intent_id="first") == {"ok": True}
            with pytest.raises(Refused) as refused:
                await session.call_tool("desk.pay", {"value": "no"})
            assert refused.value.policies == ("desk-not-this",)
            with pytest.raises(Failed, match="no function stands for"):
                await session.call_tool("desk.read", {})
            assert await agent.result("first") == {"ok": True}
        assert seen == ["7"]
        assert [status for _, status, _ in gate.of("first")] == [
            "routed", "permitted", "validated", "dispatched", "claimed", "released",
        ]  # fmt: skip
        assert gate.events[-1].status == "closed"

    run(main)


def test_a_tool_that_breaks_or_says_no_json(folder: Path) -> None:
    def breaks(**arguments: object) -> object:
        raise RuntimeError("the till is jammed")

    async def main() -> None:
        gate = Gate.local(folder, tools={"desk.pay": breaks, "desk.read": lambda: {"x": float("nan")}})
        async with gate.agent("a", roles=ROLE) as agent, agent.session() as session:
            with pytest.raises((Failed, InDoubt), match="till"):
                await session.call_tool("desk.pay", {"value": "7"})
            with pytest.raises(NotReleased) as failed:
                await session.call_tool("desk.read", {})
            assert failed.value.reason == "malformed_result"

    run(main)


def test_in_process_function(folder: Path) -> None:
    async def main() -> None:
        gate = Gate.local(folder, clock=FakeClock())
        async with gate.agent("a", roles=ROLE) as agent:

            @agent.governed("desk.local")
            def local(value: str) -> dict[str, str]:
                return {"said": value}

            async with agent.session():
                assert await local("x") == {"said": "x"}

    run(main)


def test_people_agree_edit_and_refuse(folder: Path) -> None:
    seen: list[object] = []

    async def main() -> None:
        gate = Gate.local(folder, tools={"desk.wire": lambda value: seen.append(value) or {}})
        async with gate.agent("a", roles=ROLE) as agent, agent.session() as session:
            held = await session.call_tool("desk.wire", {"value": "7"})
            assert isinstance(held, Held)
            assert gate.approve(held.intent_id, arguments={"value": "6"}) == "held"
            assert gate.approve(held.intent_id) == "dispatched"  # the second of two
            assert await agent.result(held.intent_id) == {}
            other = await session.call_tool("desk.ask", {})
            assert isinstance(other, Held)
            with pytest.raises(Terminal, match="`person-9` changed nothing"):
                gate.approve(other.intent_id, by="person-9")
            assert gate.reject(other.intent_id) == "refused"
            with pytest.raises(Terminal, match="is not held"):
                gate.approve(other.intent_id)
        assert seen == ["6"]

    run(main)


def test_time_passes_by_hand(folder: Path, local_gate: Callable[..., Gate], fake_clock: FakeClock) -> None:
    async def main() -> None:
        gate = local_gate(folder)
        async with gate.agent("a", roles=ROLE) as agent, agent.session() as session:
            held = await session.call_tool("desk.wire", {"value": "7"})  # @expires("4h")
            assert isinstance(held, Held)
            assert gate.advance(4 * 3_600 - 60) == 0
            assert gate.advance(120) == 1
            with pytest.raises(Expired):
                await agent.result(held.intent_id)
            # Hours later by the gate's clock, a call is as fresh as it was.
            assert (await session.call_tool("desk.ask", {})).__class__ is Held

    run(main)
    assert json.dumps(fake_clock()).isdigit()


def test_only_a_fake_clock_moves(folder: Path) -> None:
    with pytest.raises(Terminal, match="FakeClock"):
        Gate.local(folder).advance(1)


def test_orders_and_hand_offs(folder: Path) -> None:
    async def main() -> None:
        gate = Gate.local(folder, tools={"desk.read": lambda: {"n": 1}})
        async with (
            gate.agent("a", roles=ROLE) as first,
            gate.agent("b", roles=ROLE) as second,
            first.session() as session,
        ):
            gate.order("quarantine.added", scope="tool", value="desk.read", why="a test")
            with pytest.raises(Refused) as stopped:
                await session.call_tool("desk.read", {})
            assert "quarantine" in stopped.value.reason
            gate.order("quarantine.lifted", scope="tool", value="desk.read")
            assert await session.call_tool("desk.read", {}) == {"n": 1}
            assert second.agent_id == "b"

    run(main)


def test_an_agent_goes_back_and_an_id_asked_again_is_a_typed_answer(tmp_path: Path) -> None:
    for name, text in {**prompt_files(), **MEMORY}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")

    async def main() -> None:
        gate = Gate.local(tmp_path, tools={"desk.read": lambda: {"n": 1}})
        asked: dict[str, tuple[str, dict[str, Json]]] = {
            "w": ("memory.write", {"key": "k", "value": 1}),
            "r": ("memory.read", {"key": "k"}),
            "p": ("prompt.read", {"prompt": "triage", "variables": {"role": "x", "plan": "y"}}),
        }
        async with gate.agent("a", roles=["banking", *ROLE]) as agent, agent.session() as session:
            for ident, (tool, args) in asked.items():
                await session.call_once(tool, args, intent_id=ident)
            cut = len(gate.events) - 1
            await session.call_tool("memory.write", {"key": "k", "value": 2})
            held = await session.call_tool("desk.ask", {})
            assert isinstance(held, Held)
            gate.order("agent.rolled_back", agent_id="a", cut=cut, why="a test")
            assert gate.of(held.intent_id)[-1][1:] == ("voided", "rolled_back")
            assert await session.call_tool("memory.read", {"key": "k"}) == {
                "found": True,
                "value": 1,
                "version": 3,
            }
            for ident, (tool, args) in asked.items():
                with pytest.raises(Withheld) as told:
                    await session.call_once(tool, args, intent_id=ident)
                assert (told.value.reason, told.value.status) == ("result_not_kept", "released")
                assert await agent.result(ident) is not None
            gate.order("agent.rolled_back", agent_id="a", cut=len(gate.events) + 5, why="not past")
            assert (gate.events[-1].status, gate.events[-1].reason) == ("restored", "bad_cut")

    run(main)


def test_a_release_that_does_not_check(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "release.yaml").write_text("name: x\nversion: '1'\n")
    (tmp_path / "policies" / "x.cedar").write_text(DESK_FILES["policies/desk.cedar"])
    with pytest.raises(Terminal):
        Gate.local(tmp_path)


def test_a_stream_brings_one_message_whole(tmp_path: Path) -> None:
    for name, text in models().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    gate = Gate.local(tmp_path, tools={"triage": lambda messages: {"text": "hi", "tool_calls": []}})
    parts: list[object] = []

    async def main() -> None:
        async with gate.agent("a", roles=ROLE) as agent, agent.session("ask") as session:
            async for part in session.stream_model("triage", [{"role": "user", "content": "hello"}]):
                parts.append(part)

    run(main)
    assert parts[0] == Started("", "", "buffered") and parts[1] == Text("hi")
    assert parts[2] == Ended({"text": "hi", "tool_calls": []}, True)


def test_who_reads_that_a_call_is_held_is_told_what_approves_it_here(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No command reaches a gate in this process."""

    async def main() -> None:
        gate = Gate.local(folder)
        async with gate.agent("a", roles=ROLE) as agent, agent.session("ask") as session:
            held = await Calls(session).ask("c-1", "desk.ask", {}, None)
            assert isinstance(held, Held)
            assert (
                f'gate.approve("{held.intent_id}")' in caplog.text and "sluicegate approve" not in caplog.text
            )
            assert gate.approve(held.intent_id) == "dispatched"

    with caplog.at_level(logging.WARNING, "sluicegate.adapters"):
        run(main)
