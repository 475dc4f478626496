"""Retries: the same request again, inside the time of one attempt, where the contract allows it.

    "executor": {"kind": "http", ..., "retries": 2}

Only for the classes `read_only` and `idempotent`, whose calls the ledger repeats anyway; the idempotency key stays the
same. Repeated is what is likely to pass: a status of `STATUSES`, a connection that failed or broke. `Retry-After`
is obeyed; a wait that does not fit into the time left is not begun, and the last answer stands.
Never repeats another class, whatever a contract says. Next: `wire.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime

from sluicegate.executors.adapter import Failed
from sluicegate.executors.wire import Answered
from sluicegate.processors.releases.contract_check import MAX_RETRIES
from sluicegate.schemas.kinds import REPEATABLE

STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Timeouts, too many requests, and a server that failed for the moment."""
PAUSE_S, PAUSE_MAX_S = 0.1, 5.0
"""The first pause, doubled each time, of which a random part between a half and all is taken."""
RETRY_AFTER_MAX_S = 600.0
"""More than any call's time: a longer wait is as good as never."""

Once = Callable[[float], Awaitable[Answered | Failed]]
"""One request, given the seconds that are left."""


async def with_retries(once: Once, *, retries: int, tool_class: str, timeout_s: float) -> Answered | Failed:
    """`once`, and again while that is allowed, promising and in time."""
    until = time.monotonic() + timeout_s
    # INVARIANT: nothing that must not happen twice is sent twice (tests/unit/test_wire.py::test_only_repeatable_classes).
    left = min(retries, MAX_RETRIES) if tool_class in REPEATABLE else 0
    pause_s = PAUSE_S
    while True:
        answer = await once(until - time.monotonic())
        if not left or not _promising(answer):
            return answer
        wait_s = max(pause_s * random.uniform(0.5, 1.0), retry_after_s(answer))
        if time.monotonic() + wait_s >= until:
            return answer
        await asyncio.sleep(wait_s)
        left -= 1
        pause_s = min(PAUSE_MAX_S, 2 * pause_s)


def _promising(answer: Answered | Failed) -> bool:
    if isinstance(answer, Failed):
        return answer.error_class == "unreachable"
    return answer.status in STATUSES


def retry_after_s(answer: Answered | Failed) -> float:
    """Seconds the other side asks to wait; 0 when it does not, or not readably."""
    text = answer.headers.get("Retry-After", "").strip() if isinstance(answer, Answered) else ""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return min(max(0.0, at - time.time()), RETRY_AFTER_MAX_S)


def retries_of(executor: dict[str, object]) -> int:
    """What a contract's executor object allows; 0 when it says nothing usable."""
    value = executor.get("retries")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
