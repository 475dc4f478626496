"""Reviews: people agree, edit and reject; what is not right about a review is recorded and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors import snapshot
from sluicegate.processors.approval.holds import MAX_HOLD_US
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import OpenIntent, PartitionState
from sluicegate.processors.validate import action_digest
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r
from sluicegate.schemas.reasons import REASONS
from sluicegate.streams.lanes.recovery import fold_record

from tests.driver import AGENT, PERSON, SESSION, Driver, read, release_files

BEN, CEM, NOBODY = "person-3", "person-4", "person-5"
HOUR_US = 3_600_000_000
FOREVER = 2**53 - 1


def held(value: str = "1000", tool: str = "desk.wire", **more: object) -> tuple[Driver, Decision]:
    """A driver with one held call."""
    d = Driver()
    d.open_session()
    decision = d.call(tool, {"value": value}, **more)
    assert decision.outcomes[-1].status == "held", decision.outcomes
    return d, decision


def told(decision: Decision) -> list[tuple[str, str, str]]:
    return [(o.stage, o.status, o.reason) for o in decision.outcomes]


def entry(d: Driver) -> OpenIntent:
    """The one open intent."""
    [found] = [e for e in d.state.intents.values() if isinstance(e, OpenIntent)]
    return found


def intact(d: Driver) -> None:
    """The ledger verifies, is decided again to the same bytes, and folds to the same state from any snapshot."""
    control = ControlChecker(d.rules, d.control.mac_keys)
    for record in d.control_records:
        control.add(*record)
    checker = PartitionChecker(0, control.controls, opener=d.keys.open)
    again = Rederive(0, d.controls, d.keys.open)
    for record in d.records:
        checker.add(*record)
        again.add(*record)
    checker.close()
    assert checker.findings.first == {}
    tally = again.finish()
    assert tally.differences == [] and tally.without_bytes == 0
    assert snapshot.encode(again.state) == snapshot.encode(d.state)
    for cut in range(1, len(d.records)):
        state = PartitionState(b"", 0)
        for at, record in enumerate(d.records):
            if at == cut:
                state = snapshot.decode(snapshot.encode(state))
            state = fold_record(state, record.value)
        assert snapshot.encode(state) == snapshot.encode(d.state)


# -- held -----------------------------------------------------------------------------------------------------------


def test_a_held_call_says_what_is_asked() -> None:
    d, decision = held()
    outcome = decision.outcomes[-1]
    facts = outcome.facts
    assert isinstance(facts, r.HoldFacts)
    assert (facts.quorum, facts.reviewers, facts.tool_class) == (2, ["desk", "treasury"], "irreversible")
    assert facts.expires_at == outcome.origin.decided_at + 4 * HOUR_US
    assert facts.release == d.control.deployed == outcome.origin.release
    assert facts.action_digest == action_digest("desk.wire", "1", b'{"value":"1000"}')
    assert (outcome.reason, outcome.policies) == ("approval_required", ["desk-wire"])
    shown = json.loads(outcome.content or b"")
    assert shown == {"arguments": {"value": "1000"}, "why": "two people agree to this"}
    assert b'{"arguments":{"value":"1000"},' in (outcome.content or b""), "the exact bytes"
    assert not decision.dispatches
    [reply] = decision.replies
    assert reply.status == "held" and "two people agree to this" in reply.for_developer
    facts_bytes = read(d.records[-1])
    assert b"1000" not in repr(facts_bytes.facts).encode(), "what may be personal is content, never facts"


def test_a_call_that_a_plain_permit_allows_is_not_held() -> None:
    d = Driver()
    d.open_session()
    assert d.call("desk.wire", {"value": "free"}).dispatches


def test_reviewers_without_a_common_role_refuse_at_once() -> None:
    files = dict(release_files())
    files["policies/more.cedar"] = (
        '@id("desk-wire-audit") @hold("audit looks") @reviewers("audit")\n'
        'permit (principal, action == Action::"desk.wire", resource);'
    )
    d = Driver()
    d.deploy(compile_release(files), now=True)
    d.open_session()
    decision = d.call("desk.wire", {"value": "1"})
    assert told(decision)[-1] == ("authorize", "refused", "no_reviewer")
    assert decision.outcomes[-1].policies == ["desk-wire", "desk-wire-audit"]


# -- approve ----------------------------------------------------------------------------------------------------------


def test_one_person_is_enough_where_one_is_asked_for() -> None:
    d, call = held(tool="desk.ask")
    decision = d.review(call)
    assert [(o.stage, o.status) for o in decision.outcomes] == [
        ("review", "held"), ("authorize", "permitted"), ("validate", "validated"), ("plan", "dispatched")
    ]  # fmt: skip
    facts = decision.outcomes[0].facts
    assert facts == r.ReviewFacts(
        "approve", PERSON, entry(d).action_digest, [PERSON], 1, [], False, authenticated=False
    )
    assert decision.outcomes[0].caused_by == [call.outcomes[-1].event_id]
    [dispatch] = decision.dispatches
    assert dispatch.arguments == b'{"value":"1000"}'
    end = d.finish(dispatch)
    assert told(end)[-1] == ("execute", "released", "")
    intact(d)


def test_two_people_and_it_is_executed_once() -> None:
    d, call = held()
    first = d.review(call)
    assert told(first) == [("review", "held", "approval_required")]
    assert not first.dispatches and not first.replies
    assert entry(d).approvals == (PERSON,)
    second = d.review(call, person=BEN)
    [dispatch] = second.dispatches
    d.finish(dispatch)
    third = d.review(call, person=CEM)
    assert told(third) == [("review", "noted", "review_late")]
    assert len(d.dispatches) == 1
    intact(d)


def test_one_byte_changed_is_void() -> None:
    d, call = held()
    d.review(call)
    digest = entry(d).action_digest
    for at in (0, 31):
        other = digest[:at] + bytes([digest[at] ^ 1]) + digest[at + 1 :]
        assert told(d.review(call, person=BEN, digest=other)) == [("review", "noted", "digest_mismatch")]
    assert entry(d).approvals == (PERSON,) and not d.dispatches
    assert d.review(call, person=BEN).dispatches
    intact(d)


def test_the_word_that_counts_is_content_and_the_rest_facts() -> None:
    d, call = held()
    d.review(call)
    event = read(d.records[-1])
    assert event.sealed is not None
    assert b"because" in (d.keys.open(event.header.subject, event.header.event_id, event.sealed) or b"")
    assert event.header.subject == "person-1", (
        "sealed under the key of the session's person, not the reviewer's"
    )


# -- what changes nothing ----------------------------------------------------------------------------------------------

Change = Callable[[Driver, r.Review], r.Review]

WRONG: dict[str, tuple[Change, str]] = {
    "another digest": (lambda d, w: replace(w, action_digest=bytes(32)), "digest_mismatch"),
    "no digest": (lambda d, w: replace(w, action_digest=b""), "digest_mismatch"),
    "another release": (lambda d, w: replace(w, release="sha256:00"), "release_mismatch"),
    "no release": (lambda d, w: replace(w, release=""), "release_mismatch"),
    "an unknown person": (lambda d, w: replace(w, reviewer="eve"), "unknown_person"),
    "nobody": (lambda d, w: replace(w, reviewer=""), "unknown_person"),
    "a wrong role": (lambda d, w: replace(w, reviewer=NOBODY), "wrong_reviewer"),
    "its own agent": (lambda d, w: replace(w, reviewer=AGENT), "agent_cannot_review"),
    "another agent": (lambda d, w: replace(w, reviewer="retail-agent-gpt-4.1"), "agent_cannot_review"),
    "another verdict": (lambda d, w: replace(w, verdict="maybe"), "unknown_verdict"),
    "older than what is asked": (lambda d, w: replace(w, issued_at=d.now - 6_000_000), "review_outdated"),
    "another intent": (lambda d, w: replace(w, intent_id="i-none"), "not_held"),
    "an id that is none": (lambda d, w: replace(w, intent_id="x" * 5_000), "bad_identifier"),
}  # fmt: skip


@pytest.mark.parametrize("verdict", ["approve", "reject"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_review_is_recorded_and_changes_nothing(name: str, verdict: str) -> None:
    d, call = held()
    change, reason = WRONG[name]
    before = repr(entry(d))
    decision = d.feed("reviews", change(d, d.word(call, verdict)))
    assert told(decision) == [("review", "noted", reason)]
    assert decision.outcomes[0].content, "the review itself is kept"
    assert not decision.replies and not decision.dispatches
    assert repr(entry(d)) == before
    assert len(d.records[-1].value) < 6_500
    assert reason in REASONS
    intact(d)


def test_the_same_person_twice_counts_once() -> None:
    d, call = held()
    d.review(call)
    assert told(d.review(call)) == [("review", "noted", "already_approved")]
    assert entry(d).approvals == (PERSON,)
    assert d.review(call, person=CEM).dispatches


def test_a_person_who_agreed_may_still_reject() -> None:
    d, call = held()
    d.review(call)
    decision = d.review(call, "reject")
    assert told(decision) == [("review", "refused", "approval_rejected")]
    facts = decision.outcomes[0].facts
    assert isinstance(facts, r.ReviewFacts) and facts.verdict == "reject" and facts.reviewer == PERSON
    [reply] = decision.replies
    assert reply.status == "refused" and reply.for_developer.startswith("because")
    assert told(d.review(call, person=BEN)) == [("review", "noted", "review_late")]
    assert not d.dispatches
    intact(d)


def test_late_is_after_the_expiry_even_before_the_tick() -> None:
    d, call = held()
    d.now += 4 * HOUR_US
    word = d.word(call)
    assert told(d.feed("reviews", word)) == [("review", "noted", "review_late")]
    assert told(d.tick()) == [("tick", "expired", "approval_expired")]
    assert told(d.review(call)) == [("review", "noted", "review_late")]
    intact(d)


def test_a_call_that_never_was_held_cannot_be_approved() -> None:
    d = Driver()
    d.open_session()
    call = d.call("desk.pay", {"value": "1"})
    facts = call.outcomes[-1].facts
    assert isinstance(facts, r.PlanFacts)
    word = r.Review("r", AGENT, "i-2", "approve", facts.action_digest, PERSON, d.now, "", d.control.deployed)
    assert told(d.feed("reviews", word)) == [("review", "noted", "not_held")]


# -- signed -------------------------------------------------------------------------------------------------------------

SECRETS = {name: bytes([n]) * 32 for n, name in enumerate(("chat", "ana", "ben", "agent", "eve"))}


def signed_driver() -> tuple[Driver, Decision]:
    d = Driver(signing="signed")
    for kid, principal, role in (
        ("chat", "chat", "channel"), ("ana", PERSON, "person"), ("ben", BEN, "person"), ("agent", AGENT, "agent")
    ):  # fmt: skip
        public = Ed25519PrivateKey.from_private_bytes(SECRETS[kid]).public_key().public_bytes_raw()
        d.control_event(
            "key.added", kid=kid, principal=principal, role=role, alg="Ed25519", public=public.hex(), not_before=0, not_after=FOREVER
        )  # fmt: skip
    opened = r.Message("m", AGENT, SESSION, "session.open", d.now, "pay my rent", "person-1")
    d.feed("messages", signed(d, opened, "messages", "chat"))
    call = d.feed("intents", signed(d, d.intent("desk.wire", {"value": "1"}), "intents", "agent"))
    assert call.outcomes[-1].status == "held"
    return d, call


def signed(d: Driver, record: object, topic: str, kid: str, **more: object) -> bytes:
    audience = str(more.get("audience", f"test/{topic}"))
    return signing.sign(codec.encode(record), kid, "Ed25519", SECRETS[kid], audience, d.now)


def test_a_signed_review_counts_and_says_so() -> None:
    d, call = signed_driver()
    first = d.feed("reviews", signed(d, d.word(call), "reviews", "ana"))
    facts = first.outcomes[0].facts
    assert isinstance(facts, r.ReviewFacts) and facts.authenticated
    assert d.feed("reviews", signed(d, d.word(call, person=BEN), "reviews", "ben")).dispatches
    intact(d)


BADLY: dict[str, tuple[Callable[[Driver, r.Review], bytes], str]] = {
    "not at all": (lambda d, w: codec.encode(w), "unsigned"),
    "by an unknown key": (lambda d, w: signed(d, w, "reviews", "eve"), "unknown_key"),
    "in another person's name": (lambda d, w: signed(d, replace(w, reviewer=BEN), "reviews", "ana"), "wrong_signer"),
    "by the agent": (lambda d, w: signed(d, replace(w, reviewer=AGENT), "reviews", "agent"), "wrong_signer"),
    "by a channel": (lambda d, w: signed(d, w, "reviews", "chat"), "wrong_signer"),
    "for another topic": (lambda d, w: signed(d, w, "reviews", "ana", audience="test/intents"), "bad_signature"),
    "for another environment": (lambda d, w: signed(d, w, "reviews", "ana", audience="prod/reviews"), "bad_signature"),
    "and changed after": (lambda d, w: signed(d, w, "reviews", "ana").replace(b"because", b"becausE"), "bad_signature"),
}  # fmt: skip


@pytest.mark.parametrize("name", BADLY)
def test_a_badly_signed_review_is_unreadable(name: str) -> None:
    d, call = signed_driver()
    make, reason = BADLY[name]
    before = repr(entry(d))
    decision = d.feed("reviews", make(d, d.word(call)))
    assert told(decision) == [("intake", "unreadable", reason)]
    assert repr(entry(d)) == before


# -- the state of that moment --------------------------------------------------------------------------------------------


def test_whoever_was_removed_no_longer_counts() -> None:
    d, call = held()
    d.review(call)
    d.control_event("people.removed", people=[PERSON])
    assert told(d.review(call, person=BEN)) == [("review", "held", "approval_required")]
    assert entry(d).approvals == (BEN,)
    assert d.review(call, person=CEM).dispatches
    intact(d)


def test_whoever_lost_the_role_no_longer_counts() -> None:
    d, call = held()
    d.review(call)
    d.control_event("people.registered", people=[{"person_id": PERSON, "roles": ["kitchen"]}])
    assert not d.review(call, person=BEN).dispatches
    assert told(d.review(call)) == [("review", "noted", "wrong_reviewer")]


def test_a_suspended_agents_call_is_not_run_after_all() -> None:
    d, call = held(tool="desk.ask")
    d.control_event("agent.suspended", agent_id=AGENT)
    decision = d.review(call)
    assert told(decision)[1:] == [("authorize", "refused", "suspended_agent")]
    intact(d)


def deploy(d: Driver, **more: str) -> None:
    d.deploy(compile_release({**release_files(edition="2"), **more}), now=True)


def test_another_release_asks_anew_and_earlier_approvals_are_void() -> None:
    d, call = held()
    d.review(call)
    deploy(d)
    old = d.word(call, person=BEN)
    decision = d.feed("reviews", replace(old, release=call.outcomes[-1].origin.release))
    assert told(decision) == [
        ("review", "noted", "release_changed"),
        ("authorize", "held", "approval_required"),
    ]
    facts = decision.outcomes[-1].facts
    assert isinstance(facts, r.HoldFacts) and facts.release == d.control.deployed
    assert facts.expires_at == entry(d).held_at + 4 * HOUR_US, "asking again never extends the wait"
    assert [reply.status for reply in decision.replies] == ["held"]
    assert entry(d).approvals == ()
    assert told(d.feed("reviews", old)) == [("review", "noted", "release_mismatch")]
    d.review(decision)
    assert d.review(decision, person=BEN).dispatches
    intact(d)


def test_a_release_that_forbids_it_by_now_refuses() -> None:
    d, call = held()
    forbids = '@id("no-wires") forbid (principal, action == Action::"desk.wire", resource);'
    d.deploy(compile_release({**release_files(), "policies/more.cedar": forbids}), now=True)
    decision = d.feed("reviews", replace(d.word(call), release=call.outcomes[-1].origin.release))
    assert told(decision) == [("review", "noted", "release_changed"), ("authorize", "refused", "forbidden")]
    intact(d)


def test_a_release_without_the_tool_refuses() -> None:
    d, call = held()
    files = {k: v for k, v in release_files().items() if k != "contracts/desk.wire.json"}
    files["policies/desk.cedar"] = '@id("desk") permit (principal, action == Action::"desk.read", resource);'
    d.deploy(compile_release(files), now=True)
    decision = d.review(call)
    assert told(decision)[-1] == ("authorize", "refused", "unknown_tool")


def watched(session_calls: int, quorum: int) -> str:
    """A second policy that holds, from so many calls in the session on."""
    return (
        f'@id("busy") @hold("the session is busy") @quorum("{quorum}")\n'
        'permit (principal, action == Action::"desk.ask", resource) '
        f"when {{ context.session.calls >= {session_calls} }};"
    )


@pytest.mark.parametrize("quorum", [1, 3])
def test_more_is_asked_by_now_than_was_shown(quorum: int) -> None:
    d = Driver()
    d.deploy(compile_release({**release_files(), "policies/more.cedar": watched(3, quorum)}), now=True)
    d.open_session()
    call = d.call("desk.ask", {"value": "1"})
    assert call.outcomes[-1].policies == ["desk-ask"]
    for _ in range(3):
        d.call("desk.read")
    decision = d.review(call)
    assert told(decision) == [("review", "held", ""), ("authorize", "held", "approval_required")]
    assert decision.outcomes[-1].policies == ["busy", "desk-ask"]
    facts = decision.outcomes[-1].facts
    assert isinstance(facts, r.HoldFacts) and facts.quorum == quorum
    agreed = [d.review(decision, person=p).dispatches for p in (PERSON, BEN, CEM)[:quorum]]
    assert [bool(x) for x in agreed] == [False] * (quorum - 1) + [True]
    intact(d)


def test_a_call_outlives_its_session_while_people_decide() -> None:
    d, call = held()
    d.close_session()
    assert d.call("desk.read").outcomes[-1].reason == "unknown_session"
    assert d.open_session().outcomes[-1].reason == "id_conflict", "its id means the old one until then"
    d.review(call)
    assert d.review(call, person=BEN).dispatches
    assert d.state.parked == {}
    assert d.open_session().outcomes[-1].status == "opened"
    intact(d)


@pytest.mark.parametrize("how", ["reject", "expire"])
def test_a_parked_session_goes_with_its_last_held_call(how: str) -> None:
    d, call = held()
    other = d.call("desk.ask")
    d.close_session()
    d.review(other)
    assert len(d.state.parked) == 1
    if how == "reject":
        d.review(call, "reject")
    else:
        d.tick(4 * HOUR_US)  # the other call's offer runs out first
        assert told(d.tick()) == [("tick", "expired", "approval_expired")]
    assert d.state.parked == {}
    intact(d)


# -- time ------------------------------------------------------------------------------------------------------------------


def test_the_time_that_people_take_does_not_count_against_the_deadline() -> None:
    d = Driver()
    d.open_session()
    call = d.call("desk.ask", deadline_at=d.now + 30_000_000)
    d.now += HOUR_US
    decision = d.review(call)
    [dispatch] = decision.dispatches
    assert dispatch.not_after == decision.outcomes[-1].origin.decided_at + 5_000_000
    again = d.tick(8_000_000)
    assert [x.attempt for x in again.dispatches] == [2], "it is offered again within its own 30 seconds"
    assert told(d.tick(30_000_000)) == [("tick", "expired", "no_executor")]
    intact(d)


def test_without_an_expiry_it_waits_a_day() -> None:
    d, call = held(tool="desk.ask")
    facts = call.outcomes[-1].facts
    assert isinstance(facts, r.HoldFacts)
    assert facts.expires_at == call.outcomes[-1].origin.decided_at + MAX_HOLD_US
    assert d.tick(MAX_HOLD_US - 10_000_000).outcomes == []
    assert told(d.tick(10_000_000)) == [("tick", "expired", "approval_expired")]
    assert d.replies[-1].status == "expired"


# -- edits -----------------------------------------------------------------------------------------------------------------


def test_an_edit_is_a_new_digest_on_which_approvals_begin_anew() -> None:
    d, call = held()
    d.review(call)
    edited = d.review(call, person=BEN, arguments=b'{ "value": "10" }')
    assert told(edited) == [("review", "held", "approval_required")]
    facts = edited.outcomes[0].facts
    assert isinstance(facts, r.ReviewFacts)
    assert (facts.edited, facts.approvals) == (True, [BEN])
    assert facts.action_digest == action_digest("desk.wire", "1", b'{"value":"10"}')
    [reply] = edited.replies
    assert (reply.status, reply.arguments) == ("held", b'{"value":"10"}'), "the agent learns of it"
    assert told(d.review(call)) == [("review", "noted", "digest_mismatch")]
    decision = d.review(edited)
    [dispatch] = decision.dispatches
    assert dispatch.arguments == b'{"value":"10"}' and dispatch.action_digest == facts.action_digest
    again = d.tick(8_000_000)
    assert [x.arguments for x in again.dispatches] == [b'{"value":"10"}'], "a second offer is the edited call"
    intact(d)


def test_an_edit_of_the_only_reviewer_goes_on_at_once() -> None:
    d, call = held(tool="desk.ask")
    decision = d.review(call, arguments=b'{"value":"less"}')
    [dispatch] = decision.dispatches
    assert dispatch.arguments == b'{"value":"less"}'
    assert dispatch.idempotency_key != ""
    d.finish(dispatch)
    intact(d)


def test_an_edit_of_an_edit() -> None:
    d, call = held()
    first = d.review(call, arguments=b'{"value":"a"}')
    second = d.review(first, person=BEN, arguments=b'{"value":"b"}')
    third = d.review(second, arguments=b'{"value":"1000"}')
    assert entry(d).approvals == (PERSON,)
    [dispatch] = d.review(third, person=BEN).dispatches
    assert dispatch.arguments == b'{"value":"1000"}'
    intact(d)


def test_an_edit_that_changes_nothing_is_an_approval() -> None:
    d, call = held()
    d.review(call, arguments=b'{"value" : "1000"}')
    assert entry(d).approvals == (PERSON,) and not entry(d).edit_topic
    assert told(d.review(call, arguments=b'{"value":"1000"}')) == [("review", "noted", "already_approved")]
    edited = d.review(call, person=BEN, arguments=b'{"value":"2"}')
    same = d.review(edited, arguments=b'{"value":"2"}')
    assert same.dispatches
    intact(d)


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [(b'{"value":7}', "schema_violation"), (b"nonsense", "schema_violation"), (b"", "schema_violation"),
     (b'{"other":"x"}', "schema_violation"), (b'{"value":"never"}', "forbidden")],
)  # fmt: skip
def test_what_is_refused_to_the_agent_cannot_be_edited_in(arguments: bytes, detail: str) -> None:
    d, call = held()
    d.review(call)
    decision = d.review(call, person=BEN, arguments=arguments)
    assert told(decision) == [("review", "noted", "edit_refused")]
    facts = decision.outcomes[0].facts
    assert isinstance(facts, r.IntakeFacts) and facts.detail == detail
    assert entry(d).approvals == (PERSON,)
    intact(d)


def test_an_edit_never_asks_less_than_before() -> None:
    """`free` needs nobody; edited in, it still needs the two who were asked for."""
    d, call = held()
    edited = d.review(call, arguments=b'{"value":"free"}')
    assert not edited.dispatches
    assert d.review(edited, person=BEN).dispatches
    intact(d)


def test_an_edit_into_what_other_people_decide_is_refused() -> None:
    audit = (
        '@id("large") @hold("audit agrees") @reviewers("audit")\n'
        'permit (principal, action == Action::"desk.wire", resource) when { context.args has value && context.args.value == "huge" };'
    )
    d = Driver()
    d.deploy(compile_release({**release_files(), "policies/more.cedar": audit}), now=True)
    d.open_session()
    call = d.call("desk.wire", {"value": "1"})
    decision = d.review(call, arguments=b'{"value":"huge"}')
    assert told(decision) == [("review", "noted", "edit_refused")]
    facts = decision.outcomes[0].facts
    assert isinstance(facts, r.IntakeFacts) and facts.detail == "no_reviewer"


def test_an_old_approval_does_not_count_for_an_edit_back() -> None:
    """Replayed by somebody who may write to the topic: the same bytes again, but nobody looked at them since."""
    d, call = held()
    word = d.word(call)
    edited = d.review(call, person=BEN, arguments=b'{"value":"2"}')
    d.now += 10_000_000
    d.review(edited, person=BEN, arguments=b'{"value":"1000"}')
    assert told(d.feed("reviews", word)) == [("review", "noted", "review_outdated")]


# -- erased ---------------------------------------------------------------------------------------------------------------


def test_an_erased_subject_leaves_the_same_state_and_nothing_to_approve() -> None:
    d, call = held(tool="desk.ask")
    before = snapshot.encode(d.state)
    d.keys.destroyed.add("person-1")
    state = PartitionState(b"", 0)
    for record in d.records:
        state = fold_record(state, record.value)
    assert snapshot.encode(state) == before
    d.inputs["intents"].clear()  # the input topic has expired too,
    d.library = Library()  # and another worker took over
    assert told(d.review(call))[-1] == ("authorize", "refused", "no_executor")


def test_plug_ins_are_asked_after_people_even_when_the_session_is_closed() -> None:
    rules = 'guardrails:\n  - id: check\n    "on": call\n    tools: [desk.ask]\n    plugin: checker\n'
    files = dict(release_files())
    files["release.yaml"] += rules
    d = Driver()
    d.deploy(compile_release(files), now=True)
    d.open_session()
    call = d.call("desk.ask", {"value": "1"})
    d.close_session()
    decision = d.review(call)
    assert [o.status for o in decision.outcomes] == ["held", "permitted", "validated", "waiting"]
    assert len(d.state.parked) == 1
    [asked] = decision.dispatches
    end = d.receipt(asked, "finished", result=b'[{"id":"check","verdict":"pass"}]')
    assert [o.status for o in end.outcomes] == ["validated", "dispatched"]
    assert d.state.parked == {}
    intact(d)
