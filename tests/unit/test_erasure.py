"""Erasure in decisions: from the event on nothing of the subject is read, told or begun, and everything still folds."""

from __future__ import annotations

import pytest
from sluicegate.processors import erasure
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control import policy as control_policy
from sluicegate.processors.control.control import Control
from sluicegate.processors.erasure import Erasure, erased_by, first_name, key_name, key_names
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.policy.check import check_control
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, read, release_files
from tests.unit import test_cache, test_memory
from tests.unit.test_reviews import intact

PERSON = "person-1"


def erase(d: Driver, *subjects: str) -> Control:
    """As `sluicegate erase` does: the event, then the keys."""
    chosen = subjects or (PERSON,)
    names = [name for one in chosen for name in key_names(d.control, one)]
    control = d.control_event(erasure.KIND, who="olga", subjects=list(chosen))
    d.keys.destroyed |= set(names)
    return control


def told(decision: Decision) -> list[tuple[str, str]]:
    return [(o.status, o.reason) for o in decision.outcomes]


def opened(**more: object) -> Driver:
    d = Driver()
    d.open_session(**more)  # type: ignore[arg-type]
    return d


# -- which content, by which event ----------------------------------------------------------------------------------------


def test_content_is_erased_by_the_event_after_it() -> None:
    d = opened()
    old = d.state.sessions[f"{AGENT}\0session-1"].subject
    assert (old, erased_by(d.control, old)) == (PERSON, None)
    first = erase(d).head
    assert erased_by(d.control, PERSON) == Erasure(first, d.control.at, "olga")
    assert erased_by(d.control, "person-2") is None
    d.open_session("session-2")
    new = d.state.sessions[f"{AGENT}\0session-2"].subject
    assert new == key_name(d.control, PERSON) == f"{PERSON}#{first}"
    assert (first_name(d.control, new), erased_by(d.control, new)) == (PERSON, None)
    second = erase(d).head
    found = [erased_by(d.control, name) for name in key_names(d.control, PERSON)]
    assert [one and one.event for one in found] == [first, second, None]


def test_a_name_that_only_looks_like_a_later_one() -> None:
    d = opened()
    erase(d)
    for name in (f"{PERSON}#999999", f"{PERSON}#", "nobody#5", "#", ""):
        assert first_name(d.control, name) == name
        assert erased_by(d.control, name) is None


def test_erasures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "MAX_ERASED", 2)
    monkeypatch.setattr(erasure, "MAX_TIMES", 2)
    d = opened()
    erase(d, "a", "b", "c")
    assert sorted(d.control.erased) == ["a", "b"]
    erase(d, "a")
    erase(d, "a")
    assert len(d.control.erased["a"]) == 2


def test_who_may_is_said_by_control_cedar() -> None:
    files = dict(release_files())
    files["control.cedar"] = """
@id("privacy") @quorum("2")
permit (principal in Role::"privacy", action == Action::"subject.erased", resource) when { context.subjects <= 10 };
"""
    d = opened()
    d.deploy(compile_release(files))
    d.control_event("people.registered", people=[{"person_id": "pia", "roles": ["privacy"]}])
    body: dict[str, object] = {"subjects": [PERSON]}
    assert "does not permit" in control_policy.asked(d.control, "person-2", erasure.KIND, body).reason
    assert control_policy.asked(d.control, "pia", erasure.KIND, body).quorum == 2
    assert "takes 2 people" in control_policy.may_deploy(d.control, "pia", erasure.KIND, body)
    d.control_event(erasure.KIND, who="person-2", **body)
    assert d.control.erased == {}
    assert check_control(compile_release(files).control_book.policies) == []  # type: ignore[union-attr]


def test_an_older_reader_goes_on() -> None:
    d = opened()
    facts = r.ControlFacts("subject.erased", "olga", "", b'{"subjects": 5}')
    after, problem = control_fold.fold_any(d.control, d.control.head + 1, facts)
    assert (after.erased, problem) == ({}, "TypeError")


# -- what is decided after it ---------------------------------------------------------------------------------------------


def test_a_session_of_before_takes_no_more() -> None:
    d = opened()
    erase(d)
    assert told(d.call()) == [("refused", erasure.REASON)]
    assert told(d.say("more about me")) == [("session_refused", erasure.REASON)]
    assert told(d.hand_off("slack-agent-command-r", "s-9")) == [("session_refused", erasure.REASON)]
    assert told(d.close_session()) == [("closed", "")]
    d.open_session("session-2")
    assert told(d.call(session="session-2"))[-1] == ("dispatched", "")
    intact(d)


def test_a_running_call_ends_and_its_result_opens_for_nobody() -> None:
    d = opened()
    [dispatch] = d.call("desk.pay", {"value": "1"}).dispatches
    d.claim(dispatch)
    erase(d)
    assert told(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("released", "")]
    last = read(d.records[-1])
    assert last.sealed is not None
    assert d.keys.open(last.header.subject, last.header.event_id, last.sealed) is None
    intact(d)


def test_an_unclaimed_offer_is_not_made_again() -> None:
    d = opened()
    assert d.call("desk.read").dispatches
    erase(d)
    assert told(d.tick(60_000_000)) == [("expired", erasure.REASON)]
    intact(d)


def test_a_held_call_is_not_approved() -> None:
    d = opened()
    held = d.call("desk.ask", {"value": "1000"})
    assert held.outcomes[-1].status == "held"
    erase(d)
    assert told(d.review(held))[-1] == ("refused", erasure.REASON)
    intact(d)


def test_an_answer_is_not_told_again() -> None:
    d = opened()
    intent = d.intent()
    d.finish(d.feed("intents", intent).dispatches[0], b'{"secret":1}')
    assert d.feed("intents", intent).replies[-1].result == b'{"secret":1}'  # the test can fail
    erase(d)
    for _ in range(2):  # and after the session is over
        again = d.feed("intents", intent)
        assert told(again) == [("noted", erasure.REASON)]
        assert (again.replies[-1].status, again.replies[-1].result) == ("refused", None)
        d.close_session()
    intact(d)


def test_a_remembered_value_is_gone_though_its_input_stands() -> None:
    d = test_memory.driver()
    kept = {"scope": "agent", "key": "note"}
    d.call("memory.write", {**kept, "value": "she lives in Ulm"})
    assert b"Ulm" in (d.call("memory.read", kept).replies[-1].result or b"")  # the test can fail
    before = len(d.state.memory)
    erase(d, d.state.sessions[f"{AGENT}\0session-1"].subject)
    d.open_session("session-2")
    answer = d.call("memory.read", kept, session="session-2").replies[-1].result or b""
    assert b'"gone":true' in answer and b"Ulm" not in answer
    assert len(d.state.memory) == before
    intact(d)


def test_a_cached_result_answers_nobody() -> None:
    d = test_cache.driver()
    d.finish(test_cache.read(d).dispatches[0], b'{"secret":1}')
    d.open_session("session-2", user="person-2")
    hit = test_cache.read(d, session="session-2")
    assert hit.replies[-1].result == b'{"secret":1}'  # the test can fail
    erase(d)
    again = test_cache.read(d, session="session-2")
    assert len(again.dispatches) == 1  # it is asked anew
    intact(d)


@pytest.mark.parametrize("subject", [PERSON, f"agent:{AGENT}"])
def test_who_comes_back_is_sealed_under_another_key(subject: str) -> None:
    d = opened(user="" if subject.startswith("agent") else subject)
    erase(d, subject)
    d.open_session("session-2", user="" if subject.startswith("agent") else subject)
    last = read(d.records[-1])
    assert last.header.subject == f"{subject}#{d.control.head}"
    assert last.sealed is not None
    assert d.keys.open(last.header.subject, last.header.event_id, last.sealed) is not None
    intact(d)
