"""A rehearsal: a ledger partition in memory on which a release answers, without Kafka, tools or people.

    play = Rehearsal(release, agent)
    play.begin(); play.say("pay my rent")
    decision = play.call("banking.send_money", b'{"amount": 50, ...}')

The same `decide` and `apply` as in a worker, with a clock that counts and results that the case gives. Nothing is
sealed, nothing leaves. `run_case` plays one row of `release test`. Pure. Next: `releases/cases.py`, `pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson
from sluicegate.processors.approval.holds import MAX_QUORUM, REVIEWERS
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Agent, Person
from sluicegate.processors.inputs import Place
from sluicegate.processors.outcomes import Decision, Outcome
from sluicegate.processors.releases.cases import Case, Step
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.replay.one_partition import OnePartition
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.kinds import call_kind

T0 = 1_795_000_000_000_000
"""Microseconds; any time will do, as long as it is always the same."""
STEP_US = 1_000
LOG_ID = bytes(16)
SESSION = "session"
Said = Literal["permit", "refuse", "hold", "release", "withhold", "other"]
_SAID: dict[str, Said] = {
    "dispatched": "permit", "claimed": "permit", "refused": "refuse", "held": "hold", "released": "release", "withheld": "withhold",
}  # fmt: skip


PERMITTED = ("dispatched", "claimed")
"""An executor may take it; or it runs inside the agent, which has claimed it with the permit."""


class Rehearsal:
    """One agent with one session on one partition."""

    def __init__(
        self,
        release: CompiledRelease,
        agent: Agent,
        environment: str = "test",
        control: Control | None = None,
    ) -> None:
        """`control`: quarantines, reviews and modes are those of this moment; nothing of it changes. Orders to take agents back
        are left out: control keeps them for ever, and whether one still waits only the agent's partition knows."""
        self.agent, self.now, self._release = agent, T0, release
        people = reviewers(release)
        now = control or Control(0, LOG_ID, environment)
        control = replace(
            now, partitions=1, signing="dev", agents={agent.agent_id: agent}, people={p.person_id: p for p in people},
            deployed=release.digest, release=release, canary=None, pins={}, agent_orders={},
        )  # fmt: skip
        self.ledger = OnePartition(control, PartitionState(LOG_ID, 0, 1, environment))
        self._reviewers = [p.person_id for p in people]
        self._ids = 0

    def begin(
        self, goal: str = "", on_behalf_of: str = "", task: Mapping[str, object] | None = None
    ) -> Decision:
        """A channel opens the session."""
        message = r.Message(
            self._id(), self.agent.agent_id, SESSION, "session.open", self.now, goal, on_behalf_of,
            task="" if task is None else orjson.dumps(task).decode(),
        )  # fmt: skip
        return self._take("messages", message)

    def say(self, text: str) -> Decision:
        """The user says something."""
        message = r.Message(
            self._id(), self.agent.agent_id, SESSION, "session.user_said", self.now, text=text
        )
        return self._take("messages", message)

    def call(self, tool: str, arguments: bytes) -> Decision:
        """The agent asks for a call."""
        found = self._release.tools.get(tool)
        kind = call_kind(found.executor_kind if found else "")
        intent = r.Intent(self._id(), self.agent.agent_id, SESSION, kind, tool, arguments, self.now)
        return self._take("intents", intent)

    def agree(self, held: Decision) -> Decision:
        """As many people agree to a held call as it asks for; the last decision."""
        outcome, decision = held.outcomes[-1], held
        for reviewer in self._reviewers:
            digest: bytes = outcome.facts.action_digest  # type: ignore[attr-defined]
            review = r.Review(
                self._id(),
                self.agent.agent_id,
                outcome.origin.intent_id,
                "approve",
                digest,
                reviewer,
                self.now,
                release=outcome.origin.release,
            )
            decision = self._take("reviews", review)
            if decision.outcomes[-1].status not in ("held", "noted"):
                break
        return decision

    def answer(self, permitted: Decision, result: bytes) -> Decision:
        """The tool answers a permitted call."""
        dispatch = permitted.dispatches[0] if permitted.dispatches else None
        last = next(o for o in reversed(permitted.outcomes) if o.status == "dispatched")
        topic = "receipts" if dispatch else "intents"  # what runs inside the agent is reported by the agent
        claim = r.Receipt(
            dispatch.dispatch_id if dispatch else last.event_id, last.origin.intent_id, self.agent.agent_id, SESSION,
            "claimed", dispatch.attempt if dispatch else 1, "rehearsal", self.now, 0,
        )  # fmt: skip
        if dispatch and dispatch.tool_class != "read_only":
            self._take(topic, claim)
        claim.kind, claim.finished_at, claim.result = "finished", self.now, result
        return self._take(topic, claim)

    def bytes_at(self, place: Place) -> bytes | None:
        """An input's bytes."""
        return self.ledger.bytes_at(place)

    def _id(self) -> str:
        self._ids += 1
        return f"r-{self._ids}"

    def _take(self, topic: str, record: object) -> Decision:
        self.now += STEP_US
        return self.ledger.take(topic, codec.encode(record), self.now)[0]


def reviewers(release: CompiledRelease) -> list[Person]:
    """Enough people with every role that any policy asks for."""
    asked = {role for p in release.book.policies for role in p.annotations.get(REVIEWERS, "").split()}
    return [Person(f"reviewer-{n}", "", tuple(sorted(asked))) for n in range(1, MAX_QUORUM + 1)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate would say to one call.

    Attributes:
        status: `permit`, `hold` or `refuse`.
        stage, reason: who refused, and the code; empty where nobody did.
        policies: ids of the policies that decided.
        for_developer, for_model: what to do about it, in words.
        arguments: JSON as it would be executed, redactions included; None when it is not permitted.
    """

    status: str
    stage: str
    reason: str
    policies: tuple[str, ...]
    for_developer: str
    for_model: str
    arguments: bytes | None = None

    @property
    def allowed(self) -> bool:
        """Whether it would be executed, without a person."""
        return self.status == "permit"

    def __str__(self) -> str:
        who = ", ".join(f"`{policy}`" for policy in self.policies) or "no policy"
        if self.status == "refuse":
            return f"refused at {self.stage} (`{self.reason}`, by {who}): {self.for_developer}"
        return f"permitted by {who}" if self.allowed else f"held by {who}: {self.for_developer}"


def ask(
    release: CompiledRelease,
    agent: Agent,
    tool: str,
    arguments: bytes,
    *,
    control: Control | None = None,
    environment: str = "test",
    said: Sequence[str] = (),
    goal: str = "",
    on_behalf_of: str = "",
    task: Mapping[str, object] | None = None,
) -> Verdict:
    """What would become of one call in a session of its own, in which the user `said` this before."""
    play = Rehearsal(release, agent, environment, control)
    play.begin(goal, on_behalf_of, task)
    for text in said:
        play.say(text)
    decision = play.call(tool, arguments)
    last, reply = decision.outcomes[-1], decision.replies[-1] if decision.replies else None
    status = "permit" if last.status in PERMITTED else "hold" if last.status == "held" else "refuse"
    sent = decision.dispatches[0].arguments if decision.dispatches else reply.arguments if reply else None
    return Verdict(
        status, last.stage, last.reason, _policies(decision.outcomes), reply.for_developer if reply else "",
        reply.for_model if reply else "", sent if status == "permit" else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a case. `difference` is empty when it is as expected; `decided` are the policies that decided."""

    case: Case
    said: str
    stage: str
    reason: str
    policies: tuple[str, ...]
    detail: str
    difference: str
    decided: tuple[str, ...] = field(default=())


def run_case(release: CompiledRelease, case: Case) -> Played:
    """Play one case. A history that the release does not permit makes the case fail, with the step."""
    play = Rehearsal(release, Agent(case.agent, case.tenant, case.team, case.roles), case.environment)
    opened = play.begin(case.goal, case.on_behalf_of, case.task)
    if case.task is not None and opened.outcomes[-1].status != "opened":
        last = opened.outcomes[-1]
        said = f"its session does not open: {last.reason} {_detail(opened)}".strip()
        return Played(case, "other", last.stage, last.reason, (), _detail(opened), said)
    for number, step in enumerate(case.history, 1):
        decision = play.say(step.said) if step.said else _called(play, step)
        if step.call and decision.outcomes[-1].status != "released":
            last = decision.outcomes[-1]
            why = f"{last.reason} {' '.join(last.policies)}".strip()
            said = (
                f"step {number} of its history, `{step.call}`, is {last.status}: {why or _detail(decision)}"
            )
            return Played(case, "other", last.stage, last.reason, (), _detail(decision), said)
    return _judge(case, play)


def _called(play: Rehearsal, step: Step) -> Decision:
    decision = play.call(step.call, step.arguments)
    if step.agreed and decision.outcomes[-1].status == "held":
        decision = play.agree(decision)
    if decision.outcomes[-1].status in PERMITTED:
        decision = play.answer(decision, step.result if step.result is not None else b"{}")
    return decision


def _judge(case: Case, play: Rehearsal) -> Played:
    step = case.last
    decision = play.call(step.call, step.arguments)
    outcomes = list(decision.outcomes)
    if step.agreed and outcomes[-1].status == "held":
        decision = play.agree(decision)
        outcomes += decision.outcomes
    sent = decision.dispatches or decision.replies
    executed = sent[0].arguments if sent else None
    if step.result is not None and outcomes[-1].status in PERMITTED:
        decision = play.answer(decision, step.result)
        outcomes += decision.outcomes
    last = outcomes[-1]
    decided = _policies(outcomes)
    said: Said = _SAID.get(last.status, "other")
    shown = decision.replies[-1].result if decision.replies else None
    differences = [
        *_differ("decision", case.expect, said),
        *_differ("reason", case.reason, last.reason),
        *_differ("policies", case.policies, decided, _listed),
        *_differ("executed", case.executed, _json(executed)),
        *_differ("shown", case.shown, _json(shown)),
    ]
    detail = _detail(decision)
    if differences and detail:
        differences.append(f"({detail})")
    text = " ".join(differences)
    return Played(case, said, last.stage, last.reason, decided, detail, text, decided)


def _policies(outcomes: list[Outcome]) -> tuple[str, ...]:
    """The policies of the last outcome that names any: what decided in the end."""
    return next((tuple(sorted(o.policies)) for o in reversed(outcomes) if o.policies), ())


def _detail(decision: Decision) -> str:
    return decision.replies[-1].for_developer if decision.replies else ""


def _json(raw: bytes | None) -> object:
    return None if raw is None else orjson.loads(raw)


def _listed(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) and value else "none"


def _differ(what: str, expected: object, got: object, shown: Callable[[object], str] = str) -> list[str]:
    if expected is None or expected == got:
        return []
    return [f"{what}: expected {shown(expected) or 'none'}, got {shown(got) or 'none'};"]
