"""Diff: what another release would have decided on a ledger's inputs.

Every input of the window is decided again from its own bytes, under the control of that moment but with the candidate
release where one was deployed, and compared with what the ledger says. A session goes on as recorded: its first change
is a fact, every later one is `speculative`, since the agent would have gone on otherwise. Where both releases go the
same way, the candidate's facts are folded (its labels, its sums), else the recorded ones.
Never executes, seals or publishes: no more than `replay/rederive.py`, whose machinery this is. Next: `streams/replay/replay.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import Outcome, from_header
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.replay.missing import ErasedError
from sluicegate.processors.replay.recorded import Event, Opener
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.state import OpenIntent, intent_key
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal

MAX_CHANGES = 10_000
"""Changes kept of a partition, about 600 bytes each: 6 MB. All are counted in their groups."""
MAX_GROUPS = 10_000
"""Kinds of change told apart; beyond, they are counted under `other`."""
MAX_EXAMPLES = 3
"""Intents named for a kind of change."""

SAID = {
    "dispatched": "permit", "claimed": "permit", "refused": "refuse", "held": "hold", "released": "release",
    "withheld": "withhold",
}  # fmt: skip
"""A status in the words of a decision; other statuses are their own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one release made of an input: in a word, by which stage, for which reason and by which policies."""

    said: str
    stage: str
    reason: str
    policies: tuple[str, ...]

    def __str__(self) -> str:
        by = f" by {', '.join(self.policies)}" if self.policies else ""
        return f"{self.said} {self.reason}".strip() + by


@dataclass(frozen=True, slots=True)
class Change:
    """One input that comes out otherwise.

    Attributes:
        speculative: an earlier input of the session came out otherwise already.
    """

    partition: int
    seq: int
    offset: int
    decided_at: int
    agent_id: str
    session_id: str
    intent_id: str
    tool: str
    was: Answer
    now: Answer
    speculative: bool


@dataclass(slots=True)
class Group:
    """Changes of one kind."""

    tool: str
    agent_id: str
    was: Answer
    now: Answer
    count: int = 0
    speculative: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DiffTally:
    """What one partition's inputs come to under the candidate.

    Attributes:
        compared: inputs decided again; `by_tool` of them, the intents of each tool.
        changed, speculative: first changes of their sessions, and those after.
        policies_only: the same answer by other policies.
        observed: what the candidate's observing policies would have decided otherwise, by policy.
        erased, skipped: not compared, because content was erased, or because the machinery had failed.
    """

    compared: int = 0
    changed: int = 0
    speculative: int = 0
    policies_only: int = 0
    erased: int = 0
    skipped: int = 0
    sessions: int = 0
    sessions_changed: int = 0
    by_tool: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[str, str, Answer, Answer], Group] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


def under(history: Sequence[Control], candidate: CompiledRelease) -> list[Control]:
    """Control's history as if the candidate had stood wherever a release was deployed, under that one's name: reviews
    are bound to the release that people were shown, and would all be void under another name."""
    return [
        replace(c, release=candidate, releases=dict.fromkeys(c.published, candidate)) if c.deployed else c
        for c in history
    ]


class Diff(Rederive):
    """One partition. Feed every record from the first on, then `finish`; `diff` holds what was found.

    `controls` are those of `under`. `selected` says whether an input is compared or only folded.
    """

    def __init__(
        self,
        partition: int,
        controls: Sequence[Control],
        opener: Opener,
        selected: Callable[[list[Event]], bool] | None = None,
    ) -> None:
        super().__init__(partition, controls, opener, selected)
        self.diff = DiffTally()
        self._sessions: dict[tuple[str, str], bool] = {}
        self._made: list[Outcome] = []

    def _compare(self, group: list[Event]) -> None:
        first = group[0].header
        self._made = []
        if not 0 <= first.control_head < len(self._controls):
            raise Terminal(f"seq {first.seq} names control event {first.control_head}, which is not there, run `sluicegate ledger verify`")  # fmt: skip
        try:
            source = self._source(group[0])
            made = self._decision(source, self._controls[first.control_head], first.decided_at).outcomes
        except ErasedError:
            self.diff.erased += 1
            return
        except SluicegateError as error:
            raise Terminal(
                f"seq {first.seq} does not open: {error}, run `sluicegate ledger verify`"
            ) from error
        self._judge(group, made)

    def _judge(self, group: list[Event], made: list[Outcome]) -> None:
        diff, h = self.diff, group[0].header
        if group[0].header.reason == "machinery_failed":
            diff.skipped += 1
            return
        diff.compared += 1
        tool = self._tool_of(group)
        if tool and h.input_topic == "intents":
            diff.by_tool[tool] += 1
        past = [from_header(e.header, e.facts) for e in group]
        recorded, mine = answer(past), answer(made)
        for name in _observed(made):
            diff.observed[name] += 1
        session = (h.agent_id, h.session_id)
        if h.session_id and session not in self._sessions:
            self._sessions[session] = False
            diff.sessions += 1
        same = course(past) == course(made)
        if same and _redacted(past) == _redacted(made):
            diff.policies_only += recorded.policies != mine.policies
            self._made = made
            return
        if same:
            recorded, mine = replace(recorded, reason="redaction"), replace(mine, reason="another redaction")
        self._note(group[0], tool, recorded, mine, self._sessions.get(session, False))
        if h.session_id and not self._sessions[session]:
            self._sessions[session] = True
            diff.sessions_changed += 1

    def _note(self, event: Event, tool: str, was: Answer, now: Answer, speculative: bool) -> None:
        diff, h = self.diff, event.header
        if speculative:
            diff.speculative += 1
        else:
            diff.changed += 1
        if len(diff.changes) < MAX_CHANGES:
            diff.changes.append(
                Change(
                    h.partition, h.seq, event.offset, h.decided_at, h.agent_id, h.session_id, h.intent_id, tool, was,
                    now, speculative,
                )
            )  # fmt: skip
        key = (tool, h.agent_id, was, now)
        if key not in diff.groups and len(diff.groups) >= MAX_GROUPS:
            key = ("other", "other", Answer("other", "", "", ()), Answer("other", "", "", ()))
        group = diff.groups.setdefault(key, Group(*key))
        group.count += 1
        group.speculative += speculative
        if len(group.examples) < MAX_EXAMPLES and not speculative:
            group.examples.append(h.intent_id)

    def _tool_of(self, group: list[Event]) -> str:
        """The tool an input is about: named by an intent, or by the open intent that a later input belongs to."""
        facts, h = group[0].facts, group[0].header
        if isinstance(facts, r.IntentFacts):
            return facts.tool
        entry = self.state.intents.get(intent_key(h.tenant, h.agent_id, h.intent_id))
        return entry.tool if isinstance(entry, OpenIntent) else ""

    def _folded(self, group: list[Event]) -> list[Outcome]:
        recorded = super()._folded(group)
        made, self._made = self._made, []
        for outcome, mine in zip(recorded, made, strict=False):
            outcome.labels = mine.labels
            if isinstance(outcome.facts, r.PlanFacts) and isinstance(mine.facts, r.PlanFacts):
                outcome.facts = replace(
                    outcome.facts, measured=mine.facts.measured, amounts=mine.facts.amounts
                )
        return recorded


def answer(outcomes: Sequence[Outcome]) -> Answer:
    """What it came to. The policies are those of the last outcome that names any."""
    if not outcomes:
        return Answer("nothing", "", "", ())
    last = outcomes[-1]
    policies = next((tuple(sorted(o.policies)) for o in reversed(outcomes) if o.policies), ())
    return Answer(SAID.get(last.status, last.status), last.stage, last.reason, policies)


def course(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    """The steps it took."""
    return [(o.stage, o.status, o.reason) for o in outcomes]


def _stage_facts(outcomes: Sequence[Outcome]) -> list[r.StageFacts | r.HoldFacts]:
    return [o.facts for o in outcomes if isinstance(o.facts, r.StageFacts | r.HoldFacts)]


def _observed(outcomes: Sequence[Outcome]) -> list[str]:
    """What observing policies and rules would have decided otherwise."""
    return sorted({name for facts in _stage_facts(outcomes) for name in facts.observed})


def _redacted(outcomes: Sequence[Outcome]) -> list[str]:
    return sorted({recipe for facts in _stage_facts(outcomes) for recipe in facts.redacted})
