"""Recording outcomes durably against an audit log in memory: `AuditLog.log` of PyPI's agentmesh-platform 3.7.0, turn by turn.

What is compared: one entry of theirs (hashed, put into a Merkle tree in memory, indexed) and one outcome of ours, which is
encoded, its content sealed under a person's key, chained, and committed in a Kafka transaction that the broker has acknowledged.
Deciding is not part of it on either side (`ledger.vs_agt_audit`); with deciding, an intent being four outcomes, the figure is
`ledger.vs_agt_audit_deciding`, from the same run. Their packages want other versions than ours, so they have a virtual
environment of their own: `make bench-audit`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sluicegate.processors.outcomes import ZERO_HASH, Decision, Outcome, seal
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.outgoing import Outgoing
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import Transaction

from bench import common, rebuild_traffic
from bench.common import Result
from bench.ledger import run_ledger

OUTCOMES = int(os.environ.get("BENCH_EVENTS", "60000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
INTENTS = int(os.environ.get("BENCH_COUNT", "20000"))
BATCH = 2_000
"""Outcomes of one transaction: those of 500 intents, as the ledger's batches are bounded."""
PEER = Path(os.environ.get("BENCH_AUDIT_PYTHON", ".venv-bench-audit/bin/python"))


class Collecting(rebuild_traffic.Maker):
    """Keeps what was decided, not yet sealed."""

    def __init__(self, *args: object) -> None:
        self.outcomes: list[Outcome] = []
        super().__init__(*args)  # type: ignore[arg-type]

    def _fold(self, decision: Decision) -> Decision:
        self.outcomes += decision.outcomes
        return super()._fold(decision)


def decided(settings: Settings) -> tuple[bytes, list[Outcome]]:
    """The log's id, and outcomes of recorded calls."""
    control = asyncio.run(control_log.read(settings, with_release=True)).control
    maker = Collecting(control, time.time_ns() // 1000)
    for _ in rebuild_traffic.traffic(maker, rebuild_traffic.Made(), OUTCOMES):
        pass
    return control.log_id, maker.outcomes[:OUTCOMES]


async def record(settings: Settings, log_id: bytes, outcomes: list[Outcome], name: str) -> float:
    """Seal, chain and commit; outcomes a second."""
    for outcome in outcomes:
        outcome.origin.tail = b""  # encoded anew, as the first time
    keys = Keys(settings.home)
    producer = await kafka.connect(kafka.producer(settings, transactional_id=f"bench.audit.{name}"))
    out = Outgoing(settings.env, 0, lambda b: b, lambda b: b)
    started, prev = time.perf_counter(), ZERO_HASH
    try:
        for at in range(0, len(outcomes), BATCH):
            transaction = Transaction(producer)
            for seq, outcome in enumerate(outcomes[at : at + BATCH], at):
                value, prev = seal(outcome, log_id, 0, seq, prev, keys.seal)
                out.outcome(transaction, outcome, value)
            await transaction.append()
            await transaction.commit()
        return len(outcomes) / (time.perf_counter() - started)
    finally:
        await producer.stop()
        keys.close()


def run_peer() -> float:
    """Entries a second."""
    done = subprocess.run(
        [str(PEER), str(Path(__file__).parent / "audit_peer.py"), str(OUTCOMES)], capture_output=True, text=True, check=True
    )  # fmt: skip
    return float(done.stdout)


def main() -> None:
    """Run and write the results."""
    if not PEER.exists():
        sys.exit(f"`{PEER}` is not there, make it: make bench-audit")
    ours: list[float] = []
    theirs: list[float] = []
    deciding: list[float] = []
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as base:
        settings = dataclasses.replace(base, env="audit", partitions=1, home=base.home / "audit")
        rebuild_traffic._prepare(settings)
        log_id, outcomes = decided(settings)
        for run in range(RUNS):
            ours.append(asyncio.run(record(settings, log_id, outcomes, str(run))))
            theirs.append(run_peer())
            deciding.append(4 * run_ledger(base, f"a{run}", INTENTS).rate)
            print(
                f"run {run}: {ours[-1]:,.0f} outcomes/s, {theirs[-1]:,.0f} entries/s, with deciding {deciding[-1]:,.0f} outcomes/s",
                flush=True,
            )
    a, b, c = (common.median(found) for found in (ours, theirs, deciding))
    peer = f"agentmesh-platform 3.7.0 AuditLog.log, entries/s ({b:,.0f})"
    conditions = (
        f"{OUTCOMES:,} each, one process each, medians of {RUNS} runs turn by turn, {common.machine()}"
    )
    common.write(
        "audit",
        [
            Result(
                "ledger.vs_agt_audit", a, "outcomes/s",
                f"outcomes encoded, sealed, chained and committed, {BATCH:,} a transaction, not decided; {conditions}", peer, a / b,
            ),
            Result(
                "ledger.vs_agt_audit_deciding", c, "outcomes/s",
                f"a ledger worker of {INTENTS:,} intents, four outcomes each, deciding, dispatches and replies included; {conditions}", peer, c / b,
            ),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
