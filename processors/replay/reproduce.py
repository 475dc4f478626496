"""Reproduce chosen intents: decide their inputs again, and say of each whether the bytes came out, or why not.

    SAME              every outcome of the input came out byte for byte
    DIFFERENT         it did not: the first field, both values, and the cause (`CAUSES`)
    ERASED            bytes that the decision asks for were erased
    EXPIRED           the ledger before it is gone from Kafka, so its state cannot be folded
    ENGINE_MISSING    another version of the code decided, and that one is not at hand
    ENGINE_FAILED     it is at hand and did not answer
    SKIPPED           written by the machinery itself: a genesis, or after three failed tries

The state is folded from the genesis; what is not chosen is folded only. Pure, and holds nothing that could execute or
seal. Next: `replay/rederive.py` (how one input is decided again), `streams/replay/reproduce.py` (who feeds this).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.replay.missing import BeforeSeamError, ErasedError, GoneError
from sluicegate.processors.replay.recorded import Difference, Event, Opener
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import SluicegateError

Key = tuple[str, str]
"""(agent, intent)."""

SAME: Final = "SAME"
DIFFERENT: Final = "DIFFERENT"
ERASED: Final = "ERASED"
EXPIRED: Final = "EXPIRED"
ENGINE_MISSING: Final = "ENGINE_MISSING"
ENGINE_FAILED: Final = "ENGINE_FAILED"
SKIPPED: Final = "SKIPPED"
VERDICTS = (DIFFERENT, ENGINE_FAILED, ENGINE_MISSING, EXPIRED, ERASED, SKIPPED, SAME)
"""The first that any input of an intent has is the intent's."""

CAUSES: Final = {
    "release": "another release than the one it names was decided under",
    "control_head": "another control head than the one it names was decided under",
    "engine": "another version of the code decided",
    "facts": "the facts are others than the decision makes",
    "content": "the sealed content is other than the decision makes",
    "header": "a field of the header is other than the decision makes",
    "decision": "the answer is other than the decision makes, under every control head nearby",
}
"""Why an input came out different."""
MAX_HEADS = 16
"""Control heads on each side under which a different answer is tried, about 0.1 ms each."""
MAX_SAMPLE = 10_000
"""Intents of one sample: their rows are kept, about 500 bytes an input."""


@dataclass(slots=True)
class Remade:
    """One input of a chosen intent, decided again."""

    partition: int
    seq: int
    offset: int
    input: str
    agent_id: str
    intent_id: str
    stage: str
    status: str
    release: str
    control_head: int
    engine: str
    verdict: str
    field: str = ""
    recorded: str = ""
    remade: str = ""
    cause: str = ""
    why: str = ""
    generation: int = 0


@dataclass(slots=True)
class Result:
    """What came of all that was chosen."""

    engine: str = ENGINE
    rows: list[Remade] = field(default_factory=list)
    seed: str = ""
    seconds: float = 0.0

    @property
    def intents(self) -> dict[Key, str]:
        """Each intent's verdict: the worst of its inputs'."""
        found: dict[Key, str] = {}
        for row in self.rows:
            key = row.agent_id, row.intent_id
            before = found.get(key, SAME)
            found[key] = min(before, row.verdict, key=VERDICTS.index)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Intents by verdict."""
        return dict(Counter(self.intents.values()))

    @property
    def share(self) -> float:
        """The reproducible part of the intents: what was erased by order, and what nobody decided, does not count."""
        return self.counts.get(SAME, 0) / self.whole if self.whole else 1.0

    @property
    def whole(self) -> int:
        """Intents of which a share is taken."""
        return sum(n for verdict, n in self.counts.items() if verdict not in (ERASED, SKIPPED))

    @property
    def verdict(self) -> str:
        """One word for all of them."""
        return min(self.counts, key=VERDICTS.index, default=SAME)

    @property
    def said(self) -> str:
        """One line."""
        counts = self.counts
        parts = [f"{counts[v]:,} {v}" for v in reversed(VERDICTS) if v in counts]
        share = f"{100 * self.share:.2f} % of {self.whole:,} intents reproducible"
        return f"{', '.join(parts) or 'nothing chosen'}: {share if self.whole else 'nothing is left to decide again'}"

    def as_json(self) -> dict[str, Any]:
        """For `-o json`, and what one engine tells another."""
        return {
            "verdict": self.verdict, "share": self.share, "said": self.said, "engine": self.engine, "seed": self.seed,
            "seconds": round(self.seconds, 3), "counts": self.counts, "inputs": [asdict(row) for row in self.rows],
        }  # fmt: skip


def by_event(group: Sequence[Event], chosen: Collection[Key]) -> bool:
    """Whether an input, given by its outcomes, belongs to a chosen intent."""
    return any((e.header.agent_id, e.header.intent_id) in chosen for e in group)


class Reproduce(Rederive):
    """One partition. Feed every record from the first on; `finish` ends it, `rows` has what came of the chosen."""

    def __init__(
        self,
        partition: int,
        controls: Sequence[Control],
        opener: Opener,
        chosen: Collection[Key],
        erased_by: Callable[[str], str] = lambda _: "",
    ) -> None:
        super().__init__(partition, controls, opener, lambda group: by_event(group, chosen))
        self.rows: list[Remade] = []
        self._chosen, self._erased_by = chosen, erased_by

    def _compare(self, group: list[Event]) -> None:
        row = row_of(next(e for e in group if (e.header.agent_id, e.header.intent_id) in self._chosen))
        try:
            found = self._decide(group, self._source(group[0]))
        except GoneError as gone:
            row.verdict, row.why = (
                ERASED,
                f"its arguments `{gone.subject}` are not in the artifact store any more",
            )
        except BeforeSeamError:
            row.verdict = EXPIRED
            row.why = "it asks for bytes of a generation before, and neither kafka nor the archive has them any more"
        except ErasedError as error:
            row.verdict, row.why = ERASED, self._erased_by(error.subject or group[0].header.subject)
        except SluicegateError as error:  # a ciphertext that does not belong to its key
            row.verdict, row.cause, row.field, row.why = DIFFERENT, "content", "content", str(error)
        else:
            if found is not None and group[0].header.reason == "machinery_failed":
                row.verdict = SKIPPED
            elif found is not None:
                self._differs(row, group, found)
        self.rows.append(row)

    def _differs(self, row: Remade, group: list[Event], found: Difference) -> None:
        row.verdict, row.seq, row.offset = DIFFERENT, found.seq, found.offset
        row.field, row.recorded, row.remade = found.field, found.recorded, found.remade
        row.cause = self._cause(group, found)
        row.why = CAUSES[row.cause]

    def _cause(self, group: list[Event], found: Difference) -> str:
        """What explains the first difference."""
        if any(e.header.engine != ENGINE for e in group):
            return "engine"
        if found.field in ("release", "control_head", "content"):
            return found.field
        if found.field.startswith("facts"):
            return "facts"
        if found.field not in ("status", "reason", "policies", "stage", "outcomes"):
            return "header"
        return self._other_head(group) or "decision"

    def _other_head(self, group: list[Event]) -> str:
        """`control_head` or `release`, when the recorded answer comes out under another head nearby."""
        at = group[0].header.control_head
        recorded = [
            (e.header.stage, e.header.status, e.header.reason, list(e.header.policies)) for e in group
        ]
        for distance in range(1, MAX_HEADS + 1):
            for head in (at - distance, at + distance):
                if not 0 <= head < len(self._controls):
                    continue
                other = self._controls[head]
                made = self._decision(self._source(group[0]), other, group[0].header.decided_at).outcomes
                if [_words(o) for o in made] == recorded:
                    same = other.deployed == self._controls[at].deployed
                    return "control_head" if same else "release"
        return ""


def _words(outcome: Outcome) -> tuple[str, str, str, list[str]]:
    return outcome.stage, outcome.status, outcome.reason, list(outcome.policies)


def row_of(event: Event, verdict: str = SAME, why: str = "") -> Remade:
    """A row about an input, by one of its outcomes."""
    h = event.header
    place = f"{h.input_topic}/{h.input_partition}/{h.input_offset}"
    return Remade(
        h.partition, h.seq, event.offset, place, h.agent_id, h.intent_id, h.stage, h.status, h.release, h.control_head,
        h.engine, verdict, why=why,
    )  # fmt: skip


def rank(seed: str, key: Key) -> bytes:
    """Where an intent stands in a seed's order: whoever has the seed draws the same sample."""
    return hashlib.sha256(f"{seed}\0{key[0]}\0{key[1]}".encode()).digest()


def sample(seed: str, keys: Iterable[Key], count: int) -> list[Key]:
    """`count` of these intents, uniformly by the seed; all of them when they are fewer."""
    return sorted(set(keys), key=lambda key: rank(seed, key))[:count]
