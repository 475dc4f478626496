"""The invariants of the ledger, by name, and how a violation is told.

The first violation of each invariant in a partition is kept with its position and a sentence, the rest are counted.
Docs and `sluicegate ledger verify` list this table. Never checks anything itself. Next: `verify.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

INVARIANTS: dict[str, str] = {
    "readable": "every record is a ledger record of this version",
    "genesis": "the first record, and only it, is the genesis, and it agrees with control's",
    "dense": "`seq` counts up by one",
    "chain": "`prev_hash` is the hash of the header before",
    "log_id": "every record belongs to this log and this partition",
    "facts_hash": "the facts are those the header names",
    "content_commitment": "the content is that the header names, and every input's first outcome has it",
    "time": "`decided_at` never goes back",
    "event_id": "the id follows from log, partition, input, stage and ordinal",
    "inputs": "every input is decided once, in order, and its outcomes stand together",
    "lifecycle": "an intent moves by the table in processors/lifecycle.py only",
    "claim": "what may not repeat ends after a claim only, and a claim takes the current offer",
    "approval": "a held call goes on only after as many different people agreed as were asked for",
    "duplicates": "an irreversible call is never claimed twice",
    "budget": "reserved + spent stay within the cap, or the lease, at every position, and leases within the cap",
    "control_head": "control's head never goes back, and the release is the one deployed at it",
    "authority": "every control event is signed and permitted: by an operator's key, `control.cedar`, enough people, and bounds",
    "release": "the bytes of every release that decided are there, and give its digest",
    "rollback": "an agent is rolled back as control ordered, to the values it had at the cut",
    "non_omission": "every intent taken in is ended or open, and every input record was decided",
    "clickhouse": "ClickHouse holds the same events",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """The first violation of one invariant in one partition. `partition` -1 is the control ledger."""

    invariant: str
    partition: int
    seq: int
    offset: int
    sentence: str


@dataclass(slots=True)
class Findings:
    """What was found: the first violation of each invariant, and how many there are."""

    partition: int
    first: dict[str, Violation] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, invariant: str, seq: int, offset: int, sentence: str) -> None:
        """Record a violation."""
        self.counts[invariant] += 1
        if invariant not in self.first:
            self.first[invariant] = Violation(invariant, self.partition, seq, offset, sentence)
