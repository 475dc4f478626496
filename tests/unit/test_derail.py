"""Derailing: limits of a session, what halts it, and that only a person lets it go on."""

from __future__ import annotations

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.guardrails.derail import DIGEST_BYTES, MAX_WITHIN, Derail, call_digest
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.snapshot import decode, digest, encode
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_verify import verify


def driver(**limits: int) -> Driver:
    d = Driver()
    files = dict(release_files())
    files["release.yaml"] += yaml.safe_dump({"derail": limits})
    d.deploy(compile_release(files))
    d.open_session()
    return d


def last(decision: Decision) -> tuple[str, str]:
    outcome = decision.outcomes[-1]
    return outcome.status, outcome.reason


def test_the_same_call_again_and_again_halts_the_session() -> None:
    d = driver(same_call=3, within=5)
    for _ in range(2):
        assert last(d.call("desk.read", {"value": "x"})) == ("dispatched", "")
    assert last(d.call("desk.read", {"value": "y"})) == ("dispatched", "")
    assert last(d.call("desk.read", {"value": "x"})) == ("refused", "loop")
    assert last(d.call("desk.read", {"value": "z"})) == ("refused", "halted")
    assert "resume" in d.replies[-1].for_developer
    d.open_session("other")
    assert last(d.call("desk.read", {"value": "x"}, session="other")) == ("dispatched", "")


def test_calls_further_apart_than_the_window_are_no_loop() -> None:
    d = driver(same_call=2, within=3)
    for n in range(12):
        assert last(d.call("desk.read", {"value": str(n % 3)})) == ("dispatched", "")
    assert last(d.call("desk.read", {"value": "2"})) == ("refused", "loop")


def test_refused_calls_count_for_a_loop() -> None:
    d = driver(same_call=3)
    for tool, reason in (("desk.never", "no_permit"), ("no.such.tool", "unknown_tool")):
        d.open_session(tool)
        assert [last(d.call(tool, session=tool)) for _ in range(3)] == [
            ("refused", reason), ("refused", reason), ("refused", "loop"),
        ]  # fmt: skip


def test_calls_without_a_result_halt_and_a_result_starts_the_count_anew() -> None:
    d = driver(without_result=3)
    for n in range(3):
        call = d.call("desk.read", {"value": str(n)})
    d.finish(call.dispatches[0])
    for n in range(3):
        assert last(d.call("desk.read", {"value": str(n)})) == ("dispatched", "")
    assert last(d.call("desk.read")) == ("refused", "no_progress")


def test_a_session_makes_as_many_calls_as_it_may() -> None:
    d = driver(calls=4)
    for _ in range(4):
        d.finish(d.call("desk.read").dispatches[0])
    assert last(d.call("desk.read")) == ("refused", "step_cap")
    assert last(d.call("desk.read")) == ("refused", "halted")


def test_nothing_is_limited_that_is_not_written() -> None:
    d = driver()
    for _ in range(200):
        assert last(d.call("desk.never", {"value": "x"})) == ("refused", "no_permit")
    assert d.state.sessions[f"{AGENT}\0{SESSION}"].recent == b""


def test_what_was_dispatched_before_goes_on() -> None:
    d = driver(calls=1)
    dispatch = d.call("desk.pay").dispatches[0]
    assert last(d.call("desk.read")) == ("refused", "step_cap")
    assert last(d.finish(dispatch)) == ("released", "")


def test_the_state_is_bounded_and_folds_back() -> None:
    d = driver(same_call=MAX_WITHIN)
    for n in range(2 * MAX_WITHIN):
        d.call("desk.read", {"value": str(n)})
    session = d.state.sessions[f"{AGENT}\0{SESSION}"]
    assert len(session.recent) == MAX_WITHIN * DIGEST_BYTES
    assert digest(decode(encode(d.state))) == digest(d.state)


@given(st.dictionaries(st.text(max_size=3), st.integers(-5, 5) | st.text(max_size=3), max_size=4))
def test_the_same_call_is_the_same_whatever_its_order_and_spaces(arguments: dict[str, object]) -> None:
    limits = Derail(same_call=2, within=0, without_result=0, calls=0)
    other = orjson.dumps(dict(reversed(arguments.items())), option=orjson.OPT_INDENT_2)
    same = call_digest(limits, "t", orjson.dumps(arguments))
    assert call_digest(limits, "t", other) == same
    assert call_digest(limits, "u", other) != same
    assert len(same) == DIGEST_BYTES


@pytest.mark.parametrize(
    "limits", [{"same_call": 1}, {"same_call": 5, "within": 4}, {"within": 100}, {"calls": -1}, {"steps": 3}]
)
def test_limits_that_cannot_be_meant_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(Terminal, match="derail"):
        driver(**limits)


def resume(d: Driver, who: str = "ana", session: str = SESSION, **more: object) -> Decision:
    record = r.Review(d.new_id("r"), AGENT, session, "resume", b"", who, d.now, "looked at it")
    return d.feed("reviews", record, **more)  # type: ignore[arg-type]


def halted() -> Driver:
    d = driver(same_call=2)
    d.control_event("people.registered", people=[{"person_id": "ana", "name": "Ana", "roles": []}])
    d.call("desk.read")
    assert last(d.call("desk.read")) == ("refused", "loop")
    return d


def test_a_person_resumes_and_every_count_begins_anew() -> None:
    d = halted()
    resumed = resume(d)
    assert last(resumed) == ("resumed", "")
    facts = resumed.outcomes[0].facts
    assert isinstance(facts, r.SessionFacts)
    assert (facts.kind, facts.on_behalf_of) == ("session.resume", "ana")
    assert (resumed.replies[0].status, resumed.replies[0].session_id) == ("resumed", SESSION)
    assert last(d.call("desk.read")) == ("dispatched", "")
    assert last(d.call("desk.read")) == ("refused", "loop")
    assert last(resume(d)) == ("resumed", "")
    assert digest(decode(encode(d.state))) == digest(d.state)
    assert verify(d).names == set()


def test_only_a_person_resumes() -> None:
    d = halted()
    for who, reason in ((AGENT, "agent_cannot_review"), ("nobody", "unknown_person"), ("", "unknown_person")):
        assert last(resume(d, who)) == ("noted", reason)
        assert last(d.call("desk.set")) == ("refused", "halted")
    assert last(resume(d, stale=True)) == ("noted", "control_stale")
    assert last(resume(d)) == ("resumed", "")


@pytest.mark.parametrize("session", ["other", "", "\0", "x" * 300])
def test_what_is_not_halted_is_not_resumed(session: str) -> None:
    assert last(resume(halted(), session=session)) == ("noted", "not_halted")
    d = driver(same_call=2)
    assert last(resume(d)) == ("noted", "not_halted")
