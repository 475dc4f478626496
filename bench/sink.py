"""How many ledger records a second the sink puts into ClickHouse: `python -m bench.sink`.

Encoded records, four partitions, through the whole protocol (decode, freeze, insert, manifest) into the embedded
ClickHouse, without Kafka; and with a real Kafka when `SLUICEGATE_KAFKA` is set. Results: `bench/results/sink.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import tempfile
import time
import uuid
from pathlib import Path

import psutil
from sluicegate.sinks import clickhouse, ddl
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.sinks.rows import Record
from sluicegate.sinks.source import FETCH_MAX
from sluicegate.sinks.writer import Sink
from sluicegate.streams import kafka, topics
from sluicegate.streams.settings import Settings

from tests.ledger_records import Ledger, PlainOpener

PARTITIONS = 4
RESULTS = Path(__file__).parent / "results" / "sink.json"


class MemorySource:
    """`Source` over a list."""

    def __init__(self, records: list[Record], partition: int) -> None:
        self.topic, self.partition = "outcomes", partition
        self._records, self._next = records, 0

    async def fetch(self, timeout_s: float) -> list[Record]:
        found = self._records[self._next : self._next + FETCH_MAX]
        self._next += len(found)
        await asyncio.sleep(0 if found else timeout_s)
        return found

    def seek(self, offset: int) -> None:
        self._next = next((i for i, r in enumerate(self._records) if r.offset >= offset), len(self._records))

    async def metadata(self) -> str:
        return ""

    async def commit(self, offset: int, metadata: str) -> None:
        await asyncio.sleep(0)

    def unread(self) -> int:
        return len(self._records) - self._next


class Cpu:
    """Who used the processor meanwhile: this process, the server, the others on this machine."""

    def __init__(self, server: EmbeddedClickHouse) -> None:
        self._server = psutil.Process(server.pid)
        self._start = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        mine, all_of_it, theirs = time.process_time(), psutil.cpu_times(), self._server.cpu_times()
        return time.perf_counter(), mine, theirs.user + theirs.system, all_of_it.idle + all_of_it.iowait

    def said(self, rows: int) -> str:
        """In words."""
        wall, mine, theirs, idle = (b - a for a, b in zip(self._start, self._now(), strict=True))
        cores = wall * (os.cpu_count() or 1)
        others = max(0.0, 1 - (mine + theirs + idle) / cores)
        return (
            f"sink {mine / rows * 1e6:.1f} us and server {theirs / rows * 1e6:.1f} us of CPU a row; "
            f"others used {others:.0%} of {os.cpu_count()} cores"
        )


async def without_kafka(sink: Sink, ledgers: list[list[Record]]) -> tuple[float, clickhouse.Counters]:
    """Seconds until all of it is there."""
    counters, inserts = clickhouse.Counters(), asyncio.Semaphore(clickhouse.INSERTS_AT_ONCE)
    projections = [
        clickhouse.Projection(MemorySource(records, p), sink, counters, inserts)
        for p, records in enumerate(ledgers)
    ]
    started = time.perf_counter()
    tasks = [asyncio.create_task(p.run()) for p in projections]
    total = sum(map(len, ledgers))
    while counters.rows < total:
        await asyncio.sleep(0.01)
    elapsed = time.perf_counter() - started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return elapsed, counters


async def with_kafka(
    bootstrap: str, home: Path, server: EmbeddedClickHouse, ledgers: list[list[Record]]
) -> float:
    """Seconds from the first row to the last one, the records being in Kafka before."""
    settings = Settings(
        env=f"bench-{uuid.uuid4().hex[:8]}", home=home, kafka=bootstrap, partitions=PARTITIONS
    )
    await topics.create(settings)
    producer = await kafka.connect(kafka.producer(bootstrap, linger_ms=20))
    try:
        for records in ledgers:
            for record in records:
                await producer.send(f"{settings.env}.outcomes", record.value, partition=record.partition)
        await producer.flush()
    finally:
        await producer.stop()
    projector = clickhouse.Projector(settings, bootstrap, lambda: server.connect("sink"), PlainOpener())
    stop = asyncio.Event()
    task = asyncio.create_task(projector.run(stop))
    total, started, cpu = sum(map(len, ledgers)), 0.0, Cpu(server)
    while projector.rows < total:
        if not started and any(lag > 1 for lag in projector.lag.values()):
            started, cpu = time.perf_counter(), Cpu(server)
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    elapsed, used = time.perf_counter() - started, cpu.said(total)
    stop.set()
    await task
    return elapsed, used


def result(name: str, rows: int, elapsed: float, conditions: str) -> dict[str, object]:
    """One line of the results file; the ratio is to the target."""
    target = 60_000
    value = round(rows / elapsed)
    return {
        "name": name,
        "value": value,
        "unit": "rows/s",
        "ratio_to": f"target {target} rows/s",
        "ratio": round(value / target, 2),
        "conditions": f"{conditions}; {rows} rows; {os.cpu_count()} cores shared; Python {platform.python_version()}",
    }


def main() -> None:
    """Measure and write the results."""
    gc.set_threshold(clickhouse.GC_THRESHOLD)  # as the service does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    rows = parser.parse_args().rows
    ledgers = [Ledger(partition=p).many(rows // PARTITIONS) for p in range(PARTITIONS)]
    gc.collect()
    gc.freeze()  # the records are the bench's, not the sink's
    total = sum(map(len, ledgers))
    found = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedClickHouse(Path(folder)) as server:
        client = server.connect("sink")
        ddl.ensure_schema(client, "bench")
        sink = Sink(lambda: server.connect("sink"), "bench", PlainOpener())
        cpu = Cpu(server)
        elapsed, counters = asyncio.run(without_kafka(sink, ledgers))
        used = cpu.said(total)
        there = client.query("SELECT count(), uniqExact(src_partition, seq) FROM bench.events").result_rows[0]
        assert tuple(there) == (total, total), f"{there} of {total} rows are there"
        how = f"in-process source, {PARTITIONS} partitions, {counters.batches} ranges, every fourth record with content; {used}"
        found.append(result("sink.rows_per_s", total, elapsed, how))
        print(found[-1])
        if bootstrap := os.environ.get("SLUICEGATE_KAFKA"):
            elapsed = asyncio.run(with_kafka(bootstrap, Path(folder), server, ledgers))
            found.append(
                result("sink.rows_per_s_with_kafka", total, elapsed, f"Kafka, {PARTITIONS} partitions")
            )
            print(found[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
