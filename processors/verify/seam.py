"""Seams as the ledger tells them: a generation's partition ends with its seal, and begins with what it imports.

    sealed     the last record, of the size that stands before it, for the generation that control had begun
    imported   right behind the genesis, nowhere else; slices of all old partitions in order, each whole, of one seal

What is imported is where sessions and budgets begin: it is handed to those that check them. That it is exactly what was sealed
takes the old generation: `remade` compares with it. Next: `seam/seam.py` (the rows), `streams/verify/seam.py` (who folds the old one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from sluicegate.processors.control.control import Control
from sluicegate.processors.seam.fold import AGENT, BUDGET, ENDED_SESSIONS, IMPORTED, SEALED, SESSION, STAGE
from sluicegate.processors.verify.budgets import BudgetSums
from sluicegate.processors.verify.chain import Linked
from sluicegate.processors.verify.reading import Rest
from sluicegate.processors.verify.standing import Standings
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable


class Seams:
    """The seams of one partition. `bad(seq, sentence)` is told of violations.

    Attributes:
        sealed: the seal, once it was met: nothing may follow.
        imports: per record, (seq, sha256 of its facts): what `remade` compares.
    """

    def __init__(
        self,
        partition: int,
        generation: int,
        bad: Callable[[int, str], None],
        standings: Standings,
        budgets: BudgetSums,
    ) -> None:
        self._partition, self._generation, self._bad = partition, generation, bad
        self._standings, self._budgets = standings, budgets
        self.sealed: r.SealFacts | None = None
        self.imports: list[tuple[int, bytes]] = []
        self._over = False
        self._slice = hashlib.sha256()
        self._last: r.ImportFacts | None = None

    def other(self, seq: int) -> None:
        """A record that is none of a seam, and no genesis."""
        if not self._over:
            self._over = True
            if self._generation and not self.imports:
                self._bad(
                    seq,
                    f"seq {seq} stands where the state of generation {self._generation - 1} should be imported",
                )
            self._whole(seq)
        if self.sealed is not None:
            self._bad(seq, f"seq {seq} follows the seal of its generation")

    def step(self, head: Linked, rest: Rest, control: Control | None) -> None:
        """One outcome of the stage `seam`. Raises `Unreadable` for damaged facts."""
        facts = codec.decode(head.facts)
        if head.status == SEALED and isinstance(facts, r.SealFacts):
            self.other(head.seq)
            self.sealed = facts
            begun = control.repartition if control is not None else None
            if begun is None or facts.next_log_id != begun.log_id or facts.generation != begun.number - 1:
                self._bad(
                    head.seq, f"seq {head.seq} seals the partition, and control had begun no such generation"
                )
            if facts.size != head.seq or facts.generation != self._generation:
                self._bad(
                    head.seq, f"seq {head.seq} seals {facts.size} records of generation {facts.generation}"
                )
        elif head.status == IMPORTED and isinstance(facts, r.ImportFacts):
            self.imports.append((head.seq, hashlib.sha256(head.facts).digest()))
            if self._over or self.sealed is not None:
                self._bad(head.seq, f"seq {head.seq} imports state, and this partition had begun to decide")
            elif facts.generation != self._generation - 1:
                self._bad(head.seq, f"seq {head.seq} imports state of generation {facts.generation}")
            self._piece(head.seq, facts)
        else:
            raise Unreadable("malformed_record", f"`{head.status}` is nothing a seam says")

    def _piece(self, seq: int, facts: r.ImportFacts) -> None:
        last = self._last
        if last is None or last.piece + 1 == last.pieces:
            self._whole(seq)
            follows = facts.piece == 0 and facts.partition == (0 if last is None else last.partition + 1)
            self._slice = hashlib.sha256()
        else:
            same = (last.partition, last.seq, last.root, last.pieces, last.digest)
            follows = facts.piece == last.piece + 1
            follows = follows and same == (facts.partition, facts.seq, facts.root, facts.pieces, facts.digest)
        if not follows:
            self._bad(
                seq,
                f"seq {seq} imports piece {facts.piece} of partition {facts.partition} out of order",
            )
        for raw in facts.rows:
            self._slice.update(len(raw).to_bytes(8, "big") + raw)
            self._take(orjson.loads(raw))
        self._last = facts

    def _whole(self, seq: int) -> None:
        last = self._last
        if last is not None and (last.piece + 1 != last.pieces or self._slice.digest() != last.digest):
            self._bad(
                seq,
                f"the slice of partition {last.partition} before seq {seq} is not the one that its digest names",
            )

    def _take(self, row: dict[str, Any]) -> None:
        """Where sessions stand, and what budgets have used."""
        kind = row["kind"]
        if kind == SESSION:
            one = row["session"]
            key = (one["agent_id"], one["session_id"])
            self._standings.begin(key, one.get("release", ""), one.get("opened_head", -1))
        elif kind == ENDED_SESSIONS:
            for name, at, _, release, _ in row["closed"]:
                agent, _, session = name.partition("\0")
                self._standings.ended((agent, session), release, at)
        elif kind == AGENT:
            for name, given in row["accounts"].items():
                self._budgets.begin(
                    name, given.get("window", 0), given.get("spent", 0), given.get("overran", 0)
                )
        elif kind == BUDGET:
            self._budgets.begin(row["name"], row["window"], row["spent"], row["overran"])

    def close(self, seq: int) -> None:
        """The partition has no more records."""
        self._whole(seq)

    def remade(self, expected: Sequence[r.ImportFacts], wrong: Sequence[str] = ()) -> None:
        """Compare with what the old generation's partitions give, folded again. `wrong`: what is said of their seals."""
        for sentence in wrong:
            self._bad(0, sentence)
        want = [hashlib.sha256(codec.encode(facts)).digest() for facts in expected]
        have = [digest for _, digest in self.imports]
        if want == have:
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have))
        )
        place = f"seq {self.imports[at][0]}" if at < len(have) else "its end"
        where = f"of partition {expected[at].partition}" if at < len(want) else "that nobody had"
        self._bad(
            self.imports[at][0] if at < len(have) else len(have) + 1,
            f"at {place} other state {where} is imported than was sealed there ({len(have)} imports, {len(want)} are due)",
        )


__all__ = ["STAGE", "Seams"]
