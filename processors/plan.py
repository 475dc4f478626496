"""Plan: a permitted, validated call becomes an offer to the executors, or a permit to run in process.

The offer is a lease: no claim or call may begin after `not_after`. Unclaimed, it is offered again by a tick after
lease and margin (`ticks.py`); claimed without a receipt, the class of the contract decides (DESIGN §5.4).
In signed environments it carries the agent's own signed intent (`permits.py` checks it at the executor).
Next: `receipts.py`, `ticks.py`; the other side is `executors/dispatcher.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors.conform import Misfit, parse
from sluicegate.processors.grounding import value_at
from sluicegate.processors.large_arguments import offered
from sluicegate.processors.memory import memory
from sluicegate.processors.models import streaming
from sluicegate.processors.models.aims import arguments_of, asked, facts_of, key_part
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.releases import prompt_read, prompts
from sluicegate.processors.sessions.history import measure
from sluicegate.processors.state import LEASE_MARGIN_US, OpenIntent
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.records import ClaimFacts, Dispatch, PlanFacts, StreamFacts

LEASE_US = 5_000_000
"""How long an offer may be claimed: long enough for a busy executor, short enough to try another one."""

DEFAULT_DEADLINE_US = 300_000_000
"""Without a `deadline_at`, an intent nobody executes expires five minutes after it was routed."""

PAUSE = "pause"
"""What a call awaits that a model's server asked to come later."""

MAX_ATTEMPTS = 50
"""Offers of one intent; with a lease of 5 s and a margin of 2 s that is six minutes."""


def idempotency_key(tenant: str, agent_id: str, intent_id: str, digest: bytes) -> str:
    """Stable over every attempt of one intent, and over replays; never made from an offset."""
    return hashlib.sha256(f"{tenant}\0{agent_id}\0{intent_id}\0".encode() + digest).hexdigest()[:40]


def plan(work: Work, attempt: int = 1) -> None:
    """Emit the dispatch. The last stage never refuses."""
    tool, intent, conformed = asked(work), work.intent, work.conformed
    assert tool and intent and conformed and work.tool
    in_process = tool.executor_kind == "in_process"
    if tool.executor_kind == memory.KIND and memory.away(work):
        deadline = intent.deadline_at or intent.issued_at + DEFAULT_DEADLINE_US
        memory.ask_home(work, plan_facts(work, attempt, deadline))
        return
    not_after = work.now + LEASE_US
    if intent.deadline_at is not None:  # of a call that people held, moved by the time they took
        not_after = min(not_after, intent.deadline_at)  # nothing begins after nobody waits any more
    facts = plan_facts(work, attempt, not_after)
    outcome = emit(work, "plan", "dispatched", facts, labels=streaming.offer_labels(tool, facts))
    if tool.executor_kind == memory.KIND:
        memory.perform(work, work.now + tool.timeout_ms * 1000)
        return
    if tool.executor_kind == prompts.KIND:
        prompt_read.perform(work)
        return
    if in_process:
        # The permit is the claim: the reply that carries it is visible only once both are committed.
        lease = work.now + tool.timeout_ms * 1000
        emit(work, "execute", "claimed", ClaimFacts(attempt, "agent", work.now, lease))
        reply(work, outcome, status="permitted", attempt=attempt, arguments=conformed.canonical)
        return
    dispatch(work, outcome, tool.tool_class, tool.executor, attempt, tool.timeout_ms, not_after)


def plan_facts(work: Work, attempt: int, not_after: int) -> PlanFacts:
    """The facts of an offer; of a routed call they name the candidate."""
    tool, conformed = asked(work), work.conformed
    assert tool and conformed and work.tool
    facts = PlanFacts(
        work.action_digest, tool.tool_class, tool.executor_kind, attempt, not_after, tool.timeout_ms,
        [f"{work.tool.name}.{name}" for name in tool.measures],
        [measure(value_at(conformed.args, m)) for m in tool.measures],
    )  # fmt: skip
    return streaming.plan_facts(work, tool, facts_of(work, facts))


def pause(work: Work, attempt: int, until: int) -> None:
    """Offer the attempt later, at `until` in microseconds: its tick does (`awaiting.py`)."""
    facts = plan_facts(work, attempt, until - LEASE_MARGIN_US)
    facts.executor = PAUSE
    emit(work, "plan", "waiting", facts)


def dispatch(
    work: Work,
    outcome: Outcome,
    tool_class: str,
    executor: bytes,
    attempt: int,
    timeout_ms: int,
    not_after: int,
) -> None:
    """Offer the call as it stands to an executor. Times in microseconds but for `timeout_ms`."""
    tool, intent, conformed, o = work.tool, work.intent, work.conformed, work.origin
    assert tool and intent and conformed
    proof, transformed = _proof(work)
    facts = outcome.facts
    shown = facts if isinstance(facts, StreamFacts) and facts.mode in streaming.LIVE else None
    offer = Dispatch(
        outcome.event_id, o.intent_id, o.agent_id, o.session_id, o.tenant, tool.name, tool_class, executor,
        arguments_of(work), work.action_digest,
        idempotency_key(o.tenant, o.agent_id, o.intent_id, work.action_digest + key_part(work)), attempt, timeout_ms,
        not_after, intent.traceparent, work.control.head, proof, transformed, release=work.control.deployed,
        candidate=work.aim.candidate if work.aim else "",
        version="" if work.aim and work.aim.message else tool.version,
        stream=shown.mode if shown else "", replaces=shown.replaces if shown else "",
        around=streaming.rules_context(work, shown),
    )  # fmt: skip
    work.decision.dispatches.append(offered(work, offer))


def _proof(work: Work) -> tuple[bytes, bool]:
    """The agent's own signed intent, for the executor to check; and whether the call is another than it signed.

    A transformed call carries none: the original would show the executor what was taken out of it.
    """
    assert work.intent is not None and work.conformed is not None
    if not work.proof:
        return b"", False
    if work.edited:
        return b"", True
    if work.large is not None:  # what is offered is what the agent stored, or another call
        transformed = work.intent.arguments != work.conformed.canonical
    else:
        parsed = parse(work.intent.arguments)
        transformed = isinstance(parsed, Misfit) or parsed[1] != work.conformed.canonical
    transformed = transformed or bool(work.aim and work.aim.message)
    return (b"" if transformed else work.proof), transformed


def deadline_of(intent: OpenIntent) -> int:
    """When nobody wants the intent's result any more; the time that people took does not count."""
    return (intent.deadline_at or intent.issued_at + DEFAULT_DEADLINE_US) + intent.waited_us
