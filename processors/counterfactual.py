"""Without: what a ledger would hold, had one event never come.

The input the event belongs to (or every input of one call) is left out; all later ones are decided again, as they were
recorded, on a state of their own that never saw it. Ids are those of the record, so receipts find their offers. What then
comes out otherwise is certain as long as nobody had to answer otherwise. From where a session saw the event\'s content,
or got another answer than the recorded one, its agent would have asked other things: all it asked after that is
`speculative`, decided as if it had asked the same. That goes on where a memory value of such a session is read and where
such a session hands work on. Other partitions are not decided again: what leads there is said.
Never executes, seals or publishes: no more than `rederive.py`, whose machinery this is. Next: `streams/without.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sluicegate.processors import snapshot
from sluicegate.processors.agent_fold import Cuts
from sluicegate.processors.agent_orders import orders_in
from sluicegate.processors.agent_restore import PLACE
from sluicegate.processors.apart import MAX_CHANGES, Apart, Change, Course, Drop
from sluicegate.processors.control import Control
from sluicegate.processors.diff import Answer, answer, course
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.outcomes import Outcome, from_header, header_hash, intent_key
from sluicegate.processors.pipeline import decide
from sluicegate.processors.rederive import ErasedError, Event, Opener, Rederive
from sluicegate.processors.state import OpenIntent, PartitionState, apply, due_intent
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal

MAX_TICKS = 100
"""Deadlines that are acted on between two recorded inputs, where there were none."""


class Without(Rederive):
    """One partition. Feed every record from the first on, then `finish`; `apart` holds what was found."""

    def __init__(self, partition: int, controls: Sequence[Control], opener: Opener, drop: Drop) -> None:
        super().__init__(partition, controls, opener)
        self.apart = Apart()
        self.other: PartitionState | None = None
        self._drop = drop
        partitions = controls[0].partitions if controls else 0
        self._other_cuts = Cuts(orders_in(controls), partition, partitions)
        self._asked_later: set[bytes] = set()
        """Intents that were asked when nobody could know any more."""
        self._parted: set[bytes] = set()
        """Intents that stand otherwise than on the record."""
        self._doubtful: set[bytes] = set()
        """Memory cells whose value is of that kind."""
        self._spent: Counter[str] = Counter()
        self._would: Counter[str] = Counter()

    def _end_group(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        self.tally.inputs += 1
        self.tally.outcomes += len(group)
        h = group[0].header
        self._cuts.before(self.state, h.decided_at)
        dropped = self._drop.holds(group)
        if dropped and self.other is None:
            self.other = snapshot.decode(snapshot.encode(self.state))
        if self.other is None:
            self._other_cuts.before(self.state, h.decided_at)
        elif dropped:
            self._leave_out(group)
        else:
            self._again(group)
        self._fold(group)

    # -- what is left out -----------------------------------------------------------------------------------------------

    def _leave_out(self, group: list[Event]) -> None:
        h = group[0].header
        self.apart.dropped += [e.header.seq for e in group]
        self._parted.add(_key(h))
        self._count([from_header(e.header, e.facts) for e in group], [])
        if any(e.header.status == "dispatched" for e in group):
            self.apart.not_made.append((h.agent_id, h.intent_id, False))
        if _seen(group):
            self._unknown(h, "it saw what is left out")

    # -- what is decided again ------------------------------------------------------------------------------------------

    def _again(self, group: list[Event]) -> None:
        assert self.other is not None
        apart, h = self.apart, group[0].header
        recorded = [from_header(e.header, e.facts) for e in group]
        self.other.log_id = self.state.log_id
        self._deadlines(h)
        try:
            made = self._made(group)
        except ErasedError:
            apart.erased += 1
            made = recorded
        apart.decided += 1
        for outcome in made:
            apply(self.other, outcome)
        self.other.prev_hash = header_hash(group[-1].header_bytes)
        self._other_cuts.before(self.other, h.decided_at)
        self._judge(group, recorded, made)
        self._count(recorded, made)

    def _made(self, group: list[Event]) -> list[Outcome]:
        """What this input leads to without the event. Ids are those of the record."""
        assert self.other is not None
        first = group[0].header
        if first.stage == "genesis" or first.reason == "machinery_failed":
            return [from_header(e.header, e.facts) for e in group]
        self.other.seq = first.seq
        self._other_cuts.before(self.other, first.decided_at)
        try:
            source = self._source(group[0])
        except SluicegateError as error:
            raise Terminal(
                f"seq {first.seq} does not open: {error}, run `sluicegate ledger verify`"
            ) from error
        if isinstance(source, Tick) and source.order < 0:
            return self._tick(group, source)
        return self._decided(source, self._controls[first.control_head], first.decided_at)

    def _decided(self, source: Input | Tick, control: Control, at: int) -> list[Outcome]:
        assert self.other is not None
        source.library = None  # it may hold what is left out
        decision = decide(self.other, control, source, at)
        while decision.needs:
            source.contents.update({place: self._load(place) for place in decision.needs})
            decision = decide(self.other, control, source, at)
        return decision.outcomes

    def _load(self, place: Place) -> bytes | None:
        if place[0] == PLACE:
            return self._other_cuts.values.get(place[1])
        return super()._load(place)

    def _tick(self, group: list[Event], source: Tick) -> list[Outcome]:
        """A recorded deadline is acted on if its intent is due here, too; an alarm of a home always is."""
        assert self.other is not None
        first = group[0].header
        if not first.intent_id:
            return self._decided(source, self._controls[first.control_head], first.decided_at)
        due = due_intent(self.other, first.decided_at)
        if due is None or due[0] != _key(first):
            return []
        return self._decided(source, self._controls[first.control_head], first.decided_at)

    def _deadlines(self, h: r.Header) -> None:
        """Intents that stand otherwise have deadlines of their own."""
        assert self.other is not None
        for _ in range(MAX_TICKS):
            due = due_intent(self.other, h.decided_at)
            if due is None or due[0] not in self._parted or due[0] == _key(h):
                return
            entry = due[1]
            self.other.seq = h.seq
            made = self._decided(
                Tick(h.partition, h.decided_at), self._controls[h.control_head], h.decided_at
            )
            if not made:
                return
            for outcome in made:
                apply(self.other, outcome)
            self._count([], made)
            later = due[0] in self._asked_later
            none = Answer("nothing", "", "", ())
            self._add(
                h,
                entry.agent_id,
                entry.session_id,
                entry.intent_id,
                entry.tool,
                "deadline",
                none,
                answer(made),
                later,
            )

    # -- what it means --------------------------------------------------------------------------------------------------

    def _judge(self, group: list[Event], recorded: list[Outcome], made: list[Outcome]) -> None:
        h = group[0].header
        key, session = _key(h), (h.agent_id, h.session_id)
        place = self.apart.sessions.get(session)
        unknown = place is not None and place.unknown_from >= 0
        if unknown and h.input_topic in ("intents", "messages") and not _is_receipt(group):
            self._asked_later.add(key)
            assert place is not None
            place.unknown += 1
            self.apart.unknown += 1
        later = key in self._asked_later
        what = _differs(recorded, made, h.input_topic)
        if what:
            self._parted.add(key)
            self._add(
                h, *session, h.intent_id, self._tool_of(group), what, answer(recorded), answer(made), later
            )
            offered = {o.status for o in recorded} - {o.status for o in made}
            if "dispatched" in offered:
                self.apart.not_made.append((h.agent_id, h.intent_id, later))
            if h.session_id and not later:
                known = self.apart.sessions.setdefault(session, Course())
                known.first = h.seq if known.first < 0 else known.first
                self._unknown(h, "it got another answer")
        self._spread(h, made, unknown or later)

    def _spread(self, h: r.Header, made: list[Outcome], unknown: bool) -> None:
        """Values that nobody can know, and who reads them or is handed work."""
        for outcome in made:
            facts = outcome.facts
            if isinstance(facts, r.MemoryFacts | r.CellFacts):
                if facts.op in ("read", "search"):
                    doubtful = bool(self._doubtful) if facts.op == "search" else facts.cell in self._doubtful
                    if doubtful and not unknown:
                        self._unknown(h, "it read a value that nobody can know")
                elif unknown:
                    self._doubtful.add(facts.cell)
                elif facts.op != "append":
                    self._doubtful.discard(facts.cell)
            elif isinstance(facts, r.SessionFacts) and outcome.status == "delegated" and unknown:
                target = (facts.to_agent, facts.to_session)
                known = self.apart.sessions.setdefault(target, Course())
                if known.unknown_from < 0:
                    known.unknown_from, known.why = h.seq, "it was handed on by such a session"
                    self.apart.leads_to.append(target)

    def _unknown(self, h: r.Header, why: str) -> None:
        if not h.session_id:
            return
        known = self.apart.sessions.setdefault((h.agent_id, h.session_id), Course())
        if known.unknown_from < 0:
            known.unknown_from, known.why = h.seq, why

    def _add(
        self, h: r.Header, agent: str, session: str, intent: str, tool: str, what: str, was: Answer, now: Answer, later: bool
    ) -> None:  # fmt: skip
        apart = self.apart
        apart.speculative += later
        apart.changed += not later
        if len(apart.changes) < MAX_CHANGES:
            apart.changes.append(
                Change(
                    h.partition,
                    h.seq,
                    h.event_id.hex(),
                    h.decided_at,
                    agent,
                    session,
                    intent,
                    tool,
                    what,
                    was,
                    now,
                    later,
                )
            )

    def _tool_of(self, group: list[Event]) -> str:
        facts, h = group[0].facts, group[0].header
        if isinstance(facts, r.IntentFacts):
            return facts.tool
        entry = self.state.intents.get(intent_key(h.tenant, h.agent_id, h.intent_id))
        return entry.tool if isinstance(entry, OpenIntent) else ""

    def _count(self, recorded: list[Outcome], made: list[Outcome]) -> None:
        for total, outcomes in ((self._spent, recorded), (self._would, made)):
            for outcome in outcomes:
                facts = outcome.facts
                if isinstance(facts, r.BudgetFacts):
                    for account, spent, overran in zip(
                        facts.accounts, facts.spent, facts.overran, strict=True
                    ):
                        total[account] += spent + overran

    def close(self) -> Apart:
        """What was found, once everything was fed."""
        self.finish()
        apart = self.apart
        if self.other is None:
            return apart
        for account in sorted(self._spent.keys() | self._would.keys()):
            if self._spent[account] != self._would[account]:
                apart.spends[account] = (self._spent[account], self._would[account])
        for key in sorted(self.state.memory.keys() | self.other.memory.keys()):
            was, now = self.state.memory.get(key), self.other.memory.get(key)
            if was is None or now is None or was.value_digest != now.value_digest:
                apart.memory[key.hex()] = tuple(
                    "nothing" if c is None else f"version {c.version}, sha256 {c.value_digest.hex()[:12]}"
                    for c in (was, now)
                )  # type: ignore[assignment]
        return apart


def _key(h: r.Header) -> bytes:
    return intent_key(h.tenant, h.agent_id, h.intent_id)


def _is_receipt(group: list[Event]) -> bool:
    return group[0].header.stage == "execute"


def _seen(group: list[Event]) -> bool:
    """Whether an agent saw something of this input: a result, a refusal, what a user said, or a session\'s goal."""
    return any(
        e.header.status in ("released", "resolved", "heard", "opened", "refused", "withheld", "failed")
        for e in group
    )


def _differs(recorded: list[Outcome], made: list[Outcome], topic: str) -> str:
    """In what an input comes out otherwise, or an empty text."""
    if course(recorded) != course(made):
        return "approval" if topic == "reviews" else "decision"
    return "memory" if _memory(recorded) != _memory(made) else ""


def _memory(outcomes: list[Outcome]) -> list[tuple[str, bytes, bytes]]:
    """What was read or written. The version is a count: without the event it is another one, the value the same."""
    found = [o.facts for o in outcomes if isinstance(o.facts, r.MemoryFacts | r.CellFacts)]
    return [(f.op, f.cell, f.value_digest) for f in found]
