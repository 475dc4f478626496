"""What goes into an evidence bundle: which records of one agent's partition, what of them may be disclosed, the tree's proofs.

    Picker    a partition's records, in order -> the lines of `events.jsonl`, and counts
    Nodes     every leaf of a log -> proofs that lead from a stretch of it to a signed head

Given records and keys; never reads Kafka and never decides what counts: `verify.py` derives all of it again, with other
code. Next: `evidence/bundle.py` (who reads Kafka), `evidence/file.py` (the zip), docs/evidence.md.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sluicegate.processors import lifecycle
from sluicegate.processors.labels import CONFIDENTIALITY, read_header
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.seam.fold import SEALED
from sluicegate.processors.seam.fold import STAGE as SEAM
from sluicegate.processors.transparency import merkle
from sluicegate.processors.transparency.checkpoints import Signed
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.lives import Lives
from sluicegate.processors.verify.reading import Head, Rest
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

WITHHELD = -1
INTERNAL = CONFIDENTIALITY.index("internal")

Json = dict[str, object]


def b64(data: bytes) -> str:
    """As it stands in a bundle."""
    return base64.b64encode(data).decode()


# -- the agent's partition ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for.

    Attributes:
        since, until: microseconds; from the first on, before the second.
        disclose: rank of the widest confidentiality that may be in it in the clear; `WITHHELD` for none.
        others: whether other agents' events are there by their headers, which shows that none of this agent's is left out.
    """

    agent: str
    since: int
    until: int
    disclose: int = WITHHELD
    others: bool = True


@dataclass(slots=True)
class Call:
    """One intent, for people to read."""

    intent: str
    at: int
    tool: str = ""
    status: str = ""
    reason: str = ""
    policies: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    steps: int = 0


MAX_CALLS = 5_000
"""Calls that the summary lists, 300 bytes each: a page of 1.5 MB. The rest is counted, and in `events.jsonl`."""


NEVER = 1 << 62


class Picker:
    """A partition's records from its first on; `write` takes the lines of those that belong in the bundle.

    Attributes:
        start, end: seqs of the stretch that was written.
        began, sealed: when the partition's first record was decided, and its seal; `NEVER` while it was not.
        releases: what the agent's events in it were decided under.
        before: that of the generation before; what is told of calls, and how narrow sessions are, goes on from there.
    """

    def __init__(
        self, ask: Ask, write: Callable[[bytes], object], may_open: Callable[[str], bool] = lambda _: True,
        before: Picker | None = None,
    ) -> None:  # fmt: skip
        self.ask, self._write, self._may_open, self.before = ask, write, may_open, before
        self.start = self.end = 0
        self.began = self.sealed = NEVER
        self.releases: set[str] = set() if before is None else before.releases
        self.calls: dict[str, Call] = {} if before is None else before.calls
        self.tally: Counter[str] = Counter() if before is None else before.tally
        self.closed = False
        self._lives = Lives(lambda _, __: None)
        self._before: tuple[Head, reading.Parts] | None = None
        self._sessions: dict[str, int] = {} if before is None else before._sessions
        self._started: set[str] = set()
        self._carried: set[str] = set()

    def add(self, value: bytes) -> bytes:
        """One record. Returns its leaf. Raises `Unreadable`."""
        parts = reading.split(value)
        head = reading.head(parts.header)
        leaf = header_hash(parts.header)
        rest = reading.rest(head.rest)
        own = rest.agent_id == self.ask.agent
        rank = self._rank(head, rest, parts.header) if own else INTERNAL
        self.began = min(self.began, rest.decided_at)
        if head.status == SEALED and head.stage == SEAM:
            self.sealed = rest.decided_at
        if rest.decided_at < self.ask.since:
            self._before = head, parts
        elif rest.decided_at >= self.ask.until:
            if not self.closed:
                self._begin(head.seq)
                self._line(head.seq, {"header": b64(parts.header)})
                self.closed = True
        else:
            self._begin(head.seq)
            if own:
                self._own(head, rest, parts, rank)
            else:
                row = _other(head, parts)
                self.tally["others"] += "seam" not in row
                self._line(head.seq, row if self.ask.others or "seam" in row else {"leaf": b64(leaf)})
        return leaf

    def finish(self) -> None:
        """The ledger ends here."""
        if self._before is not None and not self.end:
            self._begin(self._before[0].seq + 1)

    def _begin(self, seq: int) -> None:
        if self.end:
            return
        self.start = self.end = seq
        if self._before is not None:
            head, parts = self._before
            self.start = self.end = head.seq
            self._line(head.seq, _other(head, parts))

    def _line(self, seq: int, row: Json) -> None:
        self._write(json.dumps({"seq": seq, **row}, separators=(",", ":")).encode() + b"\n")
        self.end = seq + 1

    def _rank(self, head: Head, rest: Rest, header: bytes) -> int:
        """How narrowly a content may be shown: at least as the session's results so far, since what is asked may repeat them."""
        labels = codec.decode_as(r.Header, header).labels
        rank = max(read_header(labels)[1] if labels else INTERNAL, self._sessions.get(rest.session_id, 0))
        if rest.session_id and head.status in lifecycle.TERMINAL:
            self._sessions[rest.session_id] = rank
        return rank

    def _own(self, head: Head, rest: Rest, parts: reading.Parts, rank: int) -> None:
        row: Json = {"header": b64(parts.header), "facts": b64(parts.facts)}
        if parts.content is not None and rank <= self.ask.disclose and self._may_open(rest.subject):
            row["content"] = b64(parts.content)
            self.tally["disclosed"] += 1
        elif parts.content is not None:
            self.tally["withheld"] += 1
        self._line(head.seq, row)
        self.tally["events"] += 1
        self.releases |= {rest.release} if rest.release else set()
        self._lives.begin(rest)
        self._lives.step(head.stage, head.status, rest, parts.facts)
        self._tell(head, rest, parts)

    def _tell(self, head: Head, rest: Rest, parts: reading.Parts) -> None:
        """For the counts and the summary."""
        key = f"{rest.tenant}\0{rest.intent_id}"
        facts = codec.decode(parts.facts)
        attached = head.status == lifecycle.ATTACHED or not rest.intent_id or head.status in lifecycle.OTHER
        if isinstance(facts, r.IntentFacts) and facts.remembered:
            self._started.add(key)
        elif not isinstance(facts, r.IntentFacts) and not attached and key not in self._started:
            self._carried.add(key)
        if isinstance(facts, r.ReviewFacts) and head.status == "held":
            self.tally["approvals"] += 1
        if attached:
            return
        call = self.calls.get(key)
        if call is None:
            if len(self.calls) >= MAX_CALLS:
                self.tally["untold"] += isinstance(facts, r.IntentFacts)
                return
            call = self.calls[key] = Call(rest.intent_id, rest.decided_at)
        header = codec.decode_as(r.Header, parts.header)
        call.tool = facts.tool if isinstance(facts, r.IntentFacts) else call.tool
        call.status, call.reason, call.steps = head.status, head.reason or call.reason, call.steps + 1
        call.policies += [p for p in header.policies if p not in call.policies]
        call.labels += [one for one in header.labels if one not in call.labels]
        if isinstance(facts, r.ReviewFacts):
            call.people.append(f"{facts.reviewer} ({facts.verdict})")

    def counts(self) -> Json:
        """intents = refused + expired + voided + executed + in_doubt + open; over all generations up to this one's."""
        ends, one = Counter[str](), self
        while True:
            ends += one._ends()
            if one.before is None:
                break
            one = one.before
        names = ("intents", "refused", "expired", "voided", "executed", "in_doubt", "open", "begun_before")
        return {
            "events": self.tally["events"], **{name: ends[name] for name in names},
            "approvals": self.tally["approvals"], "events_of_others": self.tally["others"] if self.ask.others else 0,
        }  # fmt: skip

    def _ends(self) -> Counter[str]:
        found = self._lives.counts()
        still = found["open"]
        assert isinstance(still, dict)
        sums = {"in_doubt": still.get("in_doubt", 0), "open": sum(still.values()) - still.get("in_doubt", 0)}
        for name, states in (("intents", ("in",)), ("executed", lifecycle.EXECUTED_TERMINAL), *_ALONE):
            sums[name] = sum(n for n in (found[s] for s in states) if isinstance(n, int))
        return Counter({**sums, "begun_before": len(self._carried)})


_ALONE = (("refused", ("refused",)), ("expired", ("expired",)), ("voided", ("voided",)))


def _other(head: Head, parts: reading.Parts) -> Json:
    """A record that is none of the agent's: its header alone, but for what a seam says of whole partitions, which is about nobody."""
    row: Json = {"header": b64(parts.header)}
    if head.stage == SEAM:
        facts = codec.decode(parts.facts)
        # INVARIANT: no row of another agent's state is in a bundle (tests/unit/test_evidence_seam.py).
        if isinstance(facts, r.SealFacts) or (isinstance(facts, r.ImportFacts) and not facts.rows):
            row["seam"] = b64(parts.facts)
    return row


NEEDED = (
    "genesis",
    "key.",
    "people.",
    "release.",
    "canary.",
    "subject.",
    "change.",
    "mode.",
    "quarantine.",
    "rollback.",
    "generation.",
)
"""Kinds of control events that are told whole; of others only that they happened."""


def control_line(value: bytes, agent: str) -> tuple[bytes, bytes]:
    """A control event's line and its leaf. What is about other agents, gateways and alarms is there by its header."""
    parts = reading.split(value)
    head = reading.head(parts.header)
    row: Json = {"seq": head.seq, "header": b64(parts.header)}
    facts = codec.decode_as(r.ControlFacts, parts.facts)
    if facts.kind.startswith(NEEDED) or f'"{agent}"'.encode() in facts.body:
        row["facts"] = b64(parts.facts)
    return json.dumps(row, separators=(",", ":")).encode() + b"\n", header_hash(parts.header)


# -- the tree ----------------------------------------------------------------------------------------------------


class Nodes:
    """`merkle.Node` over leaves in memory: 32 bytes each, and as much again once a proof was asked for."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    def append(self, leaf: bytes) -> None:
        """The next leaf."""
        self._levels[0].append(leaf)
        del self._levels[1:]

    @property
    def size(self) -> int:
        """Leaves so far."""
        return len(self._levels[0])

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree."""
        while len(self._levels) <= level:
            last = self._levels[-1]
            self._levels.append([merkle.node_hash(last[i], last[i + 1]) for i in range(0, len(last) - 1, 2)])
        return self._levels[level][index]


def proof_of(
    start: int, end: int, signed: Signed | None, earlier: Sequence[Signed], node: merkle.Node
) -> Json:
    """What leads from the events `start` to `end` to the signed head, and from earlier heads to it."""
    found: Json = {
        "start": start,
        "left": [b64(h) for h in merkle.frontier_at(start, node).nodes],
        "right": [],
    }
    if signed is None:
        return found | {"checkpoint": "", "earlier": []}
    size, at, right = signed.head.size, end, []
    while at < size:
        level = 0
        while at % (2 << level) == 0 and at + (2 << level) <= size:
            level += 1
        right.append(b64(node(level, at >> level)))
        at += 1 << level
    proofs = [
        {
            "checkpoint": str(e.note),
            "proof": [b64(h) for h in merkle.consistency_proof(e.head.size, size, node)],
        }
        for e in earlier
        if e.head.size <= size
    ]
    return found | {"right": right, "checkpoint": str(signed.note), "earlier": proofs}
