"""The invariants of a ledger partition, checked record by record: the fsck's pure half.

The invariants and their names are in `verify/invariants.py`. A checker goes on after a violation, so one flipped bit does not hide the next one. It shares no
code with `apply`, so that a mistake in the fold does not verify itself. Never reads Kafka or a clock.
Next: `verify/chain.py` (bytes and chain), `verify/lives.py` (intents), `streams/verify/ledger.py` (who feeds this).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from sluicegate.processors.agents.restore_fold import STAGE as RESTORE_STAGE
from sluicegate.processors.control.control import Control
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.budgets import STAGES, BudgetSums
from sluicegate.processors.verify.chain import Chain, Linked, Quick
from sluicegate.processors.verify.contents import Contents, Opener
from sluicegate.processors.verify.lives import Lives
from sluicegate.processors.verify.reading import Rest
from sluicegate.processors.verify.restores import Restores
from sluicegate.processors.verify.seam import STAGE as SEAM
from sluicegate.processors.verify.seam import Seams
from sluicegate.processors.verify.standing import Standings
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.topics import INPUTS, TICK, partition_of

_sha256 = hashlib.sha256
_USUAL = ("route", "authorize", "validate", "plan", "execute", "session", "budget")
_PLACES = {(stage, nth): b"%b/%d" % (stage.encode(), nth) for stage in _USUAL for nth in range(8)}
"""Stage and ordinal, as an event id has them."""
_ELSEWHERE = ("refused", "unreadable")
"""What a record that came to the wrong partition is answered."""


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
        generation: int = 0,
    ) -> None:
        """`controls`: as `generations.seen_from` the generation shows them, of which this is a partition."""
        self.controls = controls
        super().__init__(partition, controls[-1].log_id if controls else b"")
        self.lives = Lives(self._bad_life)
        self.budgets = BudgetSums(self._bad_life)
        self.standings = Standings()
        self.restores = Restores(partition, controls, self._bad_life)
        self.seams = Seams(partition, generation, self._bad_seam, self.standings, self.budgets)
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
        self._ident = b""
        self._quick = Quick(self.log_id, self.index)

    def _bad_life(self, invariant: str, sentence: str) -> None:
        self._bad(invariant, self._offset, sentence)

    def _bad_seam(self, seq: int, sentence: str) -> None:
        self.findings.add("seam", seq, -1, sentence)

    def add(self, offset: int, value: bytes) -> None:
        """Check one record."""
        self.records += 1
        one = self._quick.take(value, self.seq, self.prev_hash)
        if one is not None:
            self.prev_hash = _sha256(
                b"\0" + one.header
            ).digest()  # `header_hash`, which is called often enough
        else:
            one = self._link(offset, value)
            if one is None:
                self._rest = None
                return
        self._offset = offset
        first = one.rest != self._rest_bytes or self._rest is None
        if first and not self._begin_input(one, offset):
            return
        rest = self._rest
        assert rest is not None
        seq, stage = one.seq, one.stage
        nth = seq - self._first_seq
        place = _PLACES.get((stage, nth)) or b"%b/%d" % (stage.encode(), nth)
        if one.event_id != _sha256(self._ident + place).digest()[:16]:
            self._bad("event_id", offset, f"seq {seq} has another id than its input, stage and place give")
        if self.records == 1 or stage == "genesis":
            self._genesis(one, rest, offset)
            self.restores.step(one, rest)
        else:
            self._judge(one, rest, offset, first)
        self._sum(seq)
        if self.tree is not None:
            self._grow()
        self.seq = seq + 1

    def _judge(self, one: Linked, rest: Rest, offset: int, first: bool) -> None:
        content = one.content
        if first and content is None and rest.topic != TICK:
            self._bad("content_commitment", offset, f"seq {one.seq} is an input's first and has no content")
        try:
            if content is not None and self.contents is not None:
                self.contents.step(one, rest, content, first)
            self.lives.step(one.stage, one.status, rest, one.facts)
            if one.stage in STAGES:
                self.budgets.step(one.reason, rest, one.facts)
            if one.stage == SEAM:
                self.seams.step(one, rest, self.lives.control)
            else:
                self.seams.other(one.seq)
            if self.restores.watching or one.stage == RESTORE_STAGE:
                self.restores.step(one, rest)
        except Unreadable as error:
            self._bad("readable", offset, str(error))

    def _begin_input(self, head: Linked, offset: int) -> bool:
        """Another input than the record before: its place, time, control head and release."""
        try:
            rest = reading.rest(head.rest)
        except Unreadable as error:
            self._bad("readable", offset, str(error))
            self._rest = None
            self._lose(head.seq)
            self.seq = head.seq + 1
            return False
        self._rest, self._rest_bytes, self._first_seq = rest, head.rest, head.seq
        self._ident = b"%b/%d/%d/" % (self.log_id, self.index, head.seq)
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
        elif rest.release == self.controls[rest.control_head].deployed and head.stage != "session":
            pass  # as nearly all; what a session stands on changes in its own outcomes only
        elif head.stage != "genesis" and rest.release not in self._releases(head, rest):
            self._bad("control_head", offset, f"seq {head.seq} names release `{rest.release}`, which was not deployed at control {rest.control_head}")  # fmt: skip
        return True

    def _releases(self, head: Linked, rest: Rest) -> tuple[str, ...]:
        allowed = self.standings.allowed(self.controls[rest.control_head], head.stage, head.status, rest)
        # A deadline is acted on under the release that the intent was routed by.
        return (*allowed, self.lives.release_now()) if rest.topic == TICK else allowed

    def _place(self, head: Linked, rest: Rest, offset: int) -> None:
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

    def _bad_place(self, head: Linked, rest: Rest, offset: int) -> None:
        if head.status not in _ELSEWHERE and head.stage != "genesis":
            self._bad("partition", offset, f"seq {head.seq} is about `{rest.agent_id[:80]}`, whose records stand in another partition")  # fmt: skip

    def _genesis(self, head: Linked, rest: Rest, offset: int) -> None:
        first = self.controls[0] if self.controls else Control()
        want = r.GenesisFacts(self.log_id, first.partitions, first.env, first.signing)
        ours = (head.seq, head.stage, head.status, rest.topic) == (0, "genesis", "genesis", "")
        if not ours or head.facts != codec.encode(want):
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
        self.seams.close(self.seq)
        self.end_tree()
        if counts["in"] != counts["accounted"]:
            self._bad(
                "non_omission",
                self._offset,
                f"{counts['in']} intents came in, {counts['accounted']} are ended or open",
            )
        return counts
