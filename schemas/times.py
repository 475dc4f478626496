"""A time as people read it. Times are microseconds since 1970 everywhere else. Next: `streams/cli_words.py`, which reads what they write."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(micros: int, timespec: str = "seconds") -> str:
    """ISO 8601, UTC. An empty text for no time (0 or less), and the number itself where it is none that a calendar has."""
    try:
        return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec=timespec) if micros > 0 else ""
    except (ValueError, OverflowError, OSError):
        return str(micros)
