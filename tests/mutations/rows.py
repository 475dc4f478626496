"""What is done to ClickHouse: rows dropped, added, rewritten. The rows are a scene's ledger, written by the sink itself.

After each kind of tampering they are put back from a copy. Next: `tests/contracts/test_verify_clickhouse.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.sinks import ddl, rows
from sluicegate.sinks.embedded import connect
from sluicegate.sinks.ranges import Collector
from sluicegate.sinks.writer import Sink
from sluicegate.streams.verify.rows import Rows, compare

from tests.driver import LOG_ID
from tests.mutations import scenes
from tests.mutations.scenes import Scene

AT = "src_topic = 'outcomes' AND seq = 30"
SYNC = "SETTINGS mutations_sync = 2"


@dataclass
class Filled:
    """A database that holds a scene's ledger."""

    client: Any
    database: str
    scene: Scene

    def command(self, text: str) -> None:
        """Run SQL as whoever owns the database could."""
        self.client.command(text.format(db=f"`{self.database}`"))

    def put_back(self) -> None:
        """The rows as the sink wrote them."""
        self.command("TRUNCATE TABLE {db}.events")
        self.command("INSERT INTO {db}.events SELECT * FROM {db}.kept SETTINGS insert_deduplicate = 0")

    def violations(self, cut: int = 0) -> dict[str, tuple[int, str]]:
        """What verify finds when it compares. `cut`: records that the ledger lost at its end."""
        control = ControlChecker(self.scene.rules)
        for record in self.scene.control:
            control.add(*record)
        checker = PartitionChecker(0, control.controls)
        for record in self.scene.records[: len(self.scene.records) - cut]:
            checker.add(*record)
        highest = {(LOG_ID.hex(), "outcomes", 0): self._highest()}
        asyncio.run(compare(Rows(self.client, self.database, "", highest), "outcomes", 0, checker))
        return {name: (v.seq, v.sentence) for name, v in checker.findings.first.items()}

    def _highest(self) -> int:
        query = f"SELECT max(seq) FROM `{self.database}`.events WHERE src_topic = 'outcomes'"
        return int(self.client.query(query).result_rows[0][0])


def fill(url: str) -> Filled:
    """A database that the sink filled."""
    client, database = connect(url, "sink"), "verify-tampered"
    ddl.ensure_schema(client, database)
    scene = scenes.everyday()
    collector = Collector(LOG_ID, "outcomes", 0)
    for record in scene.records:
        collector.add(rows.Record("outcomes", 0, record.offset, record.value), 0.0)
    found = collector.take(float("inf"))
    assert found is not None
    Sink(lambda: client, database, scene.keys).write(found, False)
    made = Filled(client, database, scene)
    made.command("CREATE TABLE {db}.kept AS {db}.events")
    made.command("INSERT INTO {db}.kept SELECT * FROM {db}.events")
    return made


DROPPED = "ALTER TABLE {db}.events DELETE WHERE " + f"{AT} {SYNC}"
ADDED = "INSERT INTO {db}.events SELECT * REPLACE (seq + {by} AS seq) FROM {db}.kept AS k WHERE k.seq = 30"
TAMPERINGS: list[tuple[str, str, int]] = [
    ("a row is dropped", DROPPED, 0),
    ("a row is added beyond the end", ADDED.replace("{by}", "1000"), 259),
    ("a row is added with another hash", "INSERT INTO {db}.events SELECT * REPLACE (prev_hash AS header_hash) FROM {db}.kept AS k WHERE k.seq = 30", 0),
    ("the bytes of a header are rewritten", "ALTER TABLE {db}.events UPDATE header = concat(header, 'x') WHERE " + f"{AT} {SYNC}", 0),
    ("header and hash are rewritten alike", "ALTER TABLE {db}.events UPDATE header = concat(header, 'x'), header_hash = SHA256(concat(unhex('00'), header, 'x')) WHERE " + f"{AT} {SYNC}", 0),
    ("the bytes of facts are rewritten", "ALTER TABLE {db}.events UPDATE facts = concat(facts, 'x') WHERE " + f"{AT} {SYNC}", 0),
    *(
        (f"column `{name}` is rewritten", "ALTER TABLE {db}.events UPDATE " + f"{name} = {value} WHERE {AT} {SYNC}", 0)
        for name, value in (
            ("status", "'released'"), ("reason", "'x'"), ("policies", "['mine']"), ("agent_id", "'mallory'"),
            ("labels", "['public']"), ("input_topic", "'tick'"), ("release", "'sha256:00'"),
            ("caused_by", "[]"), ("content_commitment", "NULL"), ("control_head", "0"), ("input_offset", "7"),
        )
    ),
]  # fmt: skip


def tamper(filled: Filled, sql: str) -> dict[str, tuple[int, str]]:
    """What verify finds after it was done; the rows are put back."""
    filled.command(sql)
    found = filled.violations()
    filled.put_back()
    return found
