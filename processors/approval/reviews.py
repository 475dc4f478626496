"""Reviews: a person's word on a held call.

An approval is bound to the digest and the release that were shown, counts once a person, and is used once. An edit is
an approval of other arguments: a new digest, recorded as the editor's, on which approvals begin anew. Whatever is not
right about a review is recorded with its reason (`noted`) and changes nothing. A badly signed one never gets here
(`intake.py`). Never asks again by itself and never looks at a clock. Next: `approval/approvals.py` (what follows).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sluicegate.processors.approval.approvals import ask_again, go_on, recheck, refuse
from sluicegate.processors.approval.holds import Hold, stricter
from sluicegate.processors.control.control import Person
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.route import valid_id
from sluicegate.processors.state import Ended, OpenIntent, key_of
from sluicegate.processors.work import Refusal, Work, emit, reply, stand_with
from sluicegate.schemas.records import IntakeFacts, Review, ReviewFacts

VERDICTS = ("approve", "reject")

CLOCKS_US = 5_000_000
"""A review may be this much older than what is asked, by its own clock: clocks differ by less than a second under
NTP, and a process 5 s behind the ledger stops."""

WHY_CHARS = 500
"""Of a rejection's words, in the reply to the agent."""


def decide_review(work: Work, review: Review) -> None:
    """Approve, edit or reject one held call."""
    o = work.origin
    if not valid_id(review.intent_id):
        _note(work, "bad_identifier")
        return
    o.intent_id = review.intent_id
    entry = work.state.intents.get(key_of(o))
    if type(entry) is OpenIntent:
        o.session_id, o.subject = entry.session_id, entry.subject
        stand_with(work, entry)
    problem = _problem(work, review, entry)
    if problem or type(entry) is not OpenIntent:
        _note(work, problem)
    elif review.verdict == "reject":
        _reject(work, review, entry)
    elif entry.hold_release != work.control.deployed:
        _ask_anew(work, entry)
    elif review.arguments is not None:
        _edit(work, review, entry, review.arguments)
    else:
        _approve(work, review, entry)


def may_review(person: Person | None, reviewers: Sequence[str]) -> bool:
    """Whether somebody is registered and has one of the roles, where roles are asked for."""
    return person is not None and (not reviewers or not set(person.roles).isdisjoint(reviewers))


def _problem(work: Work, review: Review, entry: OpenIntent | Ended | None) -> str:
    """Why this review changes nothing, or an empty string. What it is about comes before whose it is."""
    if entry is None or (type(entry) is OpenIntent and not entry.hold_release):
        return "not_held"
    if type(entry) is not OpenIntent or entry.state != "held" or work.now >= entry.due_at or entry.withdrawn:
        return "review_late"
    if review.verdict not in VERDICTS:
        return "unknown_verdict"
    if review.action_digest != entry.action_digest:
        # INVARIANT: one byte changed, and the approval is void (tests/unit/test_reviews.py).
        return "digest_mismatch"
    if review.release != entry.hold_release:
        return "release_mismatch"
    if review.issued_at < entry.asked_at - CLOCKS_US:
        return "review_outdated"
    return _problem_of_person(work, review, entry)


def _problem_of_person(work: Work, review: Review, entry: OpenIntent) -> str:
    if review.reviewer in work.control.agents:
        # INVARIANT: no agent agrees to a call, least of all its own (tests/unit/test_reviews.py).
        return "agent_cannot_review"
    person = work.control.people.get(review.reviewer)
    if person is None:
        return "unknown_person"
    if not may_review(person, entry.reviewers):
        return "wrong_reviewer"
    if review.verdict == "approve" and review.arguments is None and review.reviewer in entry.approvals:
        return "already_approved"
    # Nothing is permitted under a head nobody could confirm: the person has to say it again.
    return "control_stale" if work.source.control_stale else ""


def _reject(work: Work, review: Review, entry: OpenIntent) -> None:
    asked = _asked(entry)
    outcome = _record(work, review, entry, asked, entry.approvals, entry.action_digest)
    reply(work, outcome, detail=review.why[:WHY_CHARS])


def _decide_anew(work: Work, entry: OpenIntent, edit: bytes | None = None) -> Refusal | None:
    """Restore the call and decide it as of now; means nothing when `work.decision.needs` is set."""
    problem = restore_call(work, entry, edit)
    if problem or work.decision.needs:
        return Refusal(problem)
    return recheck(work)


def _ask_anew(work: Work, entry: OpenIntent) -> None:
    """Another release is deployed than people were shown: this approval is void, and the new release asks."""
    refusal = _decide_anew(work, entry)
    if work.decision.needs:
        return
    _note(work, "release_changed", caused_by=entry.last_event)
    if refusal is not None:
        refuse(work, refusal, "after approval")
    else:
        ask_again(work, entry, _asked(entry))


def _approve(work: Work, review: Review, entry: OpenIntent) -> None:
    asked = _asked(entry)
    # Whoever was removed since, or lost the role, no longer counts.
    standing = [p for p in entry.approvals if may_review(work.control.people.get(p), asked.reviewers)]
    approvals = (*standing, review.reviewer)
    enough = len(approvals) >= asked.quorum
    refusal = _decide_anew(work, entry) if enough else None
    if work.decision.needs:
        return
    _record(work, review, entry, asked, approvals, entry.action_digest)
    if enough:
        go_on(work, entry, asked, entry.action_digest, refusal)


def _edit(work: Work, review: Review, entry: OpenIntent, arguments: bytes) -> None:
    """Other arguments, under the same rules as the agent's own: what policies refuse, nobody can edit in."""
    refusal = _decide_anew(work, entry, arguments)
    if work.decision.needs:
        return
    if refusal is not None:
        _note(work, "edit_refused", refusal.reason)
        return
    if work.action_digest == entry.action_digest:  # no edit at all
        if review.reviewer in entry.approvals:
            _note(work, "already_approved")
        else:
            _approve(work, review, entry)
        return
    asked = stricter(_asked(entry), work.hold) if work.hold is not None else _asked(entry)
    person = work.control.people.get(review.reviewer)
    if asked.impossible or not may_review(person, asked.reviewers):
        _note(work, "edit_refused", "no_reviewer" if asked.impossible else "wrong_reviewer")
        return
    digest = work.action_digest
    outcome = _record(work, review, entry, asked, (review.reviewer,), digest, edited=True)
    if asked.quorum > 1:
        assert work.conformed is not None
        reply(work, outcome, detail="a person changed the arguments", arguments=work.conformed.canonical)
    else:
        go_on(work, entry, asked, digest, None)


def _asked(entry: OpenIntent) -> Hold:
    """What stands to be agreed to."""
    return Hold("people were asked before", entry.hold_policies, entry.quorum, entry.reviewers)


def _record(
    work: Work, review: Review, entry: OpenIntent, asked: Hold, approvals: Sequence[str], digest: bytes,
    *, edited: bool = False,
) -> Outcome:  # fmt: skip
    """A word that counts: who said what to which bytes, and how many did so far."""
    facts = ReviewFacts(
        review.verdict, review.reviewer, digest, list(approvals), asked.quorum, list(asked.reviewers), edited,
        work.authenticated,
    )  # fmt: skip
    policies = sorted({*work.policies, *asked.policies}) if edited else list(asked.policies)
    if review.verdict == "reject":
        status, reason = "refused", "approval_rejected"
    else:
        status, reason = "held", "approval_required" if len(approvals) < asked.quorum else ""
    return emit(work, "review", status, facts, reason, policies, caused_by=entry.last_event)


def _note(work: Work, reason: str, detail: str = "review", *, caused_by: bytes = b"") -> None:
    digest = hashlib.sha256(work.payload).digest()[:16]
    emit(work, "review", "noted", IntakeFacts(detail, len(work.payload), digest), reason, caused_by=caused_by)
