"""`sluicegate ledger verify`: the whole ledger from Kafka, against its rules, its inputs and ClickHouse.

    1. cut      fetch the committed ends, then read control, folded under its own rules (`verify/releases.py`): no record
                below the cut can name a later control event
    2. ledger   every partition from its first record to the cut (`processors/verify/partition.py`)
    3. inputs   every record of an input topic below the ledger's position was decided: counted and summed
    4. heads    every checkpoint that was signed, and the tiles, against the ledger's own tree (`verify/checkpoints.py`)
    5. rows     ClickHouse against the same events (`verify/rows.py`); what its sink has not reached yet is PENDING
    6. seam     of a generation after the first: the one before is folded again, and what it left is what was imported

What is not above the cut is not judged. Never writes anything anywhere. Next: `processors/verify/invariants.py`.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.seam import generations
from sluicegate.processors.transparency.checkpoints import CONTROL
from sluicegate.processors.verify.chain import Chain
from sluicegate.processors.verify.contents import Opener
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.invariants import Findings
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.topics import INPUTS
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys import mac_keys
from sluicegate.streams.keys.store import Keys, keys_at
from sluicegate.streams.repartition import generation
from sluicegate.streams.scan import FETCH_WAIT_MS, Advance, OnStart, Stretch, places, scan_values, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.verify import checkpoints as verify_checkpoints
from sluicegate.streams.verify import releases as verify_releases
from sluicegate.streams.verify import seam as verify_seam
from sluicegate.streams.verify.checkpoints import Heads
from sluicegate.streams.verify.rows import Rows, compare, open_rows


@dataclass(slots=True)
class PartitionReport:
    """What was found in one ledger partition; `partition` -1 is control.

    Attributes:
        head: hash of the last header: keep it elsewhere, and later tampering shows against it.
        intents: counts for non-omission: `in` = the ended ones + `open`.
        contents: with `--contents`, how many were opened, erased, signed, unsigned, without_secret.
        inputs: per topic: decided, in_kafka, and a verdict.
        checkpoints: same | broken | no checkpoint | not compared, with how many heads and tiles.
        before: with `--since`, violations below the kept checkpoint: not told again.
        clickhouse: same | pending | broken | not compared, with the numbers.
        violations: name -> first one, with the count of all.
    """

    partition: int
    events: int = 0
    seq: int = -1
    head: str = ""
    decided_until: int = 0
    control_head: int = -1
    intents: dict[str, object] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, dict[str, object]] = field(default_factory=dict)
    checkpoints: dict[str, object] = field(default_factory=dict)
    clickhouse: dict[str, object] = field(default_factory=dict)
    before: int = 0
    violations: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No violation."""
        return not self.violations


@dataclass(slots=True)
class Report:
    """The verdict on one environment's ledger. `pending` is how many events ClickHouse has yet to get."""

    env: str
    log_id: str = ""
    control: PartitionReport = field(default_factory=lambda: PartitionReport(-1))
    partitions: list[PartitionReport] = field(default_factory=list)
    clickhouse: str = ""
    pending: int = 0
    events: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is broken. A sink that lags breaks nothing."""
        return self.control.ok and all(p.ok for p in self.partitions)

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.ok:
            names = sorted({n for p in (self.control, *self.partitions) for n in p.violations})
            return f"BROKEN: {', '.join(names)}"
        if self.pending:
            return f"intact; ClickHouse is PENDING: its sink lags by {self.pending} events"
        return (
            "intact"
            if self.clickhouse == "compared"
            else f"intact; ClickHouse not compared: {self.clickhouse}"
        )

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {"ok": self.ok, "verdict": self.verdict, **asdict(self)}


async def verify(
    settings: Settings,
    *,
    partitions: list[int] | None = None,
    inputs: bool = True,
    clickhouse: bool = True,
    contents: bool = False,
    since: Sequence[Path] = (),
    on_start: OnStart | None = None,
) -> Report:
    """Verify a ledger up to its committed end as of now. `contents`: what is sealed is opened with this
    machine's key store. `since`: checkpoints that somebody kept; what is below them is held to their roots, and not
    told again. `on_start(total offsets)` returns what progress is told."""
    started = time.monotonic()
    report = Report(settings.env)
    count = await topics.count_with(settings, partitions or ())
    wanted = list(range(count)) if partitions is None else partitions
    opener = _opener(settings) if contents else None
    rows = await open_rows(settings) if clickhouse else Rows(reason="not asked")
    report.clickhouse = rows.reason or "compared"
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    gc.collect()
    gc.freeze()
    gc.disable()  # checking makes no cycles, and looking for them costs a tenth
    try:
        run = _Run(settings, consumer, rows, report, opener, since)
        await run.all(wanted, inputs, on_start)
    finally:
        gc.enable()
        gc.unfreeze()
        await consumer.stop()
    report.seconds = time.monotonic() - started
    return report


def _opener(settings: Settings) -> Opener:
    # INVARIANT: verify makes no key, and no file (tests/integration/test_ledger_tools.py).
    if not keys_at(settings.home).is_file():
        raise Terminal(
            f"there is no key store under `{settings.home}`, contents cannot be opened here: leave out --contents"
        )
    return Keys(settings.home).open


class _Run:
    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        rows: Rows,
        report: Report,
        opener: Opener | None,
        since: Sequence[Path],
    ) -> None:
        self.env, self.consumer, self.rows, self.report = settings.env, consumer, rows, report
        self.settings, self.since = settings, since
        self.store = verify_checkpoints.store_at(settings)
        self.opener, self.mac_keys = opener, mac_keys.load(settings.home) if opener is not None else {}
        self.advance: Advance = lambda _: None

    async def all(self, wanted: list[int], inputs: bool, on_start: OnStart | None) -> None:
        await self._look(wanted)
        shown = await verify_checkpoints.topic_end(self.consumer, self.env)
        ledgers = await stretches(self.consumer, places(self.settings.space, "outcomes", wanted))  # 1
        begins = {p: await stretches(self.consumer, self._inputs(p)) for p in wanted}
        if on_start is not None:
            total = sum(s.end - s.begin for s in ledgers)
            total += sum(s.end - s.begin for ss in begins.values() for s in ss) if inputs else 0
            self.advance = on_start(total)
        control, heads = await self._control(shown)
        number = self.settings.generation or 0
        controls = generations.all_seen_from(control.controls, number)
        seam = (
            await verify_seam.remade(self.settings, self.consumer, controls[-1], self.advance)
            if number
            else None
        )
        for stretch in ledgers:
            index = stretch.place.partition
            starts = {self._topic(s.place): s.begin for s in begins[index]}
            checker = PartitionChecker(index, controls, starts, self.opener, number)
            checker.sum_until = self.rows.until(checker.log_id, "outcomes", index)
            verify_checkpoints.hold(checker, heads, self.store)
            await self._feed(checker, stretch)  # 2
            part = _report_of(checker)
            part.intents = checker.close()
            if seam is not None:
                checker.seams.remade(seam.expected(index), seam.wrong)  # 6
            part.contents = dict(checker.contents.counts) if checker.contents is not None else {}
            part.before = checker.before
            part.decided_until, part.control_head = checker.time, checker.control_head
            if inputs:
                for source in begins[index]:
                    part.inputs[self._topic(source.place)] = await self._omitted(checker, source)  # 3
            part.checkpoints = verify_checkpoints.told(checker, self.store)  # 4
            part.clickhouse = await compare(self.rows, "outcomes", index, checker)  # 5
            self._finish(part, checker.findings)
            self.report.partitions.append(part)

    async def _look(self, wanted: list[int]) -> None:
        """What is signed beside the tiles, before the cut: a head that is signed while this runs is none of a ledger cut off."""
        with contextlib.suppress(SluicegateError):  # control that cannot be followed is judged below
            control = (await control_log.read(self.settings)).control
            heads = verify_checkpoints.begin(generation.seen(self.settings, control), self.env)
            self.store.look(heads, [CONTROL, *wanted])

    def _topic(self, place: TopicPartition) -> str:
        return str(place.topic).rpartition(".")[2]

    def _inputs(self, partition: int) -> list[TopicPartition]:
        return [places(self.settings.space, topic, [partition])[0] for topic in INPUTS]

    async def _feed(self, checker: PartitionChecker | ControlChecker, stretch: Stretch) -> None:
        async for batch in scan_values(self.consumer, stretch.place, stretch.begin, stretch.end):
            for offset, value in batch:
                checker.add(offset, value)
            self.advance(len(batch))

    async def _control(self, shown: Stretch) -> tuple[ControlChecker, Heads]:
        checker = ControlChecker(await verify_releases.rules(self.consumer, self.env), self.mac_keys)
        [stretch] = await stretches(self.consumer, places(self.env, "control", [0]))
        await self._feed(checker, stretch)
        self.report.control = part = _report_of(checker)
        self.report.log_id = checker.log_id.hex()
        if not checker.controls:
            raise Terminal(f"there is no ledger in `{self.env}` yet, start one with `sluicegate up`")
        heads = verify_checkpoints.begin(generation.seen(self.settings, checker.controls[-1]), self.env)
        verify_checkpoints.keep(heads, self.since)
        await verify_checkpoints.read_topic(self.consumer, heads, shown)
        verify_checkpoints.hold(checker, heads, self.store)
        part.checkpoints = verify_checkpoints.told(checker, self.store)
        part.clickhouse = await compare(self.rows, "control", 0, checker)
        self._finish(part, checker.findings)
        return checker, heads

    async def _omitted(self, checker: PartitionChecker, source: Stretch) -> dict[str, object]:
        """Whether every record below the ledger's position that still exists was decided. Offsets have holes."""
        topic = self._topic(source.place)
        position = checker.positions.get(topic, source.begin - 1) + 1
        count = total = 0
        async for batch in scan_values(self.consumer, source.place, source.begin, min(position, source.end)):
            count += len(batch)
            total += sum(offset for offset, _ in batch)
            self.advance(len(batch))
        decided = checker.input_counts[topic]
        result: dict[str, object] = {"decided": decided, "in_kafka": count, "verdict": "same"}
        if checker.decided(topic, count, total):
            return result
        [now] = await stretches(self.consumer, [source.place])
        if now.begin != source.begin:
            result["verdict"] = "pending: the topic's retention moved its begin, verify again"
            return result
        result["verdict"] = "broken"
        checker.left_out(topic, count, position)
        return result

    def _finish(self, part: PartitionReport, findings: Findings) -> None:
        for name, violation in findings.first.items():
            part.violations[name] = {**asdict(violation), "count": findings.counts[name]}
        self.report.events += part.events
        pending = part.clickhouse.get("pending", 0)
        assert isinstance(pending, int)
        self.report.pending += pending


def _report_of(checker: Chain) -> PartitionReport:
    return PartitionReport(
        checker.findings.partition, checker.records, checker.seq - 1, checker.prev_hash.hex()
    )
