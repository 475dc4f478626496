"""Ledger records for tests: valid Avro, dense seq, unbroken chain, the life of an intent in four outcomes.

Content is not sealed: `PlainOpener` opens it by returning it. Next: `tests/unit/test_sink.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from sluicegate.schemas import codec, records
from sluicegate.sinks.rows import Record

T0 = 1_795_000_000_000_000
"""Microseconds; 2026-11-18."""
STEP_US = 1_000
AGENTS = 20


def log_id(name: str = "a") -> bytes:
    """A stable log id."""
    return sha256(name.encode()).digest()[:16]


class PlainOpener:
    """Content is its own ciphertext; subjects in `erased` have no key."""

    def __init__(self) -> None:
        self.erased: set[str] = set()

    def open(self, subject: str, event_id: bytes, sealed: bytes) -> bytes | None:
        return None if subject in self.erased else sealed


@dataclass
class Ledger:
    """Writes one ledger partition's records."""

    log: bytes = field(default_factory=log_id)
    partition: int = 0
    topic: str = "outcomes"
    holes: bool = True
    """Leave an offset out after every eighth record, as commit markers do."""
    now: int = T0
    seq: int = 0
    offset: int = 0
    prev: bytes = bytes(32)

    def append(self, stage: str, status: str, facts: object, **header: object) -> Record:
        """One record; `content` and any field of the header may be given."""
        content = header.pop("content", None)
        assert content is None or isinstance(content, bytes)
        raw = codec.encode(facts)
        values: dict[str, object] = {
            "v": 1,
            "log_id": self.log,
            "partition": self.partition,
            "seq": self.seq,
            "event_id": sha256(
                b"%s %s %d %d" % (self.log, self.topic.encode(), self.partition, self.seq)
            ).digest()[:16],
            "stage": stage,
            "status": status,
            "reason": "",
            "policies": [],
            "caused_by": [],
            "labels": ["internal"],
            "facts_hash": sha256(raw).digest(),
            "content_commitment": None if content is None else sha256(content).digest(),
            "prev_hash": self.prev,
            "intent_id": "",
            "tenant": "acme",
            "agent_id": "agent-1",
            "session_id": "session-1",
            "subject": "person-1",
            "decided_at": self.now,
            "input_topic": "intents",
            "input_partition": self.partition,
            "input_offset": self.seq // 4,
            "control_head": 3,
            "release": "sha256:" + "ab" * 32,
            "engine": "0.1.0",
        }
        values.update(header)
        encoded = codec.encode(records.Header(**values))  # type: ignore[arg-type]
        self.prev = sha256(b"\x00" + encoded).digest()
        return self.raw(codec.encode(records.Outcome(encoded, raw, content)), counts=True)

    def raw(self, value: bytes | None, counts: bool = False) -> Record:
        """A record of any bytes at the next offset; `counts` when it takes a seq."""
        record = Record(self.topic, self.partition, self.offset, value)
        self.offset += 1
        if counts:
            self.seq += 1
            if self.holes and self.seq % 8 == 0:
                self.offset += 1
        return record

    def genesis(self) -> Record:
        return self.append("genesis", "genesis", records.GenesisFacts(self.log, 4, "test", "dev"))

    def intent(
        self, number: int, refused: bool = False, content: bytes | None = b'{"to":"x"}'
    ) -> list[Record]:
        """The first pass over an intent, at one time: routed, permitted, validated, dispatched; or routed, refused."""
        self.now += STEP_US
        who = {
            "intent_id": f"intent-{number}",
            "agent_id": f"agent-{number % AGENTS}",
            "session_id": f"session-{number % (4 * AGENTS)}",
            "subject": f"person-{number % AGENTS}",
        }
        tool = f"tool-{number % 7}"
        facts = records.IntentFacts(
            sha256(str(number).encode()).digest()[:16], "tool_call", tool, "1.2.0", "http", self.now - 4_000, 0, True,
            False, True,
        )  # fmt: skip
        asked = records.Intent(
            who["intent_id"],
            who["agent_id"],
            who["session_id"],
            "tool_call",
            tool,
            b'{"to":"x"}',
            self.now - 4_000,
        )
        first = self.append("route", "routed", facts, content=codec.encode(asked), **who)
        if refused:
            why = records.StageFacts("nearest policy `payments`")
            return [
                first,
                self.append("authorize", "refused", why, reason="no_permit", policies=["deny-all"], **who),
            ]
        plan = records.PlanFacts(bytes(32), "idempotent", "http", 1, self.now + 5_000_000, 2_000)
        return [
            first,
            self.append("authorize", "permitted", records.StageFacts(""), policies=["allow-1"], **who),
            self.append("validate", "validated", records.StageFacts(""), **who),
            self.append("plan", "dispatched", plan, **who),
        ]

    def execution(self, number: int, error: str = "") -> list[Record]:
        """The claim, and 20 ms later the end of an execution."""
        self.now += STEP_US
        who = {
            "intent_id": f"intent-{number}",
            "agent_id": f"agent-{number % AGENTS}",
            "session_id": f"session-{number % (4 * AGENTS)}",
            "subject": f"person-{number % AGENTS}",
            "input_topic": "receipts",
        }
        claim = records.ClaimFacts(1, "worker-1", self.now, self.now + 10_000_000)
        claimed = self.append("execute", "claimed", claim, **who)
        self.now += 20_000
        facts = records.ResultFacts(1, "worker-1", self.now - 20_000, self.now, bytes(32), 17, error)
        status, reason = ("failed", error) if error else ("released", "")
        receipt = records.Receipt(
            bytes(16), who["intent_id"], who["agent_id"], who["session_id"], "finished", 1, "worker-1",
            facts.started_at, facts.finished_at, b'{"ok":true}', error,
        )  # fmt: skip
        return [
            claimed,
            self.append("execute", status, facts, reason=reason, content=codec.encode(receipt), **who),
        ]

    def noted(self, number: int) -> Record:
        """A duplicate that only attaches."""
        self.now += STEP_US
        who = {"intent_id": f"intent-{number}", "agent_id": f"agent-{number % AGENTS}"}
        return self.append("route", "noted", records.StageFacts(""), reason="duplicate", **who)

    def heard(self, number: int) -> Record:
        """A message of a session: it has an id, but is no intent."""
        facts = records.SessionFacts(
            "session.user_said", "channel", "person-1", bytes(16), True, False, self.now
        )
        return self.append("session", "heard", facts, intent_id=f"message-{number}", input_topic="messages")

    def many(self, count: int) -> list[Record]:
        """At least `count` records of intents."""
        out: list[Record] = []
        number = self.seq
        while len(out) < count:
            out += self.intent(number)
            number += 1
        return out
