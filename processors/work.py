"""One decision in the making: what the stages share while one input passes through them.

A stage reads `Work`, fills in what it found, and answers None (passed) or a `Refusal`. Never kept after the
decision. Next: `pipeline.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sluicegate.processors.approval.holds import Hold
from sluicegate.processors.artifacts import Reference
from sluicegate.processors.conform import Conformed
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import release_for, view
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.grounding import Grounded
from sluicegate.processors.guardrails.rules import Rule
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.models.routes import Aim, Choice
from sluicegate.processors.outcomes import Decision, Origin, Outcome, event_id
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.releases.prompts import Told
from sluicegate.processors.releases.release import CompiledRelease, CompiledTool
from sluicegate.processors.state import OpenIntent, PartitionState, Session, key_of, session_of
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Intent, Receipt, Reply
from sluicegate.schemas.requests import request_digest
from sluicegate.schemas.topics import MAX_INTENT_BYTES, TICK

if TYPE_CHECKING:
    from sluicegate.processors.sessions.task import Task

ENGINE = "0.1.0"
"""Version of the deciding code; a test holds it to the package's version."""


SYSTEM = "system"
"""The subject of content that names nobody we know."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A stage's no. `detail` is for the developer and may quote the call: it becomes content, never facts."""

    reason: str
    detail: str = ""
    policies: tuple[str, ...] = ()


@dataclass(slots=True)
class Work:
    """What is known so far about the input being decided."""

    state: PartitionState
    control: Control
    source: Input | Tick
    now: int
    origin: Origin
    first_seq: int
    decision: Decision = field(default_factory=Decision)
    intent: Intent | None = None
    payload: bytes = b""
    authenticated: bool = False
    request: str = ""
    """What the client says it asks for; empty where it does not ask twice."""
    proof: bytes = b""
    """In signed environments the envelope that carried the intent: what an executor checks again."""
    large: Reference | None = None
    """What the arguments are stored as, where they came by reference (`large_arguments.py`)."""
    edited: bool = False
    """A person's arguments stand in place of those the agent signed."""
    agent: Agent | None = None
    session: Session | None = None
    release: CompiledRelease | None = None
    """Of the session (`stand_on`)."""
    environment: CompiledRelease | None = None
    """Deployed: whose budgets count for every session, whatever it stands on."""
    tool: CompiledTool | None = None
    conformed: Conformed | None = None
    policies: list[str] = field(default_factory=list)
    determined: list[Policy] = field(default_factory=list)
    hold: Hold | None = None
    grounded: list[Grounded] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    action_digest: bytes = b""
    call_digest: bytes = b""
    """What makes calls the same, for `guardrails/derail.py`."""
    redacted: list[str] = field(default_factory=list)
    """Recipes of `guardrails/redact.py` that changed the call."""
    receipt: Receipt | None = None
    """The receipt being decided: what an attempt used."""
    reserved: bool = False
    """Whether this decision reserved something of a budget."""
    asks: list[Rule] = field(default_factory=list)
    """Guardrails whose plug-ins have to be asked before the call may run."""
    told: Told | None = None
    """What a model call tells the model."""
    choice: Choice | None = None
    """The candidates of a routed model call, and which of them may be asked."""
    aim: Aim | None = None
    """The candidate that is asked now."""
    attempt: int = 1
    """The attempt that is offered."""
    task: Task | None = None
    """Of the session, where the release declares one (`sessions/task.py`)."""


def at_hand(work: Work, place: Place) -> bytes | None:
    """The bytes at a place; None when they are gone, or asked for just now."""
    library = work.source.library
    value = library.raw(place) if library is not None else None
    if value is None and place not in work.source.contents:
        work.decision.needs.append(place)
        return None
    return value if value is not None else work.source.contents[place]


def digest_of(work: Work) -> bytes:
    """Of the input, as a duplicate of it would have it."""
    return request_digest(work.payload, work.request)


def begin(state: PartitionState, control: Control, source: Input | Tick, now: int) -> Work:
    """A `Work` with an origin that names nobody yet."""
    if isinstance(source, Tick):
        topic, offset = TICK, state.seq
    else:
        topic, offset = source.topic, source.offset
    origin = Origin(
        "", "", "", "", SYSTEM, now, topic, source.partition, offset, control.head, control.deployed, ENGINE
    )  # fmt: skip
    return Work(state, control, source, now, origin, state.seq, environment=control.release)


def stand_on(work: Work, session_id: str, session: Session | None) -> None:
    """Decide under the release of this session; None: it is about to open."""
    digest = release_for(work.control, work.origin.agent_id, session_id, session)
    if digest != work.control.deployed:
        work.control = view(work.control, digest)
        work.origin.release = digest


def stand_with(work: Work, entry: OpenIntent) -> None:
    """Decide under the release of an open intent's session; when it is gone, under the environment's."""
    session = session_of(work.state, entry)
    if session is not None:
        stand_on(work, entry.session_id, session)


def emit(
    work: Work,
    stage: str,
    status: str,
    facts: object,
    reason: str = "",
    policies: list[str] | None = None,
    content: bytes | None = None,
    caused_by: bytes = b"",
    labels: list[str] | None = None,
) -> Outcome:
    """Append an outcome to the decision. It follows the one before it unless `caused_by` says otherwise.

    The first outcome of an input carries the input's own bytes, so that the ledger alone can decide it again.
    """
    outcomes = work.decision.outcomes
    ordinal = len(outcomes)
    if not ordinal and type(work.source) is Input:
        content = work.source.value[:MAX_INTENT_BYTES]
    if not caused_by and ordinal:
        caused_by = outcomes[-1].event_id
    outcome = Outcome(
        work.origin,
        event_id(work.state.log_id, work.state.partition, work.first_seq, stage, ordinal),
        stage, status, reason, facts, policies or [], [caused_by] if caused_by else [], labels or [], content,
    )  # fmt: skip
    outcomes.append(outcome)
    return outcome


def reply(
    work: Work,
    outcome: Outcome,
    *,
    status: str = "",
    detail: str = "",
    result: bytes | None = None,
    duplicate: bool = False,
    attempt: int = 0,
    arguments: bytes | None = None,
) -> None:
    """Tell the agent what an outcome means for it."""
    o = work.origin
    text = REASONS.get(outcome.reason)
    for_developer = detail
    if text is not None:
        for_developer = f"{detail}: {text.remedy}" if detail else text.remedy
    work.decision.replies.append(
        Reply(
            outcome.event_id, o.intent_id, o.agent_id, o.session_id, status or outcome.status, outcome.stage,
            outcome.reason, outcome.policies, o.decided_at, result, text.for_model if text else "", for_developer,
            duplicate, attempt, arguments, *named_release(work), _answers(work),
        )
    )  # fmt: skip


def _answers(work: Work) -> bytes:
    """Digest of the request that a reply answers; empty for what is no intent."""
    if work.origin.topic == "messages" or not work.origin.intent_id:
        return b""
    seen = work.state.intents.get(key_of(work.origin))
    if seen is not None:
        return seen.digest
    return digest_of(work) if work.origin.topic == "intents" else b""


def named_release(work: Work) -> tuple[str, str, str]:
    """Digest, name and version of the release this is decided under, for a reply."""
    release = work.control.release
    return (
        (work.origin.release, release.name, release.version)
        if release is not None
        else (work.origin.release, "", "")
    )
