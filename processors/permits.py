"""Permits: whether a dispatch is really the pipeline's, and the call really the agent's. The executor's own check.

In a signed environment a dispatch is wrapped in an envelope by a key of role `pipeline`, and carries the agent's signed
intent. Both are checked here against control as the executor reads it, so who can write the topic `dispatches`, and
even who holds the pipeline's secret, cannot make up a call (docs/decisions/0011-executors-verify-again.md).
Pure: the executor hands in control and the time. Next: `intake.py` (the same checks at the ledger),
`executors/verifier.py` (who calls these).
"""

from __future__ import annotations

from sluicegate.processors.approval.holds import MAX_HOLD_US
from sluicegate.processors.conform import Misfit, parse
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.intake import Problem, check_envelope, take
from sluicegate.processors.state import ACCEPT_WINDOW_US
from sluicegate.processors.validate import action_digest
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.kinds import CALL_KINDS
from sluicegate.schemas.records import Dispatch, Envelope, Intent
from sluicegate.schemas.topics import partition_of

TOPIC = "dispatches"
SIGNERS = ("pipeline",)

MAX_PROOF_AGE_US = ACCEPT_WINDOW_US + MAX_HOLD_US
"""An intent is accepted for a day and may be held for another: an older proof is a replayed one."""


def open_dispatch(control: Control, partition: int, value: bytes, now: int) -> Dispatch | Problem:
    """The dispatch that the pipeline signed, or why the record must have no effect. Never raises.

    What it says is not yet the agent's word: `agents_word` is asked once control is as new as `control_head`.
    """
    try:
        record = codec.decode(value)
        if not isinstance(record, Envelope):
            return Problem("unsigned", "this environment takes signed dispatches only")
        problem = check_envelope(control, TOPIC, record, SIGNERS, now)
        if problem is not None:
            return problem
        dispatch = codec.decode(record.payload)
    except Unreadable as error:
        return Problem(error.reason, str(error))
    if not isinstance(dispatch, Dispatch):
        return _unexpected(dispatch)
    if partition_of(dispatch.agent_id, control.partitions) != partition:
        # A copy elsewhere would be claimed a second time by another lane.
        return Problem("misrouted", "the dispatch belongs to another partition")
    return dispatch


def same_call(dispatch: Dispatch) -> Problem | None:
    """What speaks against it that these are the bytes that were decided on, approved and reserved for. Never raises.

    INVARIANT: what is called has the digest that was decided (tests/unit/test_permits.py). A look at a call that was made,
    and a model's call with a request for repair on top of it, name no version and are not held to it.
    """
    d = dispatch
    if d.arguments_ref:
        return None  # asked again once they were fetched (`executors/calls.py`)
    if not d.version or action_digest(d.tool, d.version, d.arguments) == d.action_digest:
        return None
    return Problem("call_changed", "the call is another one than was decided on")


def agents_word(control: Control, dispatch: Dispatch, now: int) -> Problem | None:
    """What speaks against it that this agent asked for exactly this call. Never raises."""
    if (
        dispatch.purpose
    ):  # a look at a call that was made has no effect, and goes on whatever became of the agent
        return None
    # INVARIANT: nobody's call but the agent's own has an effect (tests/unit/test_permits.py).
    if reason := inactive(control.agents.get(dispatch.agent_id)):
        return Problem(reason, f"agent `{dispatch.agent_id[:80]}` may not act now")
    if dispatch.transformed:  # the original stays with the pipeline: its word, and its signature, must do
        return None
    if not dispatch.proof:
        return Problem("unsigned", "the dispatch carries no signed intent")
    taken = take(control, "intents", dispatch.proof, None)
    if isinstance(taken, Problem):
        return taken
    intent = taken.record
    if not isinstance(intent, Intent):
        return Problem("bad_signature", "the dispatch carries no signed intent")
    if abs(now - intent.issued_at) > MAX_PROOF_AGE_US:
        return Problem("too_old", "the signed intent in the dispatch is older than any that may still run")
    asked = (intent.intent_id, intent.agent_id, intent.session_id, intent.tool)
    told = (dispatch.intent_id, dispatch.agent_id, dispatch.session_id, dispatch.tool)
    if intent.kind not in CALL_KINDS or asked != told or not _same_arguments(intent, dispatch):
        return Problem("bad_signature", "the dispatch is another call than the agent signed")
    return None


def _same_arguments(intent: Intent, dispatch: Dispatch) -> bool:
    """Whether the dispatch has the arguments that were signed; by reference those of the same digest."""
    if intent.arguments_ref:
        return not intent.arguments and intent.arguments_ref == dispatch.arguments_ref
    parsed = parse(intent.arguments)
    return not (dispatch.arguments_ref or isinstance(parsed, Misfit)) and parsed[1] == dispatch.arguments


def _unexpected(record: object) -> Problem:
    return Problem("unexpected_type", f"topic `{TOPIC}` does not accept a {type(record).__name__}")
