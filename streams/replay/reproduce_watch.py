"""The scheduled sample: the leader's monitor lets a process of its own decide some intents again, and says what share came out.

Each time one partition's turn comes: `sluicegate reproduce --sample 20` of the last day, with the hour as seed, in a
process of its own, for folding a partition takes a core for a second every 25,000 events. The share is a metric and an
event of control, which ClickHouse has as a row of `reproducible`; under 100 % it is an alarm (`processors/replay/reproduce_alarm.py`). `SLUICEGATE_REPRODUCE_EVERY_S=0` leaves it out.
Never decides and never writes the ledger. Next: `watch/monitor.py` (the timer), `commands/reproduce.py`.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.processors.replay.reproduce import DIFFERENT
from sluicegate.processors.replay.reproduce_alarm import Sampled, irreproducible, sampled_event
from sluicegate.schemas.errors import SluicegateError, Terminal

EVERY = "SLUICEGATE_REPRODUCE_EVERY_S"
EVERY_S = 3_600.0
SAMPLE = 20
"""Intents of one look: 24 looks a day see 480."""
PERIOD_US = 86_400_000_000
RUN_LIMIT_S = 1_800.0
"""For one look: 45,000,000 events of a partition. A larger one needs an archive and a sample by hand."""
FINE = (0, 1, 4)
"""Exit codes of `reproduce` that come with an answer."""

Propose = Callable[[list[Event], str, int], Awaitable[Control]]
Run = Callable[[list[str]], Awaitable[tuple[int, bytes, bytes]]]

log = logging.getLogger("sluicegate.reproduce")


def every_s(environ: Mapping[str, str], name: str = EVERY) -> float:
    """Seconds between two looks, an hour by default; 0 for none. Raises `Terminal`."""
    text = environ.get(name, "").strip() or str(EVERY_S)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise Terminal(f"{name}=`{text}` is no number of seconds, write 3600, or 0 for never")
    return value


async def process(arguments: list[str]) -> tuple[int, bytes, bytes]:
    """Run the command line in a process of its own: exit code, stdout, stderr."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluicegate.streams.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_LIMIT_S):
            out, err = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode or 0, out, err


class ReproduceWatch:
    """Looks when it is due. `clock`: microseconds."""

    def __init__(
        self,
        control: Callable[[], Control],
        propose: Propose,
        *,
        run: Run = process,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        every: float | None = None,
    ) -> None:
        self._control, self._propose, self._run, self._clock = control, propose, run, clock
        self._every_us = round(1_000_000 * (every_s(os.environ) if every is None else every))
        self._due = clock() + self._every_us
        self._looks = 0
        self._failed = 0
        self._sampled = 0
        self._reproduced = 0
        self.last: Sampled | None = None

    async def look(self) -> Sampled | None:
        """One sample, where it is due; None else."""
        now, control = self._clock(), self._control()
        if not self._every_us or now < self._due or control.partitions < 1:
            return None
        self._due = now + self._every_us
        partition, seed = self._looks % control.partitions, str(now // 3_600_000_000)
        self._looks += 1
        sampled = await self._sample(partition, seed, now - PERIOD_US, now)
        if sampled is None:
            return None
        self.last = sampled
        self._sampled += sum(sampled.counts.values())
        self._reproduced += sampled.counts.get("SAME", 0)
        alarm = irreproducible(control, sampled, now)
        if alarm:
            log.warning("alarm: %s", sampled.said)
        if events := sampled_event(sampled) + alarm:
            try:
                await self._propose(events, sampled.said, control.head)
            except SluicegateError as error:
                log.warning("sample not written to control: %s", error)
        return sampled

    async def _sample(self, partition: int, seed: str, since: int, until: int) -> Sampled | None:
        arguments = [
            "reproduce", "--sample", str(SAMPLE), "--seed", seed, "--partition", str(partition), "--from-time", _iso(since),
            "--to-time", _iso(until), "-o", "json",
        ]  # fmt: skip
        try:
            code, out, err = await self._run(arguments)
            said = json.loads(out) if code in FINE else {}
            counts = {str(verdict): int(n) for verdict, n in said["counts"].items()}
            share = float(said["share"])
            rows = [row for row in said["inputs"] if row["verdict"] == DIFFERENT]
        except (TimeoutError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._failed += 1
            log.warning("the sample of partition %d failed: %s", partition, error if isinstance(error, TimeoutError | OSError) else err[-500:])  # fmt: skip
            return None
        first = f"{rows[0]['input']}: {rows[0]['field']}, {rows[0]['cause']}" if rows else ""
        return Sampled(seed, partition, since, until, SAMPLE, share, counts, first)

    def metrics(self) -> dict[str, float]:
        """For Prometheus: of the last sample its share, of all of them the counts."""
        found: dict[str, float] = {
            "sluicegate_reproduce_looks_total": self._looks,
            "sluicegate_reproduce_failed_total": self._failed,
            "sluicegate_reproduce_sampled_total": self._sampled,
            "sluicegate_reproduce_same_total": self._reproduced,
        }
        if self.last is not None:
            found["sluicegate_reproduce_share"] = self.last.share
        return found


def _iso(micros: int) -> str:
    return datetime.datetime.fromtimestamp(micros / 1e6, datetime.UTC).isoformat()
