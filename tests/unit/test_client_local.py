"""Local functions of the agent SDK: run once, under a permit, with what was decided on; receipts tell the truth."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from sluicegate.processors.outcomes import Decision
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Intent, Receipt
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams import client as client_module
from sluicegate.streams.client import (
    AgentClient,
    Failed,
    Held,
    InDoubt,
    Refused,
    Session,
    Unanswered,
    Withheld,
    governed,
)
from sluicegate.streams.sdk import in_process
from sluicegate.streams.sdk import session as client_session
from sluicegate.streams.sdk.in_process import LocalFunction, now_us

from tests.client_gate import LONG_S, SHORT_S, Gate, approve, client, in_session, refusal_of, run
from tests.driver import OTHER_AGENT

# -- local functions ----------------------------------------------------------------------------------------------


def local(gate: Gate, function: Callable[..., object], *args: object, **kwargs: object) -> object:
    """One governed call of `function` as `desk.local`."""

    async def body(agent: AgentClient, session: Session) -> object:
        return await governed(session, "desk.local")(function)(*args, **kwargs)

    return in_session(gate, body)


def test_a_governed_function_runs_under_a_permit_and_its_result_is_released() -> None:
    gate = Gate()
    ran: list[str] = []

    async def pay(value: str, note: str | None = None) -> dict[str, object]:
        ran.append(value)
        assert not gate.of(Receipt)
        return {"paid": value, "note": note}

    before = now_us()
    assert local(gate, pay, "ten") == {"paid": "ten", "note": None}
    assert ran == ["ten"]
    (receipt,) = gate.of(Receipt)
    intent = gate.of(Intent)[1]
    assert json.loads(intent.arguments) == {"value": "ten"}
    assert (receipt.kind, receipt.executor, receipt.attempt, receipt.sent) == ("finished", "agent", 1, True)
    assert (receipt.intent_id, receipt.session_id) == (intent.intent_id, intent.session_id)
    assert before <= receipt.started_at <= receipt.finished_at <= now_us()
    assert json.loads(receipt.result or b"") == {"paid": "ten", "note": None}
    assert [topic for topic, record, _ in gate.sent if record is receipt] == ["intents"]


def test_three_lines_govern_an_existing_function() -> None:
    gate = Gate()
    agent = client(gate)

    @agent.governed("desk.local")
    def pay(value: str) -> dict[str, object]:
        """Pay."""
        return {"thread": threading.current_thread() is threading.main_thread(), "value": value}

    assert (pay.__name__, pay.__doc__) == ("pay", "Pay.")

    async def main() -> None:
        with pytest.raises(Terminal, match="no session"):
            await pay("x")
        async with agent, agent.session() as session:
            assert await pay(value="a") == {"thread": False, "value": "a"}
            assert await session.call_tool("desk.local", {"value": "b"}) == {"thread": False, "value": "b"}
            with pytest.raises(TypeError, match="missing a required argument"):
                await pay(amount=1)  # type: ignore[call-arg]
        with pytest.raises(Terminal, match="no session"):
            await pay("x")

    run(main())
    with pytest.raises(Terminal, match="already"):
        agent.governed("desk.local")(lambda: None)


def test_a_governed_call_asks_in_the_innermost_session_of_its_own_agent() -> None:
    gate, other_gate = Gate(), Gate()
    agent, other = client(gate), client(other_gate, OTHER_AGENT)

    @agent.governed("desk.local")
    async def pay() -> dict[str, object]:
        return {}

    async def main() -> None:
        async with agent, other, agent.session(session_id="outer"):
            async with agent.session(session_id="inner"), other.session(session_id="other"):
                await pay()
            await pay()
            await asyncio.create_task(pay())  # type: ignore[arg-type]

    run(main())
    calls = [i.session_id for i in gate.of(Intent) if i.kind == "tool_call"]
    assert calls == ["inner", "outer", "outer"]


def test_a_refused_function_never_runs() -> None:
    def never() -> None:
        pytest.fail("it ran")

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Refused, match="no_permit"):
            await governed(session, "desk.never")(never)()

    in_session(Gate(), body)


def test_it_gets_the_arguments_that_were_decided_on() -> None:
    seen: list[object] = []
    gate = Gate()
    feed = gate.driver.feed

    def feed_other(topic: str, record: object, **more: object) -> Decision:
        decision = feed(topic, record, **more)  # type: ignore[arg-type]
        for reply in decision.replies:
            if reply.status == "permitted":
                reply.arguments = b'{"value":"decided"}'
        return decision

    gate.driver.feed = feed_other  # type: ignore[method-assign]

    def pay(value: str) -> dict[str, object]:
        seen.append(value)
        return {}

    local(gate, pay, "asked")
    assert seen == ["decided"]


@pytest.mark.parametrize(
    ("error", "error_class", "ends", "reason"),
    [
        (LookupError("no such account \ud800"), "crashed", Failed, "crashed"),
        # An irreversible function whose own request timed out may have acted: never `failed`.
        (TimeoutError(), "timeout", InDoubt, "call_in_doubt"),
    ],
)
def test_a_function_that_raises(
    error: Exception, error_class: str, ends: type[Exception], reason: str
) -> None:
    async def pay() -> None:
        raise error

    gate = Gate()
    with pytest.raises(ends) as raised:
        local(gate, pay)
    assert raised.value.reason == reason and raised.value.__cause__ is error
    (receipt,) = gate.of(Receipt)
    assert (receipt.kind, receipt.error_class, receipt.sent) == ("failed", error_class, True)
    assert receipt.error.startswith(type(error).__name__)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(object(), "malformed_result"), ({"n": float("nan")}, "malformed_result"), ([1], "malformed_result"),
     ({"x": "y" * MAX_RESULT_BYTES}, "result_too_large")],
)  # fmt: skip
def test_a_result_that_cannot_be_released_is_withheld(value: object, reason: str) -> None:
    gate = Gate()
    with pytest.raises(Withheld) as raised:
        local(gate, lambda: value)
    assert raised.value.reason == reason
    (receipt,) = gate.of(Receipt)
    assert len(receipt.result or b"") <= MAX_RESULT_BYTES  # what is too large is not even sent


def test_without_a_function_the_gate_learns_that_nothing_was_sent() -> None:
    gate = Gate()
    error = refusal_of(gate, "desk.local")
    assert (type(error), error.reason) == (Failed, "unreachable")
    assert "desk.local" in error.for_developer and gate.of(Receipt)[0].sent is False


def test_a_permit_runs_once() -> None:
    ran: list[int] = []
    gate = Gate()

    async def pay() -> dict[str, object]:
        ran.append(1)
        (permit,) = [r for r in gate.driver.replies if r.status == "permitted"]
        gate.reply(permit)
        gate.reply(replace(permit, intent_id="of another process"))
        await asyncio.sleep(0.01)
        return {}

    local(gate, pay)
    assert ran == [1] and len(gate.of(Receipt)) == 1


def test_a_permit_from_before_a_restart_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "CLOSE_LIMIT_S", SHORT_S)
    gate = Gate()
    ran: list[int] = []

    async def main() -> None:
        async with client(gate) as agent, agent.session() as session:
            gate.silent = True
            with pytest.raises(Unanswered):
                await session.call_tool("desk.local", {}, intent_id="left", timeout_s=SHORT_S)
        gate.silent = False
        again = client(gate)
        again.governed("desk.local")(lambda: ran.append(1) or {})
        async with again:
            with pytest.raises(Unanswered):
                await again.result("left", SHORT_S)

    run(main())
    assert ran == [] and gate.of(Receipt) == []


def test_an_approved_function_runs_when_the_approval_comes() -> None:
    gate = Gate()
    gate.driver.deploy(gate.driver.control.release)  # type: ignore[arg-type]

    async def body(agent: AgentClient, session: Session) -> object:
        with pytest.MonkeyPatch.context() as patch:
            tools = gate.driver.control.release.tools  # type: ignore[union-attr]
            patch.setitem(tools, "desk.ask", replace(tools["desk.ask"], executor_kind="in_process"))
            held = await governed(session, "desk.ask")(lambda: {"agreed": 1})()
            assert isinstance(held, Held)
            gate.after(approve(gate, held.intent_id))
            return await agent.result(held.intent_id, LONG_S)

    assert in_session(gate, body) == {"agreed": 1}


def test_a_permit_that_comes_after_the_caller_gave_up_is_not_begun() -> None:
    gate = Gate(silent=True)

    async def body(agent: AgentClient, session: Session) -> None:
        gate.silent = True
        with pytest.raises(Unanswered):
            await governed(session, "desk.local", timeout_s=SHORT_S)(lambda: pytest.fail("it ran"))()
        gate.silent = False
        (permit,) = [r for r in gate.driver.replies if r.status == "permitted"]
        gate.reply(permit)
        with pytest.raises(Failed, match="gave up") as raised:
            await agent.result(permit.intent_id, LONG_S)
        assert raised.value.reason == "timeout"

    gate.silent = False
    in_session(gate, body)
    assert gate.of(Receipt)[0].sent is False


def test_a_permit_that_is_too_old_is_not_begun() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        gate.silent = True
        call = asyncio.create_task(
            governed(session, "desk.local")(lambda: pytest.fail("it ran"))()  # type: ignore[arg-type]
        )
        await gate.until(Intent, 2)
        gate.silent = False
        (permit,) = [r for r in gate.driver.replies if r.status == "permitted"]
        gate.reply(replace(permit, decided_at=now_us() - int(in_process.PERMIT_LIMIT_S * 1e6) - 1))
        with pytest.raises(Failed, match="check the clocks"):
            await call

    in_session(gate, body)


def test_once_begun_it_runs_to_its_end_though_the_caller_is_gone() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow() -> dict[str, object]:
            begun.set()
            await go.wait()
            return {"done": 1}

        call = asyncio.create_task(
            session_call := governed(session, "desk.local")(slow)()  # type: ignore[arg-type]
        )
        assert session_call is not None
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go.set()
        receipt = await gate.until(Receipt)
        assert receipt.kind == "finished"
        assert await agent.result(receipt.intent_id, LONG_S) == {"done": 1}

    in_session(gate, body)


def test_closing_waits_for_functions_and_then_leaves_them_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FUNCTIONS_LIMIT_S", SHORT_S)
    gate = Gate()
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Unanswered):
            await governed(session, "desk.local", timeout_s=SHORT_S)(hang)()

    in_session(gate, body)
    assert ended == ["cancelled"] and gate.of(Receipt) == []


def test_a_function_runs_in_its_callers_context() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    async def body(agent: AgentClient, session: Session) -> object:
        user.set("ann")
        return await governed(session, "desk.local")(lambda: {"user": user.get()})()

    assert in_session(Gate(), body) == {"user": "ann"}


def test_arguments_are_bound_by_name() -> None:
    def pay(
        to: str, amount: int = 5, /, *, note: str | None = None, mark: None = None, **more: object
    ) -> object:
        return (to, amount, note, mark, more)

    function = LocalFunction(pay)
    arguments = function.arguments(("ann",), {"mark": None, "extra": True})
    assert arguments == {"to": "ann", "amount": 5, "mark": None, "extra": True}
    assert asyncio.run(function(arguments)) == ("ann", 5, None, None, {"extra": True})
    with pytest.raises(TypeError, match="to"):
        function.arguments((), {})
    with pytest.raises(TypeError, match="takes no argument `b`"):
        asyncio.run(LocalFunction(lambda a: a)({"a": 1, "b": 2}))
    with pytest.raises(Terminal, match=r"\*args"):
        LocalFunction(lambda *args: None)


def test_a_stop_iteration_in_a_thread_is_an_error_like_any_other() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(LocalFunction(lambda: next(iter(())))({}), LONG_S))


def test_callables_of_every_kind() -> None:
    class Tool:
        async def __call__(self, value: int) -> int:
            return value + 1

    assert asyncio.run(LocalFunction(Tool())({"value": 1})) == 2
    assert asyncio.run(LocalFunction(Tool().__call__)({"value": 1})) == 2
