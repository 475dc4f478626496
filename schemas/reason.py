"""What one reason code says. The codes are in `reasons.py`; never more than words. Next: `reasons.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason code."""

    code: str
    for_model: str
    remedy: str
