"""Without: what a ledger would hold, had one event never come. One partition of it.

The input the event belongs to (or every input of one call) is left out; all later ones are decided again, as they were
recorded, on a state of their own that never saw it. Ids are those of the record, so receipts find their offers. What then
comes out otherwise is certain as long as nobody had to answer otherwise. From where a session saw the event's content,
or got another answer than the recorded one, its agent would have asked other things: all it asked after that is
`speculative`, decided as if it had asked the same. That goes on where a memory value of such a session is read and where
such a session hands work on, on any partition.

A partition is as recorded until the event, or until something comes from another one that differs (`crossing/crossing.py`).
Never executes, seals or publishes: no more than `replay/rederive.py`, whose machinery this is. Next: `replay/together.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from sluicegate.processors import snapshot
from sluicegate.processors.agents.fold import Cuts
from sluicegate.processors.agents.orders import orders_in
from sluicegate.processors.agents.restore import PLACE
from sluicegate.processors.control.control import Control
from sluicegate.processors.crossing.alarms import alarm_first, due_alarm
from sluicegate.processors.crossing.crossing import Crossing, Sent
from sluicegate.processors.crossing.homes import TRANSFER
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.jobs.doubts import spread
from sluicegate.processors.outcomes import Decision, Outcome, from_header, header_hash, key_of
from sluicegate.processors.pipeline import decide
from sluicegate.processors.replay.apart import MAX_CHANGES, Change, Course, Drop, NotMade
from sluicegate.processors.replay.diff import Answer, answer
from sluicegate.processors.replay.missing import ErasedError
from sluicegate.processors.replay.parted import NOTHING, differs, key_in, seen, sent_id, taken_back_by
from sluicegate.processors.replay.recorded import Event, Opener
from sluicegate.processors.replay.rederive import Rederive, places_of
from sluicegate.processors.state import OpenIntent, PartitionState, apply, due_intent
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal, Unreadable

MAX_TICKS = 100
"""Deadlines that are acted on between two recorded inputs, where there were none."""

BEYOND = 1 << 40
"""Seqs of what never was on the record begin here: ids are made of them, and are no id of the record's."""

KEEP_INSTEAD = 10_000
"""Inputs that came instead of recorded ones, kept before those nothing refers to are dropped: at most 64 kB each."""


class Without(Rederive):
    """One partition. `add` every record from the first on and `step` for each input that is `ready`; `finish` readies
    the last. What is found is in `crossing.apart`."""

    def __init__(
        self, partition: int, controls: Sequence[Control], opener: Opener, drop: Drop, crossing: Crossing
    ) -> None:
        super().__init__(partition, controls, opener)
        self.other: PartitionState | None = None
        self.ready: deque[list[Event]] = deque()
        self._crossing, self._drop = crossing, drop
        self._other_cuts = Cuts(orders_in(controls), partition, crossing.partitions)
        self._instead: dict[Place, bytes] = {}
        self._beyond = 0

    def _end_group(self) -> None:
        group, self._group = self._group, []
        if group:
            self.ready.append(group)

    def _awaited(self) -> int:
        return super()._awaited() + sum(map(len, self.ready))

    def _places(self) -> list[Place]:
        return super()._places() + (places_of(self.other) if self.other is not None else [])

    def step(self) -> None:
        """Take the oldest input that is ready."""
        group = self.ready.popleft()
        self.tally.inputs += 1
        self.tally.outcomes += len(group)
        h, dropped = group[0].header, self._drop.holds(group)
        self._cuts.before(self.state, h.decided_at)
        if self.other is None:
            self._other_cuts.before(self.state, h.decided_at)
        self._crossing.begun |= dropped
        if dropped:
            self._leave_out(group)
        elif self._crossing.begun:
            self.arrive(h.decided_at)
            ident = sent_id(group[0])
            if self.other is not None or ident in self._crossing.instead:
                self._again(group, ident)
            else:
                recorded = [from_header(e.header, e.facts) for e in group]
                self._judge(group, recorded, recorded)
        self._fold(group)

    def _fork(self) -> PartitionState:
        """The state that never saw it."""
        if self.other is None:
            self.other = snapshot.decode(snapshot.encode(self.state))
            self._crossing.apart.touched.add(self.state.partition)
        return self.other

    # -- what is left out -----------------------------------------------------------------------------------------------

    def _leave_out(self, group: list[Event]) -> None:
        other, crossing, h = self._fork(), self._crossing, group[0].header
        self.arrive(h.decided_at)
        crossing.apart.dropped += [e.header.seq for e in group]
        crossing.compare(self.state.partition, self._was(group), None, h.decided_at, False)
        other.prev_hash = header_hash(group[-1].header_bytes)
        self._count([from_header(e.header, e.facts) for e in group], [])
        if any(e.header.status == "dispatched" for e in group):
            self._not_made(group, False)
        if seen(group):
            self.unknown(h.agent_id, h.session_id, h.seq, "it saw what is left out")

    # -- what is decided again ------------------------------------------------------------------------------------------

    def _again(self, group: list[Event], ident: bytes) -> None:
        other, crossing, h = self._fork(), self._crossing, group[0].header
        recorded = [from_header(e.header, e.facts) for e in group]
        other.log_id = self.state.log_id
        self.deadlines(h.decided_at, h.control_head, key_in(h))
        was, now = None, None
        try:
            now = self._now(group, ident)
            was = self._was(group)
        except ErasedError:
            crossing.apart.erased += 1
        made = recorded if now is None else now.outcomes
        crossing.apart.decided += 1
        for outcome in made:
            apply(other, outcome)
        other.prev_hash = header_hash(group[-1].header_bytes)
        self._other_cuts.before(other, h.decided_at)
        later = self._judge(group, recorded, made)
        if was is not None:
            crossing.compare(self.state.partition, was, now, h.decided_at, later)
        self._count(recorded, made)

    def _was(self, group: list[Event]) -> Decision:
        """The recorded decision, with what it sent: the ledger does not keep that."""
        first = group[0].header
        if first.stage == "genesis" or first.reason == "machinery_failed":
            return Decision()
        try:
            return self._decision(
                self._opened(group[0]), self._controls[first.control_head], first.decided_at
            )
        except ErasedError:
            return Decision()

    def _now(self, group: list[Event], ident: bytes) -> Decision:
        """What this input leads to without the event. Ids are those of the record."""
        other, first = self._fork(), group[0].header
        if first.stage == "genesis" or first.reason == "machinery_failed":
            return Decision(outcomes=[from_header(e.header, e.facts) for e in group])
        other.seq = first.seq
        self._other_cuts.before(other, first.decided_at)
        control, place = self._controls[first.control_head], (first.input_topic, first.input_offset)
        if ident in self._crossing.instead:
            record = self._crossing.instead[ident]
            if record is None:
                return Decision()  # nobody sent it
            return self._came(record, place, control, first.decided_at)
        source = self._opened(group[0])
        if isinstance(source, Tick) and source.order < 0 and first.intent_id:
            due = due_intent(other, first.decided_at)
            if due is None or due[0] != key_in(first):
                return Decision()  # acted on only if it is due here, too; an alarm of a home looks itself
        return self._decided(source, control, first.decided_at)

    def _opened(self, event: Event) -> Input | Tick:
        try:
            return self._source(event)
        except SluicegateError as error:
            raise Terminal(
                f"seq {event.header.seq} does not open: {error}, run `sluicegate ledger verify`"
            ) from error

    def sent(self, event: Event) -> object:
        """The exchange or hand-off that this input is; None when its content is gone."""
        try:
            source = self._opened(event)
            record = codec.decode(source.value) if isinstance(source, Input) else None
            return codec.decode(record.payload) if isinstance(record, r.Envelope) else record
        except (ErasedError, Unreadable):
            return None

    def _came(self, record: Sent, place: Place, control: Control, at: int) -> Decision:
        """Another partition sent this. Nobody signed it: it is taken as an environment that does not sign takes it."""
        value = codec.encode(record)
        self._instead[place] = value
        if len(self._instead) > KEEP_INSTEAD:
            held = set(self._places())
            self._instead = {p: v for p, v in self._instead.items() if p in held or p == place}
        source = Input(place[0], self.state.partition, place[1], value)
        return self._decided(source, replace(control, signing="dev"), at)

    def _decided(self, source: Input | Tick, control: Control, at: int) -> Decision:
        other = self._fork()
        source.library = None  # it may hold what is left out
        decision = decide(other, control, source, at)
        while decision.needs:
            source.contents.update({place: self._load_other(place) for place in decision.needs})
            decision = decide(other, control, source, at)
        return decision

    def _load_other(self, place: Place) -> bytes | None:
        if place[0] == PLACE:
            return self._other_cuts.values.get(place[1])
        return self._instead[place] if place in self._instead else self._load(place)

    # -- what never was on the record -----------------------------------------------------------------------------------

    def arrive(self, at: int) -> bool:
        """Take what other partitions sent up to a time and never did on the record; whether there was any."""
        came = list(self._crossing.due(self.state.partition, at))
        for when, record in came:
            other = self._fork()
            now = max(when, other.now)
            self._beyond += 1
            place = ("transfers", -self._beyond)
            control = self._controls[max(0, other.control_head)]
            other.seq = BEYOND + self._beyond
            self._otherwise(self._came(record, place, control, now), now, "hand-off")
        return bool(came)

    def deadlines(self, at: int, head: int, but: bytes = b"") -> bool:
        """Act on what is due here and was not on the record; whether there was any. `but`: a call that is looked at anyway."""
        acted = False
        for _ in range(MAX_TICKS):
            if self.other is None or not self._due_otherwise(self.other, at, but):
                return acted
            self._beyond += 1
            self.other.seq = BEYOND + self._beyond
            tick = Tick(self.state.partition, at)
            decision = self._decided(tick, self._controls[max(0, head)], at)
            if not decision.outcomes:
                return acted
            self._otherwise(decision, at, "deadline")
            acted = True
        return acted

    def _due_otherwise(self, other: PartitionState, at: int, but: bytes) -> bool:
        """Whether what is due first is not due at that time on the record, which else has a tick for it."""
        alarm, due = due_alarm(other, at), due_intent(other, at)
        if alarm is not None and (due is None or alarm_first(other, due[1].due_at)):
            return self.state.alarms.get(alarm) != other.alarms[alarm]
        if due is None or due[0] == but:
            return False
        entry = self.state.intents.get(due[0])
        return not isinstance(entry, OpenIntent) or (entry.due_at, entry.state) != (
            due[1].due_at,
            due[1].state,
        )

    def _otherwise(self, decision: Decision, at: int, what: str) -> None:
        """Fold and tell a decision that has no place on the record."""
        other, crossing = self._fork(), self._crossing
        made, seq = decision.outcomes, self.state.seq
        o = made[0].origin
        key = key_of(o)
        entry = other.intents.get(key)
        for outcome in made:
            apply(other, outcome)
        later = key in crossing.asked_later
        if made[0].stage != TRANSFER:
            tool = entry.tool if isinstance(entry, OpenIntent) else ""
            self._add(seq, b"", at, o.agent_id, o.session_id, o.intent_id, tool, what, NOTHING, answer(made), later)  # fmt: skip
        spread(self, crossing, made, seq, later)
        crossing.compare(self.state.partition, None, decision, at, later)
        self._count([], made)

    # -- what it means --------------------------------------------------------------------------------------------------

    def _judge(self, group: list[Event], recorded: list[Outcome], made: list[Outcome]) -> bool:
        """Tell what comes out otherwise; whether the session it belongs to is one that nobody can know about."""
        h, crossing = group[0].header, self._crossing
        apart, key, session = crossing.apart, key_in(h), (h.agent_id, h.session_id)
        place = apart.sessions.get(session)
        unknown = place is not None and place.unknown_from >= 0
        asks = h.input_topic in ("intents", "messages") and h.stage != "execute"
        if place is not None and unknown and asks:
            crossing.asked_later.add(key)
            place.unknown += 1
            apart.unknown += 1
        later = key in crossing.asked_later
        what = differs(recorded, made, h.input_topic) if made is not recorded else ""
        if (
            what and h.stage != TRANSFER
        ):  # an exchange answers nobody: what waited for it does, by its own tick
            self._add(
                h.seq, h.event_id, h.decided_at, *session, h.intent_id, self._tool_of(group), what, answer(recorded),
                answer(made), later,
            )  # fmt: skip
            if "dispatched" in {o.status for o in recorded} - {o.status for o in made}:
                self._not_made(group, later)
            if h.session_id and not later:
                known = self.course(*session)
                known.first = h.seq if known.first < 0 else known.first
                self.unknown(*session, h.seq, "it got another answer")
        spread(self, crossing, made, h.seq, unknown or later)
        return unknown or later

    def _not_made(self, group: list[Event], speculative: bool) -> None:
        h = group[0].header
        back, partition = taken_back_by(group), self.state.partition
        made = NotMade(h.agent_id, h.intent_id, speculative, back, partition, h.seq)
        self._crossing.apart.not_made.append(made)

    def course(self, agent_id: str, session_id: str) -> Course:
        """What became of a session of this partition."""
        return self._crossing.apart.sessions.setdefault(
            (agent_id, session_id), Course(partition=self.state.partition)
        )

    def unknown(self, agent_id: str, session_id: str, seq: int, why: str) -> None:
        """From here on nobody can know what a session would have asked."""
        if session_id:
            known = self.course(agent_id, session_id)
            if known.unknown_from < 0:
                known.unknown_from, known.why = seq, why

    def _add(
        self, seq: int, event: bytes, at: int, agent: str, session: str, intent: str, tool: str, what: str, was: Answer,
        now: Answer, later: bool,
    ) -> None:  # fmt: skip
        apart = self._crossing.apart
        apart.speculative += later
        apart.changed += not later
        if len(apart.changes) < MAX_CHANGES:
            apart.changes.append(
                Change(
                    self.state.partition, seq, event.hex(), at, agent, session, intent, tool, what, was, now, later
                )
            )  # fmt: skip

    def _tool_of(self, group: list[Event]) -> str:
        facts = group[0].facts
        if isinstance(facts, r.IntentFacts):
            return facts.tool
        entry = self.state.intents.get(key_in(group[0].header))
        return entry.tool if isinstance(entry, OpenIntent) else ""

    def _count(self, recorded: list[Outcome], made: list[Outcome]) -> None:
        for total, outcomes in ((self._crossing.spent, recorded), (self._crossing.would, made)):
            for outcome in outcomes:
                facts = outcome.facts
                if isinstance(facts, r.BudgetFacts):
                    for account, spent, overran in zip(
                        facts.accounts, facts.spent, facts.overran, strict=True
                    ):
                        total[account] += spent + overran
