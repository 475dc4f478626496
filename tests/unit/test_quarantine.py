"""The kill switch: what is quarantined gets no permit, no second offer, no approval, no claim and no call."""

from __future__ import annotations

import asyncio

import pytest
from sluicegate.executors.verifier import Follower
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.quarantine import (
    MAX_QUARANTINES,
    SCOPES,
    quarantined,
    with_quarantine,
    without,
)
from sluicegate.processors.validate import action_digest
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import Dispatch
from sluicegate.streams.control.quarantines import hint_of, releases_to_look_at, whole

from tests.driver import AGENT, OTHER_AGENT, SESSION, Driver
from tests.executor_fakes import dispatch, until
from tests.unit.test_derail import last
from tests.unit.test_dispatcher import Bench
from tests.unit.test_guardrails import rule
from tests.unit.test_plugins import answer, asked, fail
from tests.unit.test_verify import verify

TEN_S = 10_000_000


def value_of(d: Driver, scope: str, tool: str = "desk.pay") -> str:
    return {"agent": AGENT, "tool": tool, "session": SESSION, "release": d.control.deployed}[scope]


def stop(d: Driver, scope: str, value: str) -> None:
    d.control_event("quarantine.added", scope=scope, value=value, why="an alarm")


@pytest.mark.parametrize("scope", SCOPES)
def test_a_new_call_is_refused_and_goes_through_once_lifted(scope: str) -> None:
    d = Driver()
    d.open_session()
    stop(d, scope, value_of(d, scope))
    decision = d.call("desk.pay")
    assert last(decision) == ("refused", "quarantined")
    assert not decision.dispatches
    assert "an alarm" in d.replies[-1].for_developer
    d.control_event("quarantine.lifted", scope=scope, value=value_of(d, scope))
    assert d.call("desk.pay").dispatches
    assert verify(d).names == set()


def test_others_go_on() -> None:
    d = Driver()
    d.open_session()
    for scope, value in (
        ("agent", OTHER_AGENT),
        ("tool", "desk.set"),
        ("session", "another"),
        ("release", "x"),
    ):
        stop(d, scope, value)
    assert d.call("desk.pay").dispatches


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("tool", "claimed", "end"),
    [("desk.pay", False, "expired"), ("desk.set", False, "expired"), ("desk.set", True, "in_doubt")],
)
def test_nothing_is_offered_again(scope: str, tool: str, claimed: bool, end: str) -> None:
    d = Driver()
    d.open_session()
    [one] = d.call(tool).dispatches
    if claimed:
        d.claim(one)
    stop(d, scope, value_of(d, scope, tool))
    decision = d.tick(TEN_S)
    assert last(decision) == (end, "quarantined")
    assert not decision.dispatches
    assert verify(d).names == set()


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_is_approved(scope: str) -> None:
    d = Driver()
    d.open_session()
    held = d.call("desk.ask")
    assert last(held)[0] == "held"
    stop(d, scope, value_of(d, scope, "desk.ask"))
    decision = d.review(held)
    assert last(decision) == ("refused", "quarantined")
    assert not decision.dispatches


def test_results_of_what_was_begun_still_arrive() -> None:
    d = Driver()
    d.open_session()
    [one] = d.call("desk.pay").dispatches
    d.claim(one)
    stop(d, "tool", "desk.pay")
    assert last(d.receipt(one, "finished", result=b"{}")) == ("released", "")


def test_an_executors_word_that_nothing_was_sent_ends_the_call() -> None:
    d = Driver()
    d.open_session()
    [one] = d.call("desk.pay").dispatches
    d.claim(one)
    stop(d, "tool", "desk.pay")
    assert last(d.receipt(one, "failed", error_class="quarantined", sent=False)) == ("failed", "quarantined")


def test_the_fold_takes_only_what_it_knows_and_has_a_bound() -> None:
    assert with_quarantine({}, "planet", "earth", "") == {}
    assert with_quarantine({}, "tool", "", "") == {}
    full = {("tool", str(n)): "" for n in range(MAX_QUARANTINES)}
    assert with_quarantine(full, "tool", "one more", "") == full
    assert with_quarantine(full, "tool", "7", "why")["tool", "7"] == "why"
    assert without({("tool", "a"): "x"}, "tool", "b") == {("tool", "a"): "x"}
    assert quarantined(Control(), "a", "t", "s", "r") == ""


# -- the executor ----------------------------------------------------------------------------------------------------


class Source:
    """Control as an executor has it."""

    def __init__(self) -> None:
        self.control, self.stale = Control(), False

    async def wait_for(self, head: int, limit_s: float = 0.0) -> None:
        if head > self.control.head:
            raise Retryable("control is behind")

    def stop(self, tool: str) -> None:
        self.control = Control(quarantines={("tool", tool): "an alarm"})


def guarded(source: Source) -> Bench:
    b = Bench()
    verifier = Follower(source)
    b.calls.stopped = verifier.stopped
    b.lanes[0]._verifier = verifier
    return b


def test_it_is_not_claimed_and_a_read_is_not_called() -> None:
    source = Source()
    source.stop("a.tool")
    b = guarded(source)

    async def scenario() -> None:
        b.log.put(dispatch(1), dispatch(2, tool_class="read_only"))
        await until(lambda: b.calls.counters.quarantined == 2 and b.receipts)

    b.run(scenario)
    assert (b.called, b.log.claims) == ({}, [])
    [said] = b.receipts  # of the read: a claimed class says nothing without a claim
    assert (said.intent_id, said.error_class, said.sent) == ("intent-2", "quarantined", False)


def test_claimed_and_then_quarantined_is_not_called() -> None:
    source = Source()
    b = guarded(source)

    async def committed() -> None:
        source.stop("a.tool")

    async def scenario() -> None:
        b.log.after_commit = committed
        b.log.put(dispatch(1))
        await until(lambda: b.receipts)

    b.run(scenario)
    assert (b.called, len(b.log.claims)) == ({}, 1)
    [said] = b.receipts
    assert (said.kind, said.error_class, said.sent) == ("failed", "quarantined", False)


def test_a_candidate_of_an_alias_is_stopped_between_offer_and_call() -> None:
    """What is asked is the candidate: the alias itself is not quarantined."""
    source = Source()
    source.stop("model.large")
    b = guarded(source)
    large, small = dispatch(1, tool_class="read_only"), dispatch(2, tool_class="read_only")
    large.candidate, small.candidate = "model.large", "model.small"

    async def scenario() -> None:
        b.log.put(large, small)
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert set(b.called) == {small.idempotency_key}
    [said] = [one for one in b.receipts if one.kind == "failed"]
    assert (said.intent_id, said.error_class, said.sent) == ("intent-1", "quarantined", False)


def test_an_executor_cut_off_from_control_claims_nothing() -> None:
    source = Source()
    source.stale = True
    b = guarded(source)

    async def scenario() -> None:
        b.log.put(dispatch(1), dispatch(2, tool_class="read_only"))
        await until(lambda: b.calls.counters.unverified == 2)

    b.run(scenario)
    assert (b.called, b.log.claims, b.receipts) == ({}, [], [])


def test_it_waits_for_the_control_event_of_the_decision() -> None:
    one: Dispatch = dispatch(1)
    one.control_head = 7
    with pytest.raises(Retryable):
        asyncio.run(Follower(Source()).open(0, codec.encode(one)))


def test_a_call_that_is_another_one_by_now_is_not_claimed() -> None:
    """Also where nothing is signed: it is set aside, and the next record goes on."""
    b = guarded(Source())
    changed, good = dispatch(1), dispatch(2)
    for one in (changed, good):
        one.version, one.action_digest = "1", action_digest(one.tool, "1", one.arguments)
    changed.arguments = b'{"amount":1000000}'

    async def scenario() -> None:
        b.log.put(changed, good)
        await until(lambda: b.receipts)

    b.run(scenario)
    assert set(b.called) == {good.idempotency_key} and len(b.log.claims) == 1
    assert [error.reason for _, _, error in b.unreadable] == ["call_changed"]


@pytest.mark.parametrize("how", ["pass", "silence"])
def test_a_call_that_waited_for_a_plug_in_is_not_offered(how: str) -> None:
    """Whatever the plug-in says or does not say: every road from a wait to a dispatch asks again."""
    d, _, dispatch = asked(rule(plugin="sanctions", tools=["bank.*"], on_failure="pass"))
    stop(d, "tool", "bank.pay")
    ended = answer(d, dispatch, g="pass") if how == "pass" else fail(d, dispatch, "silence")
    assert last(ended) == ("refused", "quarantined")
    assert not ended.dispatches and d.state.open_count == 0
    assert verify(d).names == set()


def test_the_release_that_counts_is_the_one_it_was_decided_under() -> None:
    """A session may stand on another release than the deployed one: what is stopped is what decided."""
    d = Driver()
    d.open_session()
    [offer] = d.call("desk.pay").dispatches
    assert offer.release == d.control.deployed
    d.control_event("quarantine.added", scope="release", value="sha256:an-earlier-one", why="an alarm")

    class Source:
        control = d.control
        stale = False

        async def wait_for(self, head: int, limit_s: float = 0.0) -> None:
            return None

    assert Follower(Source()).stopped(offer) == ""
    offer.release = "sha256:an-earlier-one"
    assert "an alarm" in Follower(Source()).stopped(offer)
    offer.release = ""  # of a ledger that did not say: the deployed one counts
    assert Follower(Source()).stopped(offer) == ""


# -- the command -----------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "4c1f" * 16


@pytest.mark.parametrize(
    ("scope", "value", "known", "said"),
    [
        ("tool", "bank.pay", {"bank.pay"}, ""),
        ("tool", "bank.pya", {"bank.pay", "desk.set"}, "no tool `bank.pya` is known here: did you mean `bank.pay`?"),
        ("tool", "Pay", {"bank.pay", "bank.payout"}, "no tool `Pay` is known here: did you mean `bank.pay` or `bank.payout`?"),
        ("agent", "zz", {"support-1"}, "no agent `zz` is known here"),
        ("session", "s-1", {"s-11"}, "no open session `s-1` is known here: did you mean `s-11`?"),
        ("release", "x", (), "no release `x` is known here"),
    ],
)  # fmt: skip
def test_a_name_that_nothing_has_is_said_with_the_nearest(
    scope: str, value: str, known: set[str], said: str
) -> None:
    assert hint_of(scope, value, known) == said


def test_a_release_may_be_named_as_elsewhere() -> None:
    control = Control(published={DIGEST: "desk 1.0"})
    assert whole(control, "release", "desk 1.0") == whole(control, "release", "4c1f4c1f") == DIGEST
    assert whole(control, "release", "desk 2.0") == "desk 2.0"  # it may be about to be published
    assert whole(control, "tool", "desk 1.0") == "desk 1.0"


def test_tools_are_looked_for_where_sessions_may_stand() -> None:
    control = Control(
        deployed="d", previous=("a", "b"), pins={("agent", "x"): "b"}, published=dict.fromkeys("abcd", "")
    )
    assert releases_to_look_at(control) == ["d", "b", "a", "c"]
    many = Control(published={str(n): "" for n in range(100)})
    assert releases_to_look_at(many) == [str(n) for n in range(99, 79, -1)]
