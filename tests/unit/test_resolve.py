"""Calls in doubt: a person says whether they happened, once, and the agent is told."""

from __future__ import annotations

import pytest
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.snapshot import decode, digest, encode
from sluicegate.schemas import records as r
from sluicegate.streams.sdk.errors import Failed, Withheld
from sluicegate.streams.sdk.replies import answer

from tests import shop
from tests.driver import AGENT, SESSION, Driver
from tests.unit.test_derail import last
from tests.unit.test_rederive import check
from tests.unit.test_verify import verify

TEN_S = 10_000_000


def resolve(
    d: Driver, intent_id: str, verdict: str = "happened", *, who: str = "ana", result: bytes | None = None, **more: object
) -> Decision:  # fmt: skip
    said = r.Resolution(
        d.new_id("r"), AGENT, intent_id, verdict, who, d.now, "looked at the bank's page", result
    )
    return d.feed("reviews", said, **more)  # type: ignore[arg-type]


def doubtful(tool: str = "desk.pay") -> tuple[Driver, r.Dispatch, r.Intent]:
    d = Driver()
    d.control_event("people.registered", people=[{"person_id": "ana", "name": "Ana", "roles": []}])
    d.open_session()
    asked = d.intent(tool)
    [one] = d.feed("intents", asked).dispatches
    d.claim(one)
    assert last(d.tick(TEN_S)) == ("in_doubt", "call_in_doubt")
    return d, one, asked


@pytest.mark.parametrize("tool", ["desk.pay", "desk.look"])
@pytest.mark.parametrize("verdict", ["happened", "did_not_happen"])
def test_a_person_settles_it_and_the_agent_is_told(tool: str, verdict: str) -> None:
    d, one, asked = doubtful(tool)
    decision = resolve(d, one.intent_id, verdict)
    assert last(decision) == ("resolved", verdict)
    facts = decision.outcomes[0].facts
    assert isinstance(facts, r.ResultFacts)
    assert facts.executed_by == "ana"
    [told] = decision.replies
    assert (told.status, told.reason, told.session_id) == ("resolved", verdict, SESSION)
    assert "bank's page" in told.for_developer
    with pytest.raises(Withheld if verdict == "happened" else Failed):
        answer(told)
    # The same request again gets the same answer, and runs nothing.
    again = d.feed("intents", asked)
    assert (again.replies[0].status, again.replies[0].reason, again.replies[0].duplicate) == (
        "resolved",
        verdict,
        True,
    )
    assert not again.dispatches
    assert d.state.open_count == 0
    assert verify(d).names == set()
    assert digest(decode(encode(d.state))) == digest(d.state)


def test_a_result_is_told_now_and_to_whoever_asks_again() -> None:
    d, one, asked = doubtful()
    [told] = resolve(d, one.intent_id, result=b'{"receipt":7}').replies
    assert answer(told) == {"receipt": 7}
    assert d.feed("intents", asked).replies[0].result == b'{"receipt":7}'
    # A person's copy taints as the tool's own would, and grounds nothing.
    session = d.state.sessions[f"{AGENT}\0{SESSION}"]
    assert session.integrity
    assert [s.origin for s in session.sources] == ["user"]
    assert check(d).different == 0


def test_a_result_that_does_not_fit_settles_nothing() -> None:
    d, one, _ = doubtful()
    assert last(resolve(d, one.intent_id, result=b"[1]")) == ("noted", "malformed_result")
    assert last(resolve(d, one.intent_id, "did_not_happen", result=b"{}")) == ("noted", "bad_resolution")
    assert last(resolve(d, one.intent_id)) == ("resolved", "happened")


def test_once_is_for_ever() -> None:
    d, one, _ = doubtful()
    resolve(d, one.intent_id, "did_not_happen")
    assert last(resolve(d, one.intent_id)) == ("noted", "not_in_doubt")
    assert last(d.receipt(one, "finished", result=b"{}")) == ("noted", "late")
    assert verify(d).names == set()


def test_only_what_is_in_doubt_is_settled() -> None:
    d, one, _ = doubtful()
    other = d.call("desk.pay").dispatches[0]
    d.claim(other)
    for name in (other.intent_id, "nobody-asked", "", "x" * 300):
        assert last(resolve(d, name)) == ("noted", "not_in_doubt")
    assert last(resolve(d, one.intent_id, "perhaps")) == ("noted", "bad_resolution")
    assert last(resolve(d, one.intent_id, stale=True)) == ("noted", "control_stale")


@pytest.mark.parametrize(("who", "reason"), [(AGENT, "agent_cannot_review"), ("bob", "unknown_person")])
def test_only_a_person_resolves(who: str, reason: str) -> None:
    d, one, _ = doubtful()
    assert last(resolve(d, one.intent_id, who=who)) == ("noted", reason)


def compensable() -> tuple[Driver, r.Dispatch]:
    """A booking of the shop that nobody heard of."""
    d = Driver()
    d.deploy(shop.release())
    d.control_event("people.registered", people=[{"person_id": "ana", "name": "Ana", "roles": []}])
    d.open_session()
    [one] = d.call("shop.book", {"item": "a room"}).dispatches
    d.claim(one)
    assert last(d.tick(TEN_S)) == ("in_doubt", "call_in_doubt")
    return d, one


def order(d: Driver, intent_id: str, **ended: list[str]) -> int:
    """An operator orders the call to be taken back; `ended`: and it was `done` or `verified`."""
    undo = undo_id(AGENT, intent_id)
    calls = [{"id": undo, "tool": "shop.unbook", "of_agent": AGENT, "of_intent": intent_id}]
    d.control_event(
        "rollback.ordered", saga="s", agent_id=shop.BY, of_agent=AGENT, of_intent=intent_id, calls=calls
    )
    head = d.control.head
    if ended:
        d.control_event("rollback.ended", saga="s", **ended)
    return head


def test_compensated_is_said_by_control_not_by_a_word() -> None:
    d, one = compensable()
    undo = undo_id(AGENT, one.intent_id)
    assert last(resolve(d, one.intent_id, "compensated")) == ("noted", "not_compensated")
    order(d, one.intent_id)
    assert last(resolve(d, one.intent_id, "compensated")) == ("noted", "not_compensated")
    order(d, one.intent_id, done=[undo])  # undone, and the contract says how one sees it: nobody looked
    assert last(resolve(d, one.intent_id, "compensated")) == ("noted", "not_compensated")
    head = order(d, one.intent_id, verified=[undo])
    assert last(resolve(d, one.intent_id, "compensated", result=b"{}")) == ("noted", "bad_resolution")
    ended = resolve(d, one.intent_id, "compensated")
    assert last(ended) == ("resolved", "compensated")
    facts = ended.outcomes[0].facts
    assert isinstance(facts, r.TakenBackFacts)
    assert (facts.undo, facts.undone_by, facts.order, facts.executed_by) == (undo, shop.BY, head, "ana")
    [told] = ended.replies
    assert (told.status, told.reason, told.result) == ("resolved", "compensated", None)
    with pytest.raises(Failed):
        answer(told)
    assert d.state.open_count == 0 and last(resolve(d, one.intent_id)) == ("noted", "not_in_doubt")
    assert verify(d).names == set() and check(d).different == 0
    assert digest(decode(encode(d.state))) == digest(d.state)


def test_a_call_that_was_heard_of_meanwhile_is_not_resolved() -> None:
    d, one = compensable()
    order(d, one.intent_id, verified=[undo_id(AGENT, one.intent_id)])
    d.finish(one, b'{"id":"b-1"}')
    assert last(resolve(d, one.intent_id, "compensated")) == ("noted", "not_in_doubt")
