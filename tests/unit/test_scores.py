"""Scores by people and evaluators: which count, which are noted and why, and that they change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.releases.evaluators import EvaluatorRow, sampled, score_id
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.processors.sessions import closed
from sluicegate.processors.state import HOUR_US, SESSION_IDLE_US, session_key
from sluicegate.schemas import records as r

from tests.driver import AGENT, OTHER_AGENT, PERSON, SESSION, Driver, release_files
from tests.signed_driver import SignedDriver
from tests.unit.test_reviews import intact

DAY_US = 24 * HOUR_US
JUDGE = "evaluators:\n  - {name: judge, python: judges.polite, sample: 0.25}\n"


def score(d: Driver, value: int = 9_000, **more: object) -> r.Score:
    first = r.Score(
        d.new_id("score"), AGENT, SESSION, PERSON, "person", "quality", value, d.now, "", "well done"
    )
    return replace(first, **more)  # type: ignore[arg-type]


def said(d: Driver, one: r.Score) -> tuple[str, str]:
    decision = d.feed("reviews", one)
    assert len(decision.outcomes) == 1 and not decision.replies and not decision.dispatches
    (outcome,) = decision.outcomes
    assert outcome.stage == "score"
    return outcome.status, outcome.reason


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.open_session()
    return driver


def test_a_score_counts_while_the_session_is_open_and_three_days_after(d: Driver) -> None:
    assert said(d, score(d)) == ("scored", "")
    d.close_session()
    outcome = d.feed("reviews", score(d, 0)).outcomes[0]
    facts = outcome.facts
    assert isinstance(facts, r.ScoreFacts)
    assert (facts.value, facts.scorer, facts.release) == (0, PERSON, d.control.deployed)
    assert (outcome.origin.session_id, outcome.origin.subject) == (SESSION, "person-1")
    assert b"well done" in (outcome.content or b"")
    d.now += closed.CLOSED_US - HOUR_US
    assert said(d, score(d)) == ("scored", "")
    d.now += 2 * HOUR_US
    d.open_session("another")  # the hour passes
    assert said(d, score(d)) == ("noted", "nothing_to_score")


def test_the_ids_that_are_remembered_are_bounded(d: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer that went mad makes no partition grow, nor takes the room that calls need."""
    first = score(d)
    assert said(d, first) == ("scored", "")
    monkeypatch.setattr("sluicegate.processors.sessions.scores.MAX_REMEMBERED_IDS", len(d.state.intents))
    assert said(d, score(d)) == ("noted", "overloaded")
    assert said(d, first) == ("noted", "duplicate")


def test_of_an_intent(d: Driver) -> None:
    called = d.call("desk.read").outcomes[0].origin.intent_id
    assert said(d, score(d, intent_id=called)) == ("scored", "")
    assert said(d, score(d, intent_id="no such intent")) == ("noted", "nothing_to_score")
    d.open_session("other")
    assert said(d, score(d, intent_id=called, session_id="other")) == ("noted", "nothing_to_score")


BAD = {
    "out of range": ({"value": 10_001}, "score_out_of_range"),
    "below nought": ({"value": -1}, "score_out_of_range"),
    "of a session nobody opened": ({"session_id": "nowhere"}, "nothing_to_score"),
    "of another agent's session": ({"agent_id": OTHER_AGENT}, "nothing_to_score"),
    "by nobody": ({"scorer": "stranger"}, "unknown_person"),
    "by the agent itself": ({"scorer": AGENT}, "agent_cannot_review"),
    "by an evaluator nobody named": ({"scorer": "judge", "kind": "evaluator"}, "unknown_evaluator"),
    "by a person who says evaluator": ({"kind": "evaluator"}, "unknown_evaluator"),
    "of no kind": ({"kind": "robot"}, "unknown_metric"),
    "without a metric": ({"metric": ""}, "unknown_metric"),
    "without an id": ({"score_id": ""}, "bad_identifier"),
    "old": ({"issued_at": 1}, "too_old"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_count_says_why(d: Driver, name: str) -> None:
    changes, reason = BAD[name]
    assert said(d, score(d, **changes)) == ("noted", reason)


def test_an_id_counts_once(d: Driver) -> None:
    one = score(d)
    assert said(d, one) == ("scored", "")
    assert said(d, one) == ("noted", "duplicate")
    assert said(d, replace(one, value=1)) == ("noted", "id_conflict")
    d.now += 25 * HOUR_US
    d.open_session("another")
    assert said(d, one) == ("noted", "too_old"), "its id is forgotten, but nobody takes it any more"


def test_an_evaluator_that_the_release_names(d: Driver) -> None:
    files = release_files()
    d.deploy(compile_release({**files, "release.yaml": files["release.yaml"] + JUDGE}))
    assert said(d, score(d, scorer="judge", kind="evaluator")) == ("scored", "")


def test_a_session_that_was_idle_is_over_and_can_be_scored(d: Driver) -> None:
    d.now += SESSION_IDLE_US + HOUR_US
    d.open_session("another")
    assert session_key(AGENT, SESSION) not in d.state.sessions
    assert said(d, score(d)) == ("scored", "")


def test_what_is_remembered_of_closed_sessions_is_bounded(d: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "MAX_CLOSED", 3)
    for number in range(5):
        d.open_session(f"s-{number}")
        d.close_session(f"s-{number}")
    assert [name.partition("\0")[2] for name in d.state.closed] == ["s-2", "s-3", "s-4"]
    d.open_session("s-3")
    d.close_session("s-3")
    assert [name.partition("\0")[2] for name in d.state.closed] == ["s-2", "s-4", "s-3"]
    again = snapshot.decode(snapshot.encode(d.state))
    assert list(again.closed.items()) == list(d.state.closed.items())


def test_verify_knows_them(d: Driver) -> None:
    said(d, score(d))
    said(d, score(d, 20_000))
    d.call("desk.read")
    d.close_session()
    said(d, score(d))
    intact(d)


def test_keys_and_kinds_go_together() -> None:
    d = SignedDriver()
    d.open_session()
    assert said(d, score(d)) == ("scored", "")
    decision = d.feed("reviews", score(d, kind="evaluator", scorer=PERSON))
    assert (decision.outcomes[0].status, decision.outcomes[0].reason) == ("unreadable", "wrong_signer")


def test_a_sample_is_the_same_everywhere_and_as_large_as_said() -> None:
    row = EvaluatorRow(name="judge", python="a.b", sample=0.25)
    drawn = [sampled(row, AGENT, f"session-{n}") for n in range(4_000)]
    assert 900 < sum(drawn) < 1_100
    assert drawn == [sampled(row, AGENT, f"session-{n}") for n in range(4_000)]
    assert not any(
        sampled(row.model_copy(update={"agents": ["b"]}), AGENT, f"session-{n}") for n in range(99)
    )
    assert score_id(row, AGENT, "s") == score_id(row, AGENT, "s") != score_id(row, AGENT, "t")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("[{name: a, python: x.y}, {name: a, python: x.y}]", "stands twice"),
        ("[{name: a}]", "either `python` or `contract`"),
        ("[{name: a, python: x.y, contract: z}]", "either `python` or `contract`"),
        ("[{name: a, contract: desk.read, prompt: p}]", "no model contract"),
        ("[{name: a, python: x.y, sample: 1.5}]", "less than or equal to 1"),
        ("[{name: a, python: x.y, pythn: 1}]", "not permitted"),
    ],
)
def test_a_release_that_says_it_wrong_does_not_check(rows: str, said: str) -> None:
    files = release_files()
    _, findings = build({**files, "release.yaml": files["release.yaml"] + f"evaluators: {rows}\n"})
    assert any(said in f.sentence for f in findings), findings
