"""One process at a time: an advisory lock on a file, which a killed process lets go of. Next: `broker.py`, `sinks/embedded.py`."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sluicegate.schemas.errors import Retryable


@contextmanager
def locked(path: Path, limit_s: float, what: str) -> Iterator[None]:
    """Hold an advisory lock on `path`; `Retryable` when another process keeps it longer than `limit_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Retryable(
                        f"another process has held {what} for {limit_s:.0f} s: see who has `{path}` open",
                        retry_after_s=5.0,
                    ) from None
                time.sleep(0.05)
        yield
