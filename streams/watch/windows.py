"""What the sentinel reads: how far the store is complete, and rows of traffic. A port, and the store in memory.

`coverage` compares the ledger's heads, which Kafka says, with the manifest of the store. What is not proved to be there
makes a window incomplete, and an incomplete window is never judged: `blind`, never "fine". The same contract tests run
over both stores (`tests/windows_contract.py`). Reads only.
Next: `watch/windows_clickhouse.py` (the real one), `watch/sentinel.py` (who reads), `processors/drift/streams.py` (the rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sluicegate.processors.canary.scores import TAKEN_BACK
from sluicegate.processors.drift.streams import START, Row

VIOLATION_STAGES = ("conform", "authorize", "validate")
"""Stages whose refusals say something of the agent; those of routing (budget, quarantine, ids) do not."""
EXECUTED = ("released", "withheld", "failed", "resolved")
SETTLE_US = 2_000_000
"""An outcome is decided before it is committed: what Kafka's end does not show yet may be this old."""

Cut = Mapping[int, int]
"""Partition -> the last seq that counts."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a ledger partition, or of what the store has of it."""

    seq: int
    decided_at: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Up to when everything is there.

    Attributes:
        log_id: hex; of which ledger.
        until: every outcome decided before this is in the store, microseconds.
        cut: the last seq of each partition that the store had.
        blind: why nothing may be said beyond `until`, in words; empty when the store is up to date.
    """

    log_id: str
    until: int
    cut: dict[int, int] = field(default_factory=dict)
    blind: str = ""


class Windows(Protocol):
    """A store of the ledger's outcomes. Raises `Retryable` when it is away."""

    def stored(self, log_id: str) -> Mapping[int, Head]:
        """The newest of each partition that the manifest promises. Whether all is there that it promises, `count` says."""

    def count(self, log_id: str, after: Cut, upto: Cut) -> int:
        """Different outcomes with after < seq <= upto, over all partitions of `upto`."""

    def rows(self, log_id: str, start: int, end: int, bucket_us: int, cut: Cut) -> list[Row]:
        """Traffic with start <= decided_at < end in buckets, or in one when `bucket_us` is 0; by time."""

    def week(self, log_id: str, start: int, end: int) -> list[Row]:
        """The same in one bucket, for long stretches of long ago: may come from what was added up before."""


def coverage(log_id: str, heads: Mapping[int, Head], stored: Mapping[int, Head], asked_at: int) -> Coverage:
    """How far the store is complete, with the heads as of `asked_at`.

    INVARIANT: what is missing or behind is never complete (tests/unit/test_sentinel.py::test_coverage).
    """
    until, behind = asked_at - SETTLE_US, ""
    cut = {}
    for partition, head in sorted(heads.items()):
        there = stored.get(partition)
        if head.seq < 0:  # nothing was ever decided there
            continue
        if there is None:
            return Coverage(log_id, 0, {}, f"partition {partition} is not in ClickHouse at all")
        cut[partition] = there.seq
        if there.seq < head.seq and there.decided_at < until:
            until = there.decided_at
            behind = f"ClickHouse is {head.seq - there.seq} outcomes behind in partition {partition}"
    return Coverage(log_id, until, cut, behind)


@dataclass(frozen=True, slots=True)
class Seen:
    """One outcome, as far as anybody counts it here."""

    partition: int
    seq: int
    decided_at: int
    release: str = ""
    agent_id: str = ""
    intent_id: str = ""
    stage: str = ""
    status: str = ""
    tool: str = ""
    asked: bool = False
    """The first outcome of a call."""
    previous: str = ""
    shape: str = ""
    model: str = ""
    nowhere: bool = False
    observed: bool = False
    score: float | None = None
    reason: str = ""


class MemoryWindows:
    """The port over a list: for tests, simulations, and as the reference of what the queries mean."""

    def __init__(self, log_id: str = "00" * 16, events: Iterable[Seen] = ()) -> None:
        self.log_id = log_id
        self.events: list[Seen] = list(events)
        self.away = False
        self.missing: set[tuple[int, int]] = set()
        """(partition, seq) that the manifest promises and the table has not."""

    def stored(self, log_id: str) -> Mapping[int, Head]:
        """The newest of each partition."""
        found: dict[int, Head] = {}
        for one in self._mine(log_id):
            if one.seq > found.get(one.partition, Head(-1, 0)).seq:
                found[one.partition] = Head(one.seq, one.decided_at)
        return found

    def count(self, log_id: str, after: Cut, upto: Cut) -> int:
        """By partition and seq."""
        return len({
            (e.partition, e.seq) for e in self._mine(log_id)
            if after.get(e.partition, -1) < e.seq <= upto.get(e.partition, -1)
            and (e.partition, e.seq) not in self.missing
        })  # fmt: skip

    def rows(self, log_id: str, start: int, end: int, bucket_us: int, cut: Cut) -> list[Row]:
        """Counted one by one."""
        made: dict[tuple[int, str, str, str], Row] = {}
        nowhere: set[tuple[int, str, str, str, str]] = set()
        observed: set[tuple[int, str, str, str, str]] = set()
        seen: set[tuple[int, int]] = set()
        for e in self._mine(log_id):
            if not start <= e.decided_at < end or e.seq > cut.get(e.partition, -1) or not e.agent_id:
                continue
            if (e.partition, e.seq) in seen:
                continue
            seen.add((e.partition, e.seq))
            at = e.decided_at // bucket_us * bucket_us if bucket_us else start
            key = (at, e.release, e.agent_id, e.tool)
            _count(made.setdefault(key, Row(*key)), e)
            if e.nowhere and (*key, e.intent_id) not in nowhere:
                nowhere.add((*key, e.intent_id))
                made[key].ungrounded += 1
            if e.observed and (*key, e.intent_id) not in observed:
                observed.add((*key, e.intent_id))
                made[key].observed += 1
        return [made[key] for key in sorted(made)]

    def week(self, log_id: str, start: int, end: int) -> list[Row]:
        """Everything there is."""
        return self.rows(log_id, start, end, 0, {e.partition: 2**62 for e in self.events})

    def _mine(self, log_id: str) -> list[Seen]:
        from sluicegate.schemas.errors import Retryable

        if self.away:
            raise Retryable("clickhouse is away, start it")
        return self.events if log_id == self.log_id else []


def _count(row: Row, e: Seen) -> None:
    row.asked += e.asked
    if e.reason not in TAKEN_BACK:  # an operator ended it: an action on an alarm must not raise the next one
        row.refused += e.status == "refused" and e.stage in VIOLATION_STAGES
        row.executed += e.status in EXECUTED
        row.failed += e.status == "failed"
        row.withheld += e.status == "withheld"
    if e.asked:
        before = e.previous or START
        row.after[before] = row.after.get(before, 0) + 1
        if e.shape:
            row.shapes[e.shape] = row.shapes.get(e.shape, 0) + 1
    if e.model:
        row.models[e.model] = row.models.get(e.model, 0) + 1
    if e.score is not None:
        if 0.0 <= e.score <= 1.0:
            row.scored += 1
            row.bad += 1.0 - e.score
        else:
            row.ignored += 1
