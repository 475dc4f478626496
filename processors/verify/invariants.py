"""The invariants of the ledger, by name: what each says, and which records prove it. How a violation is told.

The first violation of each invariant in a partition is kept with its position and a sentence, the rest are counted.
The names are stable: docs/verify.md and `sluicegate ledger invariants` list this table, tests/mutations breaks each one.
Never checks anything itself. Next: `verify/partition.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Invariant(NamedTuple):
    """What it says, and which records prove it.

    Attributes:
        asks: the option or the store that it takes, empty where the ledger is enough.
    """

    says: str
    proof: str
    asks: str = ""


_I = Invariant
INVARIANTS: dict[str, Invariant] = {
    "readable": _I("every record is a ledger record of this version", "each record's bytes"),
    "genesis": _I("the first record, and only it, is the genesis, and it agrees with control's", "record 0 and control event 0"),
    "dense": _I("`seq` counts up by one", "each header and the one before"),
    "chain": _I("`prev_hash` is the hash of the header before", "each header and the one before"),
    "log_id": _I("every record belongs to this log and this partition", "each header and the genesis"),
    "partition": _I("an agent's outcomes stand in the partition that its id gives", "an input's first header; genesis has the number of partitions"),
    "facts_hash": _I("the facts are those the header names", "each record's header and facts"),
    "content_commitment": _I("the content is that the header names, and every input's first outcome has it", "each record's header and sealed content"),
    "time": _I("`decided_at` never goes back", "an input's first header and the one before"),
    "event_id": _I("the id follows from log, partition, input, stage and ordinal", "each header and its input's first"),
    "inputs": _I("every input is decided once, in order, and its outcomes stand together", "`input_topic` and `input_offset` of the headers"),
    "lifecycle": _I("an intent moves by the table in processors/lifecycle.py only", "the statuses of an intent's outcomes, in order"),
    "claim": _I("what may not repeat ends after a claim only, and a claim takes the current offer", "plan_facts, claim_facts and the end of a call"),
    "approval": _I(
        "a held call goes on only after as many different registered people of the asked roles agreed as were asked for, each by a review",
        "hold_facts, review_facts, people in control at the review's head",
    ),
    "duplicates": _I("an irreversible call is never claimed twice", "plan_facts and claim_facts of an intent"),
    "budget": _I(
        "reserved + spent stay within the cap, or the lease, at every position, and leases within the cap",
        "budget_facts of stage `budget`, exchange_facts of stage `transfer`",
    ),
    "control_head": _I("control's head never goes back, and the release is the one deployed at it", "an input's first header, control up to its head"),
    "authority": _I(
        "every control event is signed and permitted: by an operator's key, `control.cedar`, enough people, and bounds",
        "control_facts, and control and its release before them",
    ),
    "release": _I("the bytes of every release that decided are there, and give its digest", "control, and the topic `releases`"),
    "rollback": _I("an agent is rolled back as control ordered, to the values it had at the cut", "restore_facts, the order in control, and the agent's records before"),
    "seam": _I("a generation's partition ends with its seal, and the next generation begins with exactly the state that was sealed", "seal_facts, import_facts, and the sealed partitions, folded again"),
    "sealed": _I("sealed content opens with its subject's key as that of its event", "each sealed content and its event id", "--contents"),
    "signature": _I("every input that was taken in was signed by who it names, by a key of that moment", "an input's bytes and control at its head", "--contents"),
    "attribution": _I("agent, intent, session and person are those the input itself names", "an input's bytes, its first header, review_facts", "--contents"),
    "non_omission": _I("every intent taken in is ended or open, and every input record was decided", "the ledger's counts, and the records of the input topics"),
    "checkpoint": _I(
        "every signed head is this ledger's root at its size, of a key valid then, and none is beyond its end",
        "all header hashes, the topic `checkpoints`, the newest note beside the tiles, heads given by `--since`",
        "a checkpointer",
    ),
    "tiles": _I("the hashes in the tiles are those of the ledger", "all header hashes, and every tile", "tiles on this machine"),
    "clickhouse": _I(
        "ClickHouse holds the same events, each once, its header columns those of its bytes, and none the ledger has not",
        "`events`, by ranges of 8,192 seqs", "ClickHouse",
    ),
}  # fmt: skip
"""Name -> the invariant."""


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
