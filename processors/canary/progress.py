"""One canary from its first row to its verdict: rows in, sessions in close order, what the judge makes of them.

Rows of a partition come in its order; sessions go to the judge only once nothing earlier can follow (`complete_until`). The
watcher feeds it as rows arrive, `canary status` and `canary explain` all at once: the same verdict. Pure.
Next: `canary/scores.py`, `canary/judge.py`; `streams/watch/canary_watcher.py` (who feeds it).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from sluicegate.processors.canary.judge import Judge, key_of
from sluicegate.processors.canary.rules import COST, CanaryRules
from sluicegate.processors.canary.scores import Item, Row, Scores, alone
from sluicegate.processors.control.deployments import Canary
from sluicegate.processors.releases.release import CompiledRelease

FOR_EVER = 2**62
"""Microseconds: nothing more follows."""


@dataclass(slots=True)
class Progress:
    """The fold.

    Attributes:
        cut: partition -> the last row that was read.
        late: sessions that closed before what was judged already; they count for nobody.
    """

    judge: Judge
    scores: Scores
    cut: dict[int, int] = field(default_factory=dict)
    complete_until: int = 0
    late: int = 0
    _waiting: list[tuple[tuple[int, int, int], Item]] = field(default_factory=list)

    def feed(self, rows: Iterable[Row], complete_until: int) -> str:
        """More rows, and the moment before which no other can come; the verdict."""
        for row in rows:
            if row.seq <= self.cut.get(row.partition, -1):
                continue  # it is in the table twice
            self.cut[row.partition] = row.seq
            for item in self.scores.add(row):
                if item.at < self.complete_until:
                    self.late += 1
                else:
                    heapq.heappush(self._waiting, (key_of(item), item))
        self.complete_until = max(self.complete_until, complete_until)
        while self._waiting and self._waiting[0][1].at < self.complete_until:
            self.judge.take(heapq.heappop(self._waiting)[1])
        return self.judge.verdict

    def evidence(self) -> dict[str, object]:
        """The judge's, and which rows it stands on: those of each partition up to `cut`."""
        cut = [[partition, seq] for partition, seq in sorted(self.cut.items())]
        return {**self.judge.evidence(), "cut": cut, "alone": sorted(self.scores.alone)}


def begin(canary: Canary, control: CompiledRelease, candidate: CompiledRelease) -> Progress:
    """Nothing read yet. The rules are those of the release it stands against."""
    rules: CanaryRules = control.canary
    clip = next((m.clip for m in rules.metrics if m.name == COST), 0)
    shares = frozenset(m.name for m in rules.metrics if m.share)
    return Progress(Judge(rules, canary), Scores(canary, alone(control, candidate), clip, shares))
