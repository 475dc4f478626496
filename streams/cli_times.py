"""Times as people write and read them on the command line. Next: `commands/replay.py`, `commands/alarms.py`."""

from __future__ import annotations

import datetime

from sluicegate.schemas.errors import Terminal


def micros_of(text: str) -> int:
    """Microseconds of an ISO 8601 time, UTC unless it says otherwise. Raises `Terminal`."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Terminal(f"`{text}` is no time, write ISO 8601 such as `2026-05-31T12:00:00`") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1_000_000)


def iso(micros: int, timespec: str = "seconds") -> str:
    """A time in microseconds as ISO 8601, UTC."""
    return datetime.datetime.fromtimestamp(micros / 1e6, datetime.UTC).isoformat(timespec=timespec)
