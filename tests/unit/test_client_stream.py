"""`session.stream_model` over the real stages: what is shown, what replaces what, and that the reply has the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache

import pytest
from sluicegate.processors.models.streaming import message_digest
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import Dispatch, Intent, Piece
from sluicegate.streams.client import (  # fmt: skip
    AgentClient,
    Ended,
    Failed,
    Held,
    Json,
    Refused,
    Session,
    Started,
    Text,
    ToolCall,
    Withheld,
)
from sluicegate.streams.sdk.feeds import MAX_WAITING_BYTES

from tests.client_gate import LONG_S, Gate, in_session
from tests.driver import Driver
from tests.stream_fakes import Screen
from tests.unit.test_attempts import LARGE, MESSAGES, PERMIT, SMALL, SPARE, answer, contract, files

HOLD = '@id("held")\n@hold("a person agrees")\npermit (principal, action == Action::"triage", resource);\n'
Play = Callable[[Gate, Dispatch], None]


@cache
def release(policy: str = PERMIT, rules: str = "", mode: str = "open") -> CompiledRelease:
    more = {f"contracts/{name}.json": contract(name, stream=mode) for name in (LARGE, SMALL, SPARE)}
    return compile_release(files(policy=policy, more_yaml=rules, **more))


def piece(work: Dispatch, number: int, kind: str = "text", message: str = "", **more: object) -> Piece:
    return Piece(
        work.dispatch_id, work.intent_id, work.agent_id, work.session_id, work.attempt, message or f"m{work.attempt}",
        number, kind, 1, work.stream, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def show(gate: Gate, work: Dispatch, *texts: str) -> None:
    """A message begins and has these texts."""
    gate.show(piece(work, 0, "start", model="m", replaces=work.replaces))
    for number, text in enumerate(texts, 1):
        gate.show(piece(work, number, text=text))


def gate_of(play: Play, result: bytes | None = None, release_: CompiledRelease | None = None) -> Gate:
    """A gate whose executor shows what `play` says, and then answers or, without a result, fails."""
    made = Gate()
    made.driver.deploy(release_ or release())

    def execute(d: Driver, work: Dispatch) -> Decision:
        play(made, work)
        text = f"m{work.attempt}"
        if result is None or (work.attempt == 1 and result.startswith(b"again ")):
            return d.receipt(
                work, "failed", error_class="server_error", error="broke off", message=text, pieces=2,
                streamed=message_digest("?", []),
            )  # fmt: skip
        return d.receipt(work, "finished", result=result.removeprefix(b"again "))

    made.execute = execute
    return made


def parts_of(gate: Gate, **more: object) -> list[object]:
    found: list[object] = []

    async def body(agent: AgentClient, session: Session) -> None:
        async for part in session.stream_model("triage", MESSAGES, timeout_s=LONG_S, **more):  # type: ignore[arg-type]
            found.append(part)

    in_session(gate, body)
    return found


def test_pieces_come_before_the_answer_and_the_answer_ends_it() -> None:
    gate = gate_of(lambda gate, work: show(gate, work, "Hel", "lo"), answer(LARGE, "Hello"))
    parts = parts_of(gate)
    assert parts[:3] == [Started("m1", "m", "open", 1, ""), Text("Hel"), Text("lo")]
    (ended,) = parts[3:]
    assert isinstance(ended, Ended) and ended.matched
    assert isinstance(ended.result, dict) and ended.result["text"] == "Hello"
    asked = [record for record in gate.of(Intent) if record.tool]
    assert [record.kind for record in asked] == ["model_stream"]


def test_a_fallback_begins_a_message_that_names_the_old_one() -> None:
    gate = gate_of(lambda gate, work: show(gate, work, "Go", "od"), b"again " + answer(SMALL, "Good"))
    parts = parts_of(gate)
    assert [p for p in parts if isinstance(p, Started)] == [
        Started("m1", "m", "open", 1, ""), Started("m2", "m", "open", 2, "m1"),
    ]  # fmt: skip
    assert [p.text for p in parts if isinstance(p, Text)] == ["Go", "od", "Go", "od"]
    assert isinstance(parts[-1], Ended) and parts[-1].matched


def test_pieces_of_an_attempt_that_was_given_up_are_dropped() -> None:
    def late(gate: Gate, work: Dispatch) -> None:
        show(gate, work, "Go")
        if work.attempt == 2:
            old = piece(work, 0, "start", "m0", model="m")
            old.attempt = 1
            gate.show(old)
            gate.show(piece(work, 1, text="of the old one", message="m0"))
            gate.show(piece(work, 2, text="od"))

    parts = parts_of(gate_of(late, b"again " + answer(SMALL, "Good")))
    assert [p.message for p in parts if isinstance(p, Started)] == ["m1", "m2"]
    assert [p.text for p in parts if isinstance(p, Text)] == ["Go", "Go", "od"]


def test_what_is_missing_comes_with_the_answer() -> None:
    def holes(gate: Gate, work: Dispatch) -> None:
        show(gate, work, "Hel")
        gate.show(piece(work, 3, text="never shown: a piece before it is lost"))

    parts = parts_of(gate_of(holes, answer(LARGE, "Hello")))
    assert parts[1:3] == [Text("Hel"), Text("lo")] and len(parts) == 4
    whole = parts_of(gate_of(lambda gate, work: None, answer(LARGE, "Hello")))
    assert whole[:2] == [Started("", LARGE, "buffered", 0, ""), Text("Hello")]


def test_what_differs_is_said_and_shown_anew() -> None:
    parts = parts_of(gate_of(lambda gate, work: show(gate, work, "Hullo"), answer(LARGE, "Hello")))
    assert parts[2:4] == [Started("", LARGE, "buffered", 0, "m1"), Text("Hello")]
    assert isinstance(parts[-1], Ended) and not parts[-1].matched


def test_tool_calls() -> None:
    calls: list[Json] = [{"id": "c", "name": "look", "arguments": {"n": 1}}]

    def play(gate: Gate, work: Dispatch) -> None:
        show(gate, work)
        gate.show(piece(work, 1, "call", call_id="c", name="look"))
        gate.show(piece(work, 2, "call", text='{"n": 1}'))

    parts = parts_of(gate_of(play, answer(LARGE, "", tool_calls=calls)))
    assert parts[1:3] == [ToolCall(0, "c", "look", ""), ToolCall(0, "", "", '{"n": 1}')]
    assert isinstance(parts[-1], Ended) and parts[-1].matched


@pytest.mark.parametrize(
    ("result", "rules", "error"),
    [
        (None, "", Failed),
        (
            answer(LARGE, "Write to bob@example.com"),
            "guardrails:\n  - {id: m, on: result, tools: [triage], detect: [email]}\n",
            Withheld,
        ),
    ],
)
def test_a_verdict_after_what_was_shown_is_an_exception(
    result: bytes | None, rules: str, error: type[Exception]
) -> None:
    gate = gate_of(lambda gate, work: show(gate, work, "Write to"), result, release(PERMIT, rules))
    shown: list[object] = []

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(error):
            async for part in session.stream_model("triage", MESSAGES, timeout_s=LONG_S):
                shown.append(part)

    in_session(gate, body)
    assert Text("Write to") in shown and not any(isinstance(p, Ended) for p in shown)


def test_held_and_refused() -> None:
    (held,) = parts_of(gate_of(lambda gate, work: None, b"{}", release(HOLD)))
    assert isinstance(held, Ended) and isinstance(held.result, Held)

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Refused) as raised:
            async for _ in session.stream_model("desk.read", timeout_s=LONG_S):
                pass
        assert raised.value.reason == "wrong_kind"
        await session.close()
        with pytest.raises(Refused) as raised:
            session.stream_model("triage")
        assert raised.value.reason == "unknown_session"

    in_session(gate_of(lambda gate, work: None), body)


def test_pieces_of_others_and_of_nobody_are_passed_over() -> None:
    def play(gate: Gate, work: Dispatch) -> None:
        assert gate.pieces is not None
        show(gate, work, "Hel")
        gate.pieces(b"another-agent", b"\xc3\x01not even read")
        gate.pieces(work.agent_id.encode(), b"\xc3\x01of another version")
        foreign = piece(work, 2, text="of another intent")
        foreign.intent_id = "another"
        gate.show(foreign)
        gate.show(piece(work, 2, text="!" * 40_000))  # larger than any executor sends
        gate.show(piece(work, 2, text="lo"))

    parts = parts_of(gate_of(play, answer(LARGE, "Hello")))
    assert [p.text for p in parts if isinstance(p, Text)] == ["Hel", "lo"]


def test_a_reader_that_is_slow_gets_the_rest_with_the_answer() -> None:
    many = MAX_WAITING_BYTES // 100  # a piece has some 100 bytes of its own
    gate = gate_of(lambda gate, work: show(gate, work, *["x"] * many), answer(LARGE, "x" * many))
    screen = Screen()
    parts = parts_of(gate)
    screen.show(parts)  # type: ignore[arg-type]
    assert screen.text == "x" * many
    waited = [p for p in parts if isinstance(p, Text)]
    assert len(waited) < many, "what does not fit is dropped, not kept"


def test_a_reader_that_goes_away_leaves_nothing_behind() -> None:
    gate = gate_of(lambda gate, work: None, None)
    gate.execute = None

    async def body(agent: AgentClient, session: Session) -> None:
        stream = session.stream_model("triage", MESSAGES, timeout_s=LONG_S)
        first = asyncio.ensure_future(anext(stream))
        await gate.until(Intent, 2)
        await asyncio.sleep(0)
        work = gate.driver.dispatches[-1]
        show(gate, work, "Hel")
        assert isinstance(await first, Started)
        async with asyncio.timeout(LONG_S / 4):
            await stream.aclose()  # type: ignore[attr-defined]
        asker = agent._connected()
        assert len(asker.inbox) == 0 and not asker.feeds._feeds
        gate.after(
            gate.driver.receipt(work, "finished", result=answer(LARGE, "Hello"))
        )  # and the call itself goes on

    in_session(gate, body)


def test_no_pieces_at_all_where_they_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    gate = gate_of(lambda gate, work: show(gate, work, "Hel"), answer(LARGE, "Hello"))

    async def never(deliver: object) -> None:
        raise Retryable("topic `pieces` is not there")

    gate.listen = never  # type: ignore[method-assign]
    assert [p.text for p in parts_of(gate) if isinstance(p, Text)] == ["Hello"]
    assert "comes whole" in caplog.text
