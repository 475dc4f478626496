"""Times as people write them on the command line: `90s`, `30m`, `4h`, `7d`."""

from __future__ import annotations

import re

from sluicegate.schemas.errors import WrongUsage

_UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SPAN = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)


def span_us(text: str) -> int:
    """Microseconds. Raises `Terminal` for another form."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise WrongUsage(f"`{text[:40]}` is no span of time, write a number and s, m, h or d, such as `30m`")
    return int(match[1]) * _UNIT_US[match[2]]
