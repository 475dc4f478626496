"""Functions that `test_python_adapter.py` runs as tools."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from os import getpid
from pathlib import Path


def add(a: int, b: int = 0) -> int:
    return a + b


async def later(value: object) -> object:
    await asyncio.sleep(0.01)
    return value


def pid() -> int:
    return os.getpid()


def noisy() -> str:
    print("this must not land in the answer")
    os.write(1, b"\x00\x00\x00\x02{}")
    print("nor this", file=sys.stderr)
    return "quiet"


def fail(text: str) -> None:
    raise ValueError(text)


def leave() -> None:
    sys.exit(3)


def die() -> None:
    os._exit(1)


def busy(mark: str, seconds: float) -> None:
    """Works without ever giving way, then leaves a mark."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    Path(mark).touch()


def child(mark: str, seconds: float) -> None:
    """Leaves the work to a process of its own."""
    code = f"import time, pathlib; time.sleep({seconds}); pathlib.Path({mark!r}).touch()"
    subprocess.run([sys.executable, "-c", code], check=True)


def sized(count: int) -> str:
    return "x" * count


def many() -> str:
    return sized(100_000)


def no_json() -> object:
    return object()


def nan() -> float:
    return float("nan")


def environment() -> list[str]:
    return sorted(os.environ)


def about(value: int, sluicegate_call: dict[str, object]) -> list[object]:
    return [value, sluicegate_call]


def _private() -> None:
    pass


__all__ = ["getpid"]


def polite(session: dict[str, object]) -> dict[str, object]:
    """An evaluator: bad where something failed; it says what it was shown."""
    events: list[dict[str, str]] = session["events"]  # type: ignore[assignment]
    tools = sorted({event["tool"] for event in events if event["tool"]})
    return {
        "score": 0.25 if session["failed"] else 0.75,
        "why": f"{session['calls']} calls of {', '.join(tools)}",
    }


def too_good(session: dict[str, object]) -> float:
    """An evaluator whose scores are none."""
    return 7.0


def asleep(session: dict[str, object]) -> float:
    """An evaluator that does not come to an end."""
    time.sleep(60)
    return float(bool(session))
