"""`replay --mode check` against live deciding: intents a second of one process each, the same ledger, turn by turn.

Live: a ledger worker from the first to the last of preloaded intents, as in `ledger`. Replay: the ledger that it wrote, decided
again and compared byte for byte, from Kafka. Each is one process; the broker has the other core.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import tempfile
import time
from pathlib import Path

from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay import replay
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result
from bench.ledger import COUNT, RUNS, WARM_UP, Turn, run_ledger


def run_replay(base: Settings, name: str) -> Turn:
    """Inputs a second, and microseconds of CPU for each."""
    settings = dataclasses.replace(base, env=name, home=base.home / name)
    keys = Keys(settings.home)
    gc.collect()
    busy = time.process_time()
    found = asyncio.run(replay.check(settings, replay.Window(), keys.open))
    busy = time.process_time() - busy
    keys.close()
    assert found.ok and not found.total("erased"), found.verdict
    inputs = found.total("same")
    return Turn(inputs / found.seconds, busy / inputs * 1e6)


def main() -> None:
    """Run and write the results."""
    live: list[Turn] = []
    again: list[Turn] = []
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as settings:
        run_ledger(settings, "rw", WARM_UP)
        for run in range(RUNS):
            live.append(run_ledger(settings, f"r{run}", COUNT))
            again.append(run_replay(settings, f"r{run}"))
            print(
                f"run {run}: live {live[-1].rate:,.0f}/s, {live[-1].cpu_us:.0f} us of CPU each; "
                f"replay {again[-1].rate:,.0f}/s, {again[-1].cpu_us:.0f} us",
                flush=True,
            )
    a, b = (common.median([turn.rate for turn in turns]) for turns in (live, again))
    cpu = [common.median([turn.cpu_us for turn in turns]) for turns in (live, again)]
    conditions = (
        f"{COUNT:,} recorded calls, 4 partitions, one process each, unsigned, medians of {RUNS} interleaved runs, {cpu[1]:.0f} us of CPU "
        f"an input, live {cpu[0]:.0f}, {os.cpu_count()} cores, {common.machine()}"
    )
    common.write("replay", [Result("replay.vs_live", b, "inputs/s", conditions, "live intents/s", b / a)])


if __name__ == "__main__":
    main()
