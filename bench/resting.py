"""What idle sessions take in a worker's memory: as objects, packed, and in a file; and what it costs to come back.

Sessions of four results each, as the fold makes them. No Kafka. Next: `processors/sessions/resting.py`.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from sluicegate.processors.sessions.resting import Sessions
from sluicegate.processors.sessions.session import Session, Source, learn
from sluicegate.processors.state import session_key
from sluicegate.streams.lanes.resting_file import RestingFile

from bench.common import Result, machine, write

SESSIONS = int(os.environ.get("BENCH_SESSIONS", "50000"))
WOKEN = 2_000


def _id(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def filled() -> Sessions:
    """Sessions of 500 agents and 5,000 people; what they share is one object, as in the fold."""
    found = Sessions()
    for n in range(SESSIONS):
        agent, person, name = (
            sys.intern(f"agent-{n % 500}"),
            sys.intern(f"person-{n % 5000}"),
            _id(str(n)).hex(),
        )
        session = Session(
            agent, name, person, person, "channel", n, n, opened_by=_id(name), release="sha256:r"
        )
        for at in range(4):
            learn(session, Source(_id(f"{n}/{at}"), "result", "receipts", 10 * n + at, "desk.read"))
        session.counts, session.last_used = {"desk.read": 3, "desk.set": 1}, {"desk.read": 3, "desk.set": 4}
        found[session_key(agent, name)] = session
    return found


def main() -> None:
    """Measure."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def taken_mb() -> float:
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / 1e6

    sessions = filled()
    awake = taken_mb()
    sessions.rest(SESSIONS)
    packed = taken_mb()
    with tempfile.TemporaryDirectory() as folder:
        sessions.move(RestingFile(Path(folder)))
        filed = taken_mb()
        tracemalloc.stop()
        names = list(sessions)[:WOKEN]
        started = time.process_time()
        for name in names:
            sessions.get(name)
        back_us = (time.process_time() - started) / len(names) * 1e6
    at = f"{SESSIONS:,} sessions of four results; {machine()}"
    write(
        "resting",
        [
            Result("resting.awake_mb", awake, "MB", f"as objects; {at}"),
            Result("resting.packed_mb", packed, "MB", f"packed; {at}", "as objects", packed / awake),
            Result("resting.file_mb", filed, "MB", f"in a file; {at}", "as objects", filed / awake),
            Result("resting.back_us", back_us, "us", f"of processor time to come back from the file; {at}"),
        ],
    )


if __name__ == "__main__":
    main()
