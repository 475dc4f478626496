"""What a partition's owner counts. Never decides anything. Next: `ledger.py` (who counts), `roles.py` (who shows it)."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class LaneMetrics:
    """Counters of one partition, read by `/metrics` and tests."""

    inputs: int = 0
    outcomes: int = 0
    transactions: int = 0
    taints: int = 0
    dead_letters: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    machinery_failed: int = 0
    recovered_events: int = 0
    recovery_s: float = 0.0
    progress_at: float = field(default_factory=time.monotonic)
