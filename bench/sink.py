"""How many ledger records a second the sink puts into ClickHouse: `python -m bench.sink`.

Encoded records, four partitions, through the whole protocol (decode, freeze, insert, manifest) into the embedded
ClickHouse, without Kafka, by one projector process and by two that share the partitions; and by one with a real Kafka
when `SLUICEGATE_KAFKA` is set. Results: `bench/results/sink.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import tempfile
import time
import uuid
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
from sluicegate.sinks import clickhouse, ddl
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.sinks.rows import Record
from sluicegate.sinks.source import FETCH_MAX
from sluicegate.sinks.writer import Sink
from sluicegate.streams import kafka, topics
from sluicegate.streams.settings import Settings

from bench import common
from tests.ledger_records import Ledger, PlainOpener

PARTITIONS = 4
TARGET = 60_000
START_LIMIT_S = 120  # for every process to have made its records
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
    """Who used the processor meanwhile: the sink, the server, the others on this machine."""

    def __init__(self, server: EmbeddedClickHouse) -> None:
        self._server = psutil.Process(server.pid)
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        all_of_it, theirs = psutil.cpu_times(), self._server.cpu_times()
        return time.perf_counter(), theirs.user + theirs.system, all_of_it.idle + all_of_it.iowait

    def said(self, rows: int, sink_s: float) -> str:
        """In words."""
        wall, theirs, idle = (b - a for a, b in zip(self._start, self._now(), strict=True))
        cores = wall * (os.cpu_count() or 1)
        others = max(0.0, 1 - (sink_s + theirs + idle) / cores)
        return (
            f"{sink_s / rows * 1e6:.1f} us of CPU a row in the sink and {theirs / rows * 1e6:.1f} in the server; "
            f"others used {others:.0%} of {os.cpu_count()} cores"
        )


def project(home: str, database: str, partitions: tuple[int, ...], rows: int, barrier: Barrier) -> None:
    """One projector process over records it makes itself. Waits before the first row and after the last."""
    gc.set_threshold(clickhouse.GC_THRESHOLD)  # as the service does
    ledgers = {p: Ledger(partition=p).many(rows) for p in partitions}
    gc.collect()
    gc.freeze()  # the records are the bench's, not the sink's
    sink = Sink(lambda: EmbeddedClickHouse(Path(home)).connect("sink"), database, PlainOpener())

    async def run() -> None:
        counters, inserts = clickhouse.Counters(), asyncio.Semaphore(clickhouse.INSERTS_AT_ONCE)
        tasks = [
            asyncio.create_task(
                clickhouse.Projection(MemorySource(records, p), sink, counters, inserts).run()
            )
            for p, records in ledgers.items()
        ]
        while counters.rows < sum(map(len, ledgers.values())):
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    barrier.wait(START_LIMIT_S)
    asyncio.run(run())
    barrier.wait(START_LIMIT_S)


def without_kafka(server: EmbeddedClickHouse, home: str, rows: int, projectors: int) -> dict[str, object]:
    """A line of the results."""
    client, database = server.connect("sink"), f"bench-{projectors}"
    ddl.ensure_schema(client, database)
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(projectors + 1)
    shares = [tuple(range(PARTITIONS))[i::projectors] for i in range(projectors)]
    processes = [
        spawn.Process(target=project, args=(home, database, share, rows // PARTITIONS, barrier))
        for share in shares
    ]
    for process in processes:
        process.start()
    barrier.wait(START_LIMIT_S)
    watched = [psutil.Process(process.pid) for process in processes]
    before = sum(sum(p.cpu_times()[:2]) for p in watched)
    cpu, started = Cpu(server), time.perf_counter()
    barrier.wait()
    elapsed = time.perf_counter() - started
    used = sum(sum(p.cpu_times()[:2]) for p in watched) - before
    found = client.query(
        f"SELECT count(), uniqExact(src_partition, seq) FROM `{database}`.events"
    ).result_rows[0]
    total = rows // PARTITIONS * PARTITIONS
    assert tuple(found) == (total, total), f"{found} of {total} rows are there"
    for process in processes:
        process.join()
    how = f"in-process source, {PARTITIONS} partitions, {projectors} projector process(es), every fourth record with content"
    name = "sink.rows_per_s" if projectors == 1 else f"sink.rows_per_s_{projectors}_projectors"
    return result(name, total, elapsed, f"{how}; {cpu.said(total, used)}")


async def with_kafka(bootstrap: str, home: Path, server: EmbeddedClickHouse, rows: int) -> dict[str, object]:
    """A line of the results: from the first lag seen to the last row, the records being in Kafka before."""
    settings = Settings(
        env=f"bench-{uuid.uuid4().hex[:8]}", home=home, kafka=bootstrap, partitions=PARTITIONS
    )
    await topics.create(settings)
    producer = await kafka.connect(kafka.producer(bootstrap, linger_ms=20))
    total = 0
    try:
        for partition in range(PARTITIONS):
            for record in Ledger(partition=partition).many(rows // PARTITIONS):
                await producer.send(f"{settings.env}.outcomes", record.value, partition=partition)
                total += 1
        await producer.flush()
    finally:
        await producer.stop()
    projector = clickhouse.Projector(settings, bootstrap, lambda: server.connect("sink"), PlainOpener())
    stop = asyncio.Event()
    task = asyncio.create_task(projector.run(stop))
    while not any(lag > 1 for lag in projector.lag.values()):
        await asyncio.sleep(0.005)
    started, before, cpu = time.perf_counter(), time.process_time(), Cpu(server)
    while projector.rows < total:
        if task.done():
            task.result()
        await asyncio.sleep(0.005)
    elapsed, used = time.perf_counter() - started, cpu.said(total, time.process_time() - before)
    stop.set()
    await task
    how = f"records in Kafka before, {PARTITIONS} partitions, 1 projector process; {used}"
    return result("sink.rows_per_s_with_kafka", total, elapsed, how)


def result(name: str, rows: int, elapsed: float, conditions: str) -> dict[str, object]:
    """One line of the results file; the ratio is to the target."""
    value = round(rows / elapsed)
    return {
        "name": name,
        "value": value,
        "unit": "rows/s",
        "ratio_to": f"target of {TARGET} rows/s",
        "ratio": round(value / TARGET, 2),
        "conditions": f"{conditions}; {rows} rows; {common.pace_us():.2f} us a reference job; Python {platform.python_version()}",
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    rows = parser.parse_known_args()[0].rows  # `python -m bench sink` leaves its own argument there
    found = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedClickHouse(Path(folder)) as server:
        for projectors in (1, 2):
            found.append(without_kafka(server, folder, rows, projectors))
            print(found[-1])
        if bootstrap := os.environ.get("SLUICEGATE_KAFKA"):
            found.append(asyncio.run(with_kafka(bootstrap, Path(folder), server, rows)))
            print(found[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
