"""Streamed answers of the model adapter, against a real server on loopback that fails on purpose in the middle of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Answer, Failed, Finished, Streamed
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import Gates, ModelAdapter
from sluicegate.executors.outlet import FREE_PIECES, LATER_CHARS, KafkaMessage
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.processors.models.streaming import result_digest
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.records import Piece

from tests.executor_fakes import dispatch
from tests.servers.faults import STREAM_KINDS, Journal
from tests.servers.model_server import model_server
from tests.stream_fakes import MemoryOutlet, OneGate
from tests.unit.test_model_adapter import TOOLS, called, say
from tests.unit.test_model_call import files

SECRET = "sk-canary-5f2c9e7b"
TWO = "The first sentence stands here. The second one follows it."


@dataclass
class Told:
    """What became of one question."""

    answer: Answer
    outlet: MemoryOutlet
    journal: Journal = field(default_factory=Journal)

    @property
    def pieces(self) -> list[Piece]:
        return self.outlet.pieces

    @property
    def streamed(self) -> Streamed:
        assert isinstance(self.answer, Finished | Failed) and self.answer.streamed is not None
        return self.answer.streamed

    @property
    def result(self) -> dict[str, object]:
        assert isinstance(self.answer, Finished), self.answer
        value = orjson.loads(self.answer.result)
        assert isinstance(value, dict)
        return value

    @property
    def failed(self) -> Failed:
        assert isinstance(self.answer, Failed), self.answer
        return self.answer


def ask(
    text: str = TWO, fault: str = "ok", mode: str = "open", *, timeout_s: float = 5.0, options: dict[str, object] | None = None,
    outlet: MemoryOutlet | None = None, gates: Gates | None = None, around: bytes = b"", tool: str = "model.triage",
    stopped: Callable[[], str] = str, **executor: object,
) -> Told:  # fmt: skip
    journal, outlet = Journal(), outlet or MemoryOutlet()

    async def main() -> Answer:
        async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            adapter = ModelAdapter(
                Egress(place), {}, environ={"MODEL_KEY": SECRET}, outlet=outlet, gates=gates,
                stopped=lambda dispatch: stopped(),
            )  # fmt: skip
            contract = {
                "kind": "model", "url": f"http://{place}/{fault}/v1", "model": "small", "api_key": "env:MODEL_KEY", **executor,
            }  # fmt: skip
            arguments = {"messages": [{"role": "user", "content": text}], **(options or {})}
            work = dispatch(
                1, executor=orjson.dumps(contract), arguments=orjson.dumps(arguments), tool_class="read_only"
            )
            work.stream, work.tool, work.around = mode, tool, around
            try:
                return await adapter.call(work, timeout_s)
            finally:
                await adapter.close()

    return Told(asyncio.run(main()), outlet, journal)


def test_an_open_answer_leaves_word_by_word_and_is_whole_at_the_end() -> None:
    told = ask()
    assert told.outlet.text == told.result["text"] == TWO
    assert told.outlet.kinds[0] == "start" and told.outlet.kinds[-1] == "end"
    assert [p.number for p in told.pieces] == list(range(len(told.pieces))), "a place each, without holes"
    assert (told.pieces[0].model, told.pieces[0].mode) == ("small", "open")
    assert told.streamed.pieces == len(told.pieces) > 3
    assert told.streamed.digest == told.pieces[-1].digest == result_digest(orjson.dumps(told.result))
    assert told.result["usage"] == {"input_tokens": 10, "output_tokens": 10}
    body = told.journal.bodies[0]
    assert isinstance(body, dict)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_tool_calls_are_shown_as_they_come_and_read_as_ever() -> None:
    told = ask(called("look", '{"n": 123456}'), options={"tools": TOOLS})
    calls = [p for p in told.pieces if p.kind == "call"]
    assert (calls[0].name, calls[0].index, bool(calls[0].call_id)) == ("look", 0, True)
    assert "".join(p.text for p in calls) == '{"n": 123456}'
    assert told.streamed.digest == result_digest(orjson.dumps(told.result))


@pytest.mark.parametrize(
    ("fault", "error_class", "shown"),
    [
        ("cut_after=4", "server_error", True),
        ("ends_after=4", "server_error", True),
        ("error_after=4", "server_error", True),
        ("error_after=4,code=content_filter", "content_policy", True),
        ("stall_after=4", "timeout", True),
        ("stall_after=0", "timeout", False),
        ("slow,wait_s=30", "timeout", False),
        ("status=429,retry_after=7", "rate_limit", False),
        ("status=503", "overload", False),
        ("acts_then_drops", "unreachable", False),
    ],
)
def test_a_stream_that_fails_says_how_and_what_was_shown(fault: str, error_class: str, shown: bool) -> None:
    told = ask(fault=fault, first_token_ms=400, idle_ms=200)
    assert told.failed.error_class == error_class
    assert told.failed.sent
    if shown:
        assert told.outlet.text == "The first sentence "
        assert told.streamed.digest and told.streamed.pieces == len(told.pieces)
    else:
        assert told.failed.streamed is None and not told.pieces
    assert "end" not in told.outlet.kinds, "nothing says that it is whole"
    assert told.failed.retry_after_ms == (7_000 if "429" in fault else 0)


@pytest.mark.parametrize("fault", ["stall_after=4", "slow,wait_s=300"])
def test_a_quarantine_ends_a_stream(fault: str) -> None:
    """In the middle of its answer, and before the first word of it: what was shown is told, and nobody says how much was used."""
    outlet = MemoryOutlet()

    def stopped() -> str:
        here = outlet.text == "The first sentence " or "slow" in fault
        return "tool `model.triage` is quarantined: a test" if here else ""

    told = ask(fault=fault, outlet=outlet, idle_ms=300_000, timeout_s=300.0, stopped=stopped)
    assert told.failed.error_class == "quarantined" and told.failed.sent
    assert told.failed.error.startswith("tool `model.triage` is quarantined: a test")
    assert "end" not in outlet.kinds, "nothing says that it is whole"
    if outlet.text:
        assert told.streamed.digest and told.streamed.pieces == len(told.pieces)


def test_a_quarantine_of_something_else_ends_nothing() -> None:
    assert ask(fault="gap_s=0.2").result["text"] == TWO


def test_an_answer_that_takes_longer_than_its_first_part_may() -> None:
    told = ask(fault="gap_s=0.06", first_token_ms=400, idle_ms=3_000)
    assert told.result["text"] == TWO


def test_what_the_server_leaves_out() -> None:
    assert ask(fault="no_end").result["text"] == TWO
    usage = ask(fault="no_usage").result["usage"]
    assert usage == {"input_tokens": None, "output_tokens": None}, "which is not none: the upper bound counts"
    quiet = ask(stream_usage=False)
    assert "stream_options" not in quiet.journal.bodies[0]  # type: ignore[operator]
    assert quiet.result["text"] == TWO


def test_how_sure_it_was_adds_up() -> None:
    assert ask(say(logprob=-0.5, message={"content": "a b c"}), logprobs=True).result["confidence"] == 0.607


def test_a_server_that_knows_no_streams() -> None:
    told = ask(fault="whole")
    assert told.outlet.text == told.result["text"] == TWO
    assert told.streamed.digest == result_digest(orjson.dumps(told.result))


def test_another_model_than_the_pinned_one() -> None:
    told = ask(say(message={"content": "from elsewhere"}, model="other"), pinned="small")
    assert told.failed.error_class == "model_changed"
    assert not told.pieces


def test_an_answer_that_is_no_use_was_shown_and_is_said_so() -> None:
    told = ask("no json at all", options={"response_format": {"type": "json_object"}})
    assert told.failed.error_class == "malformed_result"
    assert told.outlet.text == "no json at all" and told.streamed.pieces == len(told.pieces)


def test_a_stream_that_never_ends_is_bounded() -> None:
    told = ask(("word" * 50 + " ") * 1_000, max_tokens=30_000, timeout_s=30.0)
    assert told.failed.error_class == "result_too_large"
    assert 60_000 < len(told.outlet.text) <= 65_536
    told = ask("x" * 300_000)
    assert (told.failed.error_class, told.failed.error) == (
        "malformed_result",
        "an event of the stream never ends",
    )


def test_a_secret_is_hidden_however_it_is_cut() -> None:
    parts = " ".join(SECRET)  # a word each: nothing to hide
    told = ask(f"the key is {SECRET} {parts}")
    assert SECRET not in told.outlet.text
    assert told.outlet.text == told.result["text"] == f"the key is *** {parts}"
    chopped = ask(f"chop:the key is {SECRET} and no other")
    assert chopped.outlet.text == "the key is *** and no other"
    assert SECRET not in str(chopped.result)


def test_every_fault_of_streams_is_met_here() -> None:
    """A fault nobody meets proves nothing."""
    assert {"cut_after", "ends_after", "stall_after", "error_after", "no_usage", "no_end", "whole"} == set(
        STREAM_KINDS
    )


# -- the gate ----------------------------------------------------------------------------------------------------------


def release(guardrails: str = "", **executor: object) -> CompiledRelease:
    made = files(stream="gated", **executor)
    made["release.yaml"] += guardrails
    return compile_release(made)


CARDS = """
guardrails:
  - {id: no-mail, on: result, tools: ["model.*"], detect: [email], verdict: withhold}
  - {id: cards, on: result, tools: ["model.*"], detect: [card], verdict: redact}
"""


def gated(text: str, rules: str = CARDS, fault: str = "ok", **more: object) -> Told:
    return ask(text, fault, "gated", gates=OneGate(release(rules)), **more)  # type: ignore[arg-type]


def test_a_gated_answer_leaves_by_sentences() -> None:
    told = gated(TWO + " And a third")
    texts = [p.text for p in told.pieces if p.kind == "text"]
    assert "".join(texts) == told.result["text"]
    assert told.streamed.digest == result_digest(orjson.dumps(told.result))
    stalled = gated(TWO + " And a third", fault="stall_after=8", idle_ms=200)
    assert stalled.outlet.text == "The first sentence stands here. ", "the second one was not whole"


def test_the_first_hit_closes_the_gate_and_the_answer_goes_on_to_the_ledger() -> None:
    text = "All is well here. Write to bob@example.com now. This is never shown. Nor this."
    told = gated(text)
    assert told.outlet.text == "All is well here. "
    assert told.result["text"] == text, "the ledger judges the whole of it"
    assert told.streamed.digest != result_digest(orjson.dumps(told.result))


def test_what_a_rule_takes_out_is_not_shown() -> None:
    told = gated("Your card 4111 1111 1111 1111 is blocked. Call us.")
    assert "4111" not in told.outlet.text
    assert told.outlet.text.startswith("Your card ") and told.outlet.text.endswith(" is blocked. Call us.")


def test_tool_calls_pass_the_gate_whole() -> None:
    told = gated(called("look", '{"n": 1}'), options={"tools": TOOLS})
    (call,) = [p for p in told.pieces if p.kind == "call"]
    assert (call.name, orjson.loads(call.text)) == ("look", {"n": 1})
    bad = gated(called("look", '{"n": "bob@example.com"}'))
    assert bad.result["tool_calls"] and not [p for p in bad.pieces if p.kind == "call"]


def test_rules_see_what_stands_around_the_answer() -> None:
    rule = """
guardrails:
  - {id: not-here, on: result, tools: ["model.*"], when: 'environment == "prod"'}
"""
    assert gated(TWO, rule, around=b'{"environment":"prod"}').outlet.text == ""
    assert gated(TWO, rule, around=b'{"environment":"dev"}').outlet.text == TWO
    assert gated(TWO, rule, around=b"{}").outlet.text == "", "a rule that errors closes the gate"


def test_without_its_gate_or_an_outlet_an_answer_comes_whole() -> None:
    for told in (
        ask(mode="gated", gates=OneGate(None)),
        ask(mode="gated", gates=None),
        ask(mode="open", outlet=MemoryOutlet(takes=False)),
        ask(mode=""),
    ):
        assert told.result["text"] == TWO and not told.pieces
        assert isinstance(told.answer, Finished) and told.answer.streamed is None
        assert told.journal.bodies[0]["stream"] is False  # type: ignore[index]


def test_kafka_away_in_the_middle_costs_the_showing_only() -> None:
    told = ask(outlet=MemoryOutlet(failing=True))
    assert told.result["text"] == TWO and not told.pieces


def test_a_redaction_that_would_reach_back_closes_the_gate() -> None:
    gate = StreamGate(release(CARDS), "model.triage", {})
    long = "word " * 200
    shown = gate.feed(long + "4111 1111 ")
    assert shown.endswith("4111 1111 "), "cut at a blank, for want of an end"
    rest = "1111 1111 is your card, and this sentence is long enough to be looked at by itself. "
    assert gate.feed(rest) == "" and gate.closed
    assert gate.finish({"text": long + "4111 1111 " + rest}) == ("", [])


def test_pieces_of_a_message_are_bounded_however_fast_they_leave() -> None:
    sent: list[Piece] = []

    async def send(pieces: list[Piece]) -> None:
        sent.extend(pieces)

    async def main() -> None:
        work = dispatch(1)
        work.stream = "open"
        message = KafkaMessage(work, send, lambda: 1)
        message.start("m")
        for _ in range(20_000):
            message.text("ab ")
            await asyncio.sleep(0)
        await message.close(b"x")
        assert message.pieces == len(sent) < FREE_PIECES + 60_000 // LATER_CHARS + 3

    asyncio.run(main())
    assert "".join(p.text for p in sent) == "ab " * 20_000
    assert [p.number for p in sent] == list(range(len(sent))) and sent[-1].kind == "end"


def test_many_small_parts_make_a_bounded_number_of_pieces() -> None:
    told = ask(" ".join("w" for _ in range(9_000)), timeout_s=30.0, max_tokens=20_000)
    assert told.outlet.text == told.result["text"]
    assert len(told.pieces) < 1_300
    digest = hashlib.sha256(told.outlet.text.encode()).hexdigest()
    assert digest == hashlib.sha256(str(told.result["text"]).encode()).hexdigest()
