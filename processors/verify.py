"""The invariants of a ledger partition, checked record by record: the fsck's pure half.

The invariants and their names are in `invariants.py`. A checker goes on after a violation, so one flipped bit does not hide the next one. It shares no
code with `apply`, so that a mistake in the fold does not verify itself. Never reads Kafka or a clock.
Next: `verify_lives.py` (intents), `streams/verify.py` (who feeds this).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from sluicegate.processors import control as control_fold
from sluicegate.processors import reading
from sluicegate.processors.control import Control
from sluicegate.processors.deployments import in_use
from sluicegate.processors.invariants import Findings
from sluicegate.processors.outcomes import ZERO_HASH, event_id, header_hash
from sluicegate.processors.reading import Head, Rest
from sluicegate.processors.release import CompiledRelease
from sluicegate.processors.verify_budgets import STAGES, BudgetSums
from sluicegate.processors.verify_contents import Contents, Opener
from sluicegate.processors.verify_lives import Lives
from sluicegate.processors.verify_restores import Restores
from sluicegate.processors.verify_standing import Standings
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.topics import INPUTS, TICK, partition_of

RANGE = 8_192
"""Events of one sum that is compared with ClickHouse."""


_ELSEWHERE = ("refused", "unreadable")
"""What a record that came to the wrong partition is answered."""


class Chain:
    """What holds of every ledger, control's too."""

    def __init__(self, partition: int, log_id: bytes = b"") -> None:
        self.findings = Findings(partition)
        self.log_id = log_id
        self.seq = 0
        self.prev_hash = ZERO_HASH
        self.records = 0
        self.index = max(0, partition)
        self.sums: dict[int, list[int]] = {}
        """Range of seqs -> [events, xor of the first 8 bytes of their header hashes], to compare with ClickHouse."""
        self.sum_until = 1 << 63

    def _sum(self, seq: int) -> None:
        """Add the record just linked to its range's sum."""
        if seq > self.sum_until:
            return
        word = int.from_bytes(self.prev_hash[:8], "little")
        total = self.sums.get(seq // RANGE)
        if total is None:
            self.sums[seq // RANGE] = [1, word]
        else:
            total[0] += 1
            total[1] ^= word

    def _bad(self, invariant: str, offset: int, sentence: str) -> None:
        self.findings.add(invariant, self.seq, offset, sentence)

    def _link(self, offset: int, value: bytes) -> tuple[Head, reading.Parts] | None:
        """Take a record apart and check what does not depend on its meaning."""
        self.records += 1
        try:
            parts = reading.split(value)
            head = reading.head(parts.header)
        except Unreadable as error:
            self._bad("readable", offset, str(error))
            self.seq += 1  # it took a place: the next one is judged on its own
            self.prev_hash = b""
            return None
        if head.seq != self.seq:
            self._bad("dense", offset, f"expected seq {self.seq}, found {head.seq}")
            self.seq = head.seq
        if head.prev_hash != self.prev_hash and self.prev_hash:
            self._bad("chain", offset, f"seq {head.seq} does not name the hash of the record before it")
        self.prev_hash = header_hash(parts.header)
        if head.log_id != self.log_id or head.partition != self.index:
            self._bad(
                "log_id", offset, f"seq {head.seq} says partition {head.partition} of log {head.log_id.hex()}"
            )
        if hashlib.sha256(parts.facts).digest() != head.facts_hash:
            self._bad("facts_hash", offset, f"the facts of seq {head.seq} are not those its header names")
        content, commitment = parts.content, head.content_commitment
        if content is None or commitment is None:
            if content is not commitment:
                self._bad("content_commitment", offset, f"seq {head.seq} lacks its content or its commitment")
        elif hashlib.sha256(content).digest() != commitment:
            self._bad(
                "content_commitment", offset, f"the content of seq {head.seq} is not what its header names"
            )
        return head, parts


class ControlChecker(Chain):
    """The control ledger's own chain; also folds it, since the other ledgers are judged by it.

    `rules`: digest -> the rules of every release whose bytes are whole, None where it has no `control.cedar`. Without
    them an event of theirs would seem to count that workers leave out.
    """

    def __init__(
        self, rules: Mapping[str, CompiledRelease | None], mac_keys: dict[str, bytes] | None = None
    ) -> None:
        super().__init__(-1)
        self._start = Control(mac_keys=mac_keys or {})
        self.controls: list[Control] = []
        self._rules = rules
        self._absent: set[str] = set()

    def add(self, offset: int, value: bytes) -> None:
        """Check one record."""
        if not self.records:  # the genesis names the log
            self.log_id = _log_id_of(value)
        linked = self._link(offset, value)
        if linked is None:
            return
        head, parts = linked
        before = self.controls[-1] if self.controls else self._start
        try:
            rest = reading.rest(head.rest)
            facts = codec.decode_as(r.ControlFacts, parts.facts)
            before.release = self._rules.get(before.deployed)
            after, wrong = control_fold.fold_any(before, head.seq, facts, rest.decided_at)
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            self._bad("readable", offset, f"control event {head.seq} cannot be read ({type(error).__name__})")
            self.seq = head.seq + 1
            return
        if wrong:
            self._bad("readable", offset, f"control event {head.seq} cannot be read ({wrong})")
        # INVARIANT: what workers leave out is found (tests/unit/test_verify_control.py).
        elif reason := control_fold.refusal(before, head.seq, facts, rest.decided_at):
            self._bad(
                "authority", offset, f"control event {head.seq} (`{facts.kind[:40]}`) has no effect: {reason}"
            )
        self._releases(after, offset)
        if (facts.kind == "genesis") != (self.records == 1):
            self._bad("genesis", offset, f"control event {head.seq} is `{facts.kind}`")
        if head.event_id != event_id(self.log_id, 0, head.seq, "control", 0):
            self._bad("event_id", offset, f"control event {head.seq} has another id than its place gives")
        if rest.control_head != before.head or rest.release != before.deployed:
            self._bad(
                "control_head", offset, f"control event {head.seq} was not written on the head before it"
            )
        self.controls.append(after)
        self._sum(head.seq)
        self.seq = head.seq + 1

    def _releases(self, control: Control, offset: int) -> None:
        for digest in in_use(control) - self._rules.keys() - self._absent:
            self._absent.add(digest)
            self._bad(
                "release", offset, f"release `{digest}` decides from here on, and its bytes are not there"
            )


def _log_id_of(value: bytes) -> bytes:
    try:
        return reading.head(reading.split(value).header).log_id
    except Unreadable:
        return b""


class PartitionChecker(Chain):
    """One partition of the ledger. Feed every record from the first on, then ask `findings` and `lives`.

    Attributes:
        lives: every intent's life, and the counts at the end.
        input_counts, input_sums: per topic, how many offsets from `begins` on were decided, and their sum.
    """

    def __init__(
        self,
        partition: int,
        controls: Sequence[Control],
        begins: dict[str, int] | None = None,
        opener: Opener | None = None,
    ) -> None:
        self.controls = controls
        super().__init__(partition, controls[-1].log_id if controls else b"")
        self.lives = Lives(self._bad_life)
        self.budgets = BudgetSums(self._bad_life)
        self.standings = Standings()
        self.restores = Restores(partition, controls, self._bad_life)
        self.contents = Contents(controls, opener, self._bad_life) if opener is not None else None
        self.begins = begins or {}
        self.input_counts: Counter[str] = Counter()
        self.input_sums: Counter[str] = Counter()
        self.positions: dict[str, int] = {}
        self._agents: set[str] = set()
        self.time = 0
        self.control_head = -1
        self._offset = 0
        self._rest_bytes = b""
        self._rest: Rest | None = None
        self._first_seq = 0

    def _bad_life(self, invariant: str, sentence: str) -> None:
        self._bad(invariant, self._offset, sentence)

    def add(self, offset: int, value: bytes) -> None:
        """Check one record."""
        linked = self._link(offset, value)
        if linked is None:
            self._rest = None
            return
        head, parts = linked
        self._offset = offset
        first = head.rest != self._rest_bytes or self._rest is None
        if first and not self._begin_input(head, offset):
            return
        rest = self._rest
        assert rest is not None
        ident = event_id(self.log_id, self.index, self._first_seq, head.stage, head.seq - self._first_seq)
        if head.event_id != ident:
            self._bad(
                "event_id", offset, f"seq {head.seq} has another id than its input, stage and place give"
            )
        if self.records == 1 or head.stage == "genesis":
            self._genesis(head, rest, parts.facts, offset)
            self.restores.step(head, rest, parts.header, parts.facts)
        else:
            if first and parts.content is None and rest.topic != TICK:
                self._bad(
                    "content_commitment", offset, f"seq {head.seq} is an input's first and has no content"
                )
            try:
                if self.contents is not None and parts.content is not None:
                    self.contents.step(head, rest, parts.content, parts.facts, first)
                self.lives.step(head, rest, parts.facts)
                if head.stage in STAGES:
                    self.budgets.step(head, rest, parts.facts)
                self.restores.step(head, rest, parts.header, parts.facts)
            except Unreadable as error:
                self._bad("readable", offset, str(error))
        self._sum(head.seq)
        self.seq = head.seq + 1

    def _begin_input(self, head: Head, offset: int) -> bool:
        """Another input than the record before: its place, time, control head and release."""
        try:
            rest = reading.rest(head.rest)
        except Unreadable as error:
            self._bad("readable", offset, str(error))
            self._rest = None
            self.seq = head.seq + 1
            return False
        self._rest, self._rest_bytes, self._first_seq = rest, head.rest, head.seq
        if rest.decided_at < self.time:
            self._bad(
                "time",
                offset,
                f"seq {head.seq} was decided {self.time - rest.decided_at} us before the one before",
            )
        self.time = max(self.time, rest.decided_at)
        known = 0 <= rest.control_head < len(self.controls)
        self.lives.control = self.controls[rest.control_head] if known else None
        self.lives.begin(rest)
        self._place(head, rest, offset)
        if rest.agent_id not in self._agents and not self._belongs(rest.agent_id):
            self._bad_place(head, rest, offset)
        if rest.control_head < self.control_head:
            self._bad(
                "control_head",
                offset,
                f"seq {head.seq} names control {rest.control_head} after {self.control_head}",
            )
        self.control_head = max(self.control_head, rest.control_head)
        if not known:
            self._bad(
                "control_head",
                offset,
                f"seq {head.seq} names control event {rest.control_head}, which is not there",
            )
        elif head.stage != "genesis" and rest.release not in self._releases(head, rest):
            self._bad("control_head", offset, f"seq {head.seq} names release `{rest.release}`, which was not deployed at control {rest.control_head}")  # fmt: skip
        return True

    def _releases(self, head: Head, rest: Rest) -> tuple[str, ...]:
        allowed = self.standings.allowed(self.controls[rest.control_head], head, rest)
        # A deadline is acted on under the release that the intent was routed by.
        return (*allowed, self.lives.release_now()) if rest.topic == TICK else allowed

    def _place(self, head: Head, rest: Rest, offset: int) -> None:
        topic, at = rest.topic, rest.offset
        if topic == TICK or head.seq == 0:
            if at != head.seq or rest.partition != self.index:
                self._bad("inputs", offset, f"seq {head.seq} is a tick and names position {at}")
            return
        last = self.positions.get(topic, -1)
        if topic not in INPUTS or rest.partition != self.index:
            self._bad("inputs", offset, f"seq {head.seq} names input `{topic}`/{rest.partition}/{at}, which is none of this partition")  # fmt: skip
        elif at <= last:
            again = "again or apart from its other outcomes" if at == last else f"after {last}"
            self._bad("inputs", offset, f"seq {head.seq} decides `{topic}` offset {at} {again}")
        else:
            self.positions[topic] = at
            if at >= self.begins.get(topic, 0):
                self.input_counts[topic] += 1
                self.input_sums[topic] += at

    def _belongs(self, agent: str) -> bool:
        """Whether an agent's records stand in this partition; remembered for those that do."""
        count = self.controls[0].partitions if self.controls else 1
        if agent and count > 1 and partition_of(agent, count) != self.index:
            return False
        self._agents.add(agent)
        return True

    def _bad_place(self, head: Head, rest: Rest, offset: int) -> None:
        if head.status not in _ELSEWHERE and head.stage != "genesis":
            self._bad("partition", offset, f"seq {head.seq} is about `{rest.agent_id[:80]}`, whose records stand in another partition")  # fmt: skip

    def _genesis(self, head: Head, rest: Rest, facts: bytes, offset: int) -> None:
        first = self.controls[0] if self.controls else Control()
        want = r.GenesisFacts(self.log_id, first.partitions, first.env, first.signing)
        ours = (head.seq, head.stage, head.status, rest.topic) == (0, "genesis", "genesis", "")
        if not ours or facts != codec.encode(want):
            self._bad("genesis", offset, f"seq {head.seq} is `{head.stage}`, or its genesis is not control's")

    def decided(self, topic: str, count: int, total: int) -> bool:
        """Whether `count` records of an input topic below the ledger's position, whose offsets add up to `total`, are those
        that were decided."""
        return (count, total) == (self.input_counts[topic], self.input_sums[topic])

    def left_out(self, topic: str, count: int, position: int) -> None:
        """They are not: a record was left out, or one was decided that is not there."""
        self.findings.add(
            "non_omission", self.seq, position,
            f"`{topic}` holds {count} records below offset {position}, the ledger decided {self.input_counts[topic]} of its offsets",
        )  # fmt: skip

    def close(self) -> dict[str, object]:
        """The counts at the end. An empty partition is no violation: nobody owned it yet."""
        counts = self.lives.counts()
        self.budgets.close(self.lives.ended_one)
        if counts["in"] != counts["accounted"]:
            self._bad(
                "non_omission",
                self._offset,
                f"{counts['in']} intents came in, {counts['accounted']} are ended or open",
            )
        return counts
