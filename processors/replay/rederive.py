"""Decide a ledger partition again from its own bytes, and compare what comes out with what stands there.

Every input's first outcome carries the input, so the ledger and control's history are all it takes. Each outcome that
`decide` makes is sealed at the recorded place and its header and facts are compared byte for byte; then the
*recorded* outcomes are folded, so one difference does not hide or cause the next.

Here is no producer, no executor and no key that could seal: replay cannot make anything happen, by construction
(tests/unit/test_rederive.py holds the imports to it). Next: `replay/recorded.py` (how a difference is told),
`pipeline.py`, `streams/replay/replay.py` (who feeds this).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sluicegate.processors.agents.fold import Cuts
from sluicegate.processors.agents.orders import orders_in
from sluicegate.processors.agents.restore import PLACE
from sluicegate.processors.artifacts import Reference
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.large_arguments import PLACE as ARGUMENTS
from sluicegate.processors.large_arguments import REASON as UNAVAILABLE
from sluicegate.processors.large_arguments import referred
from sluicegate.processors.models.aims import RECEIPTS
from sluicegate.processors.outcomes import Decision, Outcome, from_header, header_hash, seal
from sluicegate.processors.pipeline import decide
from sluicegate.processors.replay.missing import BeforeSeamError, ErasedError, GoneError
from sluicegate.processors.replay.recorded import Difference, Event, Opener, difference_at, explain
from sluicegate.processors.seam.fold import STAGE as SEAM
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import Ended, OpenIntent, PartitionState, apply
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.places import stand
from sluicegate.schemas.topics import MAX_INTENT_BYTES, TICK

MAX_DIFFERENCES = 100
"""Kept with their positions; all are counted."""
_KEEP_SLACK = 10_000
"""Inputs kept beyond those the state still refers to before they are looked through."""


@dataclass(slots=True)
class Tally:
    """Counts of one partition, in inputs but for `outcomes`.

    Attributes:
        same, different: what was compared.
        erased: not compared, because content was erased, or what an intent refers to is gone.
        skipped: not compared by nature: `genesis`, `seam` (`ledger verify` compares that one), `machinery_failed` that the loop wrote
            after three tries, or `before the seam`: it asked for bytes that stand in another generation.
        without_bytes: same, once the bytes a decision asked for are taken as gone, as they were then.
        other_engine: compared although another version of the code had decided.
    """

    inputs: int = 0
    outcomes: int = 0
    same: int = 0
    different: int = 0
    erased: int = 0
    outside: int = 0
    without_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    other_engine: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)


@dataclass(slots=True)
class Kept:
    """An input's sealed bytes, for decisions that ask for them later."""

    subject: str
    event_id: bytes
    sealed: bytes
    partial: bool


class Rederive:
    """One partition. Feed every record from the first on; `finish` ends it.

    `selected(events)` says whether an input, given by its outcomes, is compared or only folded.
    """

    def __init__(
        self,
        partition: int,
        controls: Sequence[Control],
        opener: Opener,
        selected: Callable[[list[Event]], bool] | None = None,
    ) -> None:
        self.tally = Tally()
        self.state = PartitionState(b"", partition)
        self._controls, self._open, self._selected = controls, opener, selected
        self.stored: Callable[[Reference], bytes | None] = lambda reference: None
        """What an intent refers to; None when it is gone."""
        self._group: list[Event] = []
        self._was_unavailable = False
        self._deciding: tuple[Place, bytes] = ("", -1), b""
        self._end = 0
        self._kept: dict[Place, Kept] = {}
        self.far: dict[Place, Kept] = {}
        """What stands before a seam, as far as somebody read it there; `missed`: what was asked for, and nobody did."""
        self.missed: set[Place] = set()
        self._library = Library()
        partitions = controls[0].partitions if controls else 0
        self._cuts = Cuts(orders_in(controls), partition, partitions)

    def add(self, offset: int, value: bytes) -> Event:
        """Take one record, and give it back decoded. Raises `Terminal` when the ledger itself is broken there."""
        record = reading.split(value)
        header = codec.decode_as(r.Header, record.header)
        event = Event(offset, header, record.header, codec.decode(record.facts), record.facts, record.content)
        if self._group and _input_of(self._group[0].header) != _input_of(header):
            self._end_group()
        if header.seq != self._awaited():
            raise Terminal(
                f"ledger partition {self.state.partition} is broken at seq {header.seq}, run `sluicegate ledger verify`"
            )
        self._group.append(event)
        self._end = offset + 1
        return event

    def _awaited(self) -> int:
        """The seq of the record that comes next."""
        return self.state.seq + len(self._group)

    @property
    def pending(self) -> int:
        """Ledger offset of the first record that is not decided again yet."""
        return self._group[0].offset if self._group else self._end

    def finish(self) -> Tally:
        """Decide the last input too."""
        self._end_group()
        return self.tally

    def _end_group(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        self.tally.inputs += 1
        self.tally.outcomes += len(group)
        self._cuts.before(self.state, group[0].header.decided_at)
        if self._selected is not None and not self._selected(group):
            self.tally.outside += 1
        elif group[0].header.stage in ("genesis", SEAM):
            self.tally.skipped[group[0].header.stage] += 1
        else:
            self._compare(group)
        self._fold(group)

    def _fold(self, group: list[Event]) -> None:
        state, first = self.state, group[0]
        if first.header.seq == 0:
            state.log_id = first.header.log_id
        for event, outcome in zip(group, self._folded(group), strict=True):
            self._cuts.before(state, event.header.decided_at)
            apply(state, outcome)
            state.prev_hash = header_hash(event.header_bytes)
        h = first.header
        if isinstance(first.facts, r.RestoreFacts):
            self._cuts.drop(first.facts.order)
        if h.input_topic != TICK and first.sealed is not None:
            partial = isinstance(first.facts, r.IntakeFacts) and first.facts.length > MAX_INTENT_BYTES
            self._kept[h.input_topic, h.input_offset] = Kept(h.subject, h.event_id, first.sealed, partial)
            if len(self._kept) > 2 * len(state.intents) + _KEEP_SLACK:
                self._forget()

    def _folded(self, group: list[Event]) -> list[Outcome]:
        """What is folded of an input: its recorded outcomes."""
        return [from_header(event.header, event.facts) for event in group]

    def _forget(self) -> None:
        """Keep the inputs that open or remembered intents refer to: as much as the ledger itself may ask for."""
        self._kept = {place: self._kept[place] for place in self._places() if place in self._kept}

    def _places(self) -> list[Place]:
        """Where bytes stand that a later decision may ask for."""
        return [*places_of(self.state), *self._cuts.places()]

    # -- one input ----------------------------------------------------------------------------------------------

    def _compare(self, group: list[Event]) -> None:
        tally, first = self.tally, group[0].header
        self._was_unavailable = any(e.header.reason == UNAVAILABLE for e in group)
        if not 0 <= first.control_head < len(self._controls):
            raise Terminal(f"seq {first.seq} names control event {first.control_head}, which is not there, run `sluicegate ledger verify`")  # fmt: skip
        try:
            difference = self._decide(group, self._source(group[0]))
        except BeforeSeamError:
            tally.skipped["before the seam"] += 1
            return
        except ErasedError:
            tally.erased += 1
            return
        except SluicegateError as error:  # a ciphertext that does not belong to its key
            difference = difference_at(group[0], "content", error, "")
        if difference is None:
            tally.same += 1
        elif first.reason == "machinery_failed":
            tally.skipped["machinery_failed"] += 1
        else:
            tally.different += 1
            if len(tally.differences) < MAX_DIFFERENCES:
                tally.differences.append(difference)

    def _decide(self, group: list[Event], source: Input | Tick) -> Difference | None:
        """Decide as the loop did: once, and again with the bytes that were asked for."""
        first = group[0].header
        control = self._controls[first.control_head]
        decision = self._decision(source, control, first.decided_at)
        asked = bool(source.contents)
        difference = self._difference(group, decision.outcomes)
        if difference is None or not asked:
            return difference
        # The input topic may no longer have held the bytes that the ledger still has.
        source.contents.update(dict.fromkeys(source.contents))
        source.library = None
        if self._difference(group, decide(self.state, control, source, first.decided_at).outcomes) is None:
            self.tally.without_bytes += 1
            return None
        return difference

    def _decision(self, source: Input | Tick, control: Control, at: int) -> Decision:
        """Decide, and again with the bytes that were asked for. Raises `ErasedError`."""
        source.library = self._library
        decision = decide(self.state, control, source, at)
        while decision.needs:
            source.contents.update({place: self._load(place) for place in decision.needs})
            decision = decide(self.state, control, source, at)
        return decision

    def _source(self, event: Event) -> Input | Tick:
        h, facts = event.header, event.facts
        if h.input_topic == TICK:
            order = facts.order if isinstance(facts, r.RestoreFacts) else -1
            return Tick(h.input_partition, h.decided_at, order=order)
        value = None if event.sealed is None else self._open(h.subject, h.event_id, event.sealed)
        if value is None:
            raise ErasedError(h.subject)
        if isinstance(facts, r.IntakeFacts) and facts.length > len(value) == MAX_INTENT_BYTES:
            value = value.ljust(
                facts.length, b"\0"
            )  # only its beginning was kept; too large is all that was decided
        self._deciding = (h.input_topic, h.input_offset), value
        stale = isinstance(facts, r.IntentFacts | r.SessionFacts) and facts.control_stale
        stale = stale or h.reason == "control_stale"
        return Input(h.input_topic, h.input_partition, h.input_offset, value, stale)

    def _load(self, place: Place) -> bytes | None:
        if place[0] == PLACE:
            return self._cuts.values.get(place[1])
        if place[0] == ARGUMENTS:
            return self._arguments(("intents", place[1]))
        kept = self._kept.get(place)
        if stand(place[1]) is not None:
            kept = self.far.get(place)
            if kept is None:
                self.missed.add(place)
                raise BeforeSeamError(place[0])
        if kept is None or kept.partial:
            return None
        value = self._open(kept.subject, kept.event_id, kept.sealed)
        if value is None:
            raise ErasedError(kept.subject)
        return value

    def _arguments(self, intent: Place) -> bytes | None:
        """What an intent refers to. What is gone by now, but was not then, is as good as erased."""
        reference = referred(self._deciding[1] if self._deciding[0] == intent else self._load(intent))
        found = self.stored(reference) if reference is not None else None
        if found is None and reference is not None and not self._was_unavailable:
            raise GoneError(reference.digest)
        return found

    def _difference(self, group: list[Event], made: list[Outcome]) -> Difference | None:
        """The first difference between the recorded outcomes and those made now."""
        for event, outcome in zip(group, made, strict=False):
            h = event.header
            if outcome.origin.engine != h.engine:
                self.tally.other_engine[h.engine] += 1
                outcome.origin.engine = h.engine
            facts = outcome.facts
            if (
                isinstance(facts, r.IntakeFacts)
                and isinstance(event.facts, r.IntakeFacts)
                and facts.length > MAX_INTENT_BYTES
            ):
                outcome.facts = replace(facts, digest=event.facts.digest)  # of bytes that were not kept
            value, _ = seal(outcome, h.log_id, h.partition, h.seq, h.prev_hash, self._sealer(event))
            remade = reading.split(value)
            if remade.header != event.header_bytes or remade.facts != event.facts_bytes:
                return explain(event, outcome, remade)
        if len(group) != len(made):
            at = group[min(len(group), len(made)) - 1]
            return difference_at(
                at, "outcomes", " ".join(e.header.status for e in group), " ".join(o.status for o in made)
            )
        return None

    def _sealer(self, event: Event) -> Callable[[str, bytes, bytes], bytes]:
        """Seals nothing: gives the recorded ciphertext for the content that is in it, and no match for any other."""
        # INVARIANT: no key is made or used to seal here (tests/unit/test_rederive.py).

        def sealer(subject: str, event_id: bytes, content: bytes) -> bytes:
            h = event.header
            if event.sealed is not None and (subject, event_id) == (h.subject, h.event_id):
                try:
                    recorded = self._open(subject, event_id, event.sealed)
                except SluicegateError:
                    return b""
                # What was erased cannot be compared; its commitment is taken as right.
                if recorded is None or recorded == content:
                    return event.sealed
            return b""

        return sealer


def places_of(state: PartitionState) -> list[Place]:
    """Where the bytes stand that a state refers to."""
    entries = [e for e in state.intents.values() if isinstance(e, OpenIntent | Ended)]
    held = [(e.topic, e.offset) for e in entries]
    held += [(e.edit_topic, e.edit_offset) for e in entries if isinstance(e, OpenIntent) and e.edit_topic]
    held += [(e.job_topic, e.job_offset) for e in entries if isinstance(e, OpenIntent) and e.job_topic]
    held += [(RECEIPTS, e.repair) for e in entries if isinstance(e, OpenIntent) and e.repair >= 0]
    for sessions in (state.sessions, state.parked):
        held += [(s.topic, s.offset) for session in sessions.values() for s in session.sources]
    held += [(cell.topic, cell.offset) for cell in state.memory.values()]
    held += [(piece.topic, piece.offset) for cell in state.memory.values() for piece in cell.pieces]
    held += [(kept.topic, kept.offset) for kept in state.cache.entries.values()]
    return held


def _input_of(h: r.Header) -> tuple[str, int]:
    return h.input_topic, h.input_offset
