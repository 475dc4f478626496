"""`explain` of a model call that fell back twice, from a ledger in memory."""

from __future__ import annotations

import hashlib

import pytest
from sluicegate.processors.models.streaming import message_digest
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams.commands.explain import _print
from sluicegate.streams.inspect.explain import tell
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.inspect.story import Story

from tests.driver import PERSON, Driver
from tests.unit.test_attempts import LARGE, MESSAGES, SMALL, SPARE, answer, ask, contract, driver, next_of
from tests.unit.test_prompt_read import TEXT
from tests.unit.test_prompt_read import driver as reader
from tests.unit.test_scores import score


def story(d: Driver, intent_id: str) -> Story:
    """What `explain` tells."""
    events = []
    for record in d.records:
        outcome = codec.decode_as(r.Outcome, record.value)
        header = codec.decode_as(r.Header, outcome.header)
        if header.intent_id == intent_id:
            events.append(LedgerEvent(0, record.offset, header, codec.decode(outcome.facts), outcome.content))
    return tell(events, None, d.controls, d.keys.open)


def test_two_fallbacks_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    d = driver(**{"prompts/triage.md": "You are $role."})
    first = ask(d, prompt="triage", variables={"role": "a clerk"})
    third = next_of(d, next_of(d, first, "rate_limit"), "overload")
    d.receipt(third, "finished", result=answer(SPARE, confidence=0.8))
    told = story(d, first.intent_id)
    assert [(s.status, s.by) for s in told.steps if s.stage in ("plan", "execute")] == [
        ("dispatched", f"asks {LARGE} (first)"),
        ("dispatched", f"asks {SMALL} (rate_limit next)"),
        ("dispatched", f"asks {SPARE} (overload next)"),
        ("released", f"{SPARE} as {SPARE}, confidence 0.800"),
    ]
    permitted = next(s for s in told.steps if s.status == "permitted")
    assert f"{LARGE} score 1000: ok; {SMALL} score 1000: ok; {SPARE} score 1000: ok" in permitted.detail
    assert "prompt `triage` sha256 " in permitted.detail
    assert [s.detail for s in told.steps if s.status == "dispatched"][1:] == ["as ordered", "as ordered"]
    _print(told)
    assert f"asks {SPARE} (overload next)" in " ".join(capsys.readouterr().out.split())


def test_a_stream_that_broke_off_is_told_under_a_budget_too() -> None:
    modes = {f"contracts/{name}.json": contract(name, stream="open") for name in (LARGE, SMALL, SPARE)}
    d = driver(more_yaml="budgets: [{id: words, scope: agent, unit: tokens, cap: 10000}]\n", **modes)
    (first,) = d.call("triage", {"messages": MESSAGES}, kind="model_stream").dispatches
    second = next_of(d, first, "server_error", message="aa11", pieces=3, streamed=message_digest("Hel", []))
    whole = {"message": "bb22", "pieces": 4, "streamed": message_digest("hi", [])}
    d.receipt(second, "finished", result=answer(SMALL), **whole)
    told = story(d, first.intent_id)
    assert [(s.by, s.detail) for s in told.steps if s.stage in ("plan", "execute")] == [
        (f"asks {LARGE} (first), streamed open", ""),
        (f"asks {SMALL} (server_error next), streamed open, replaces message aa11", "as ordered"),
        (
            f"{SMALL} as {SMALL}, streamed open, message bb22 of 4 pieces, as released, sha256 {message_digest('hi', []).hex()[:12]}",
            "",
        ),
    ]


def test_what_was_read_and_how_good_it_was_are_told() -> None:
    d = reader()
    intent = d.intent("prompt.read", {"prompt": "triage", "variables": {"role": "x", "plan": "y"}})
    d.feed("intents", intent)
    d.feed("reviews", score(d, 8_000, intent_id=intent.intent_id))
    told = story(d, intent.intent_id)
    digest = hashlib.sha256(TEXT.encode()).hexdigest()[:12]
    assert next(s for s in told.steps if s.status == "released").detail == f"prompt `triage` sha256 {digest}"
    said = next(s for s in told.steps if s.status == "scored")
    assert (said.by, said.detail) == (PERSON, f"quality 0.8 by person `{PERSON}`")
    assert told.state == "released"
