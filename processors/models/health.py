"""Health: how the candidates of model routes did lately, folded from receipts, in integers.

Each answer and each failure that is the candidate's own doing weighs `UNIT`; weights halve every `HALF_LIFE_US` of decided
time, so an unhealthy candidate is tried again by itself after a while. Latency is a moving average of its answers.
One partition knows only what its own agents met. Bounded, and the same after a replay: nothing here reads a clock.
Next: `models/routes.py` (who reads it), `models/attempts.py` (who folds it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

UNIT = 1_024
"""One answer or failure, now."""
HALF_LIFE_US = 60_000_000
"""After a minute what happened counts half: as long as providers' rate limits are."""
ENOUGH = 3 * UNIT
"""Less says nothing: a candidate is healthy until so much was seen."""
UNHEALTHY_PERMILLE = 500
"""Of its recent calls failed: then it is asked last."""
MAX_KNOWN = 256
"""Candidates remembered in one partition, about 150 bytes each; the one that was silent longest is forgotten."""
BEST = 1_000
LATENCY_STEP_US, LATENCY_WORST = 50_000, 400
"""Each 50 ms of latency costs a point, 20 s and more cost 400."""
_WEIGHT = 8
"""Part of a new latency in the average: one eighth."""

BLAMED = frozenset(
    (
        "rate_limit",
        "overload",
        "timeout",
        "authentication",
        "malformed_output",
        "server_error",
        "model_changed",
    )
)
"""Classes of failures that are the candidate's own. A call that is too long, refused for what it says or for its form is
the caller's doing."""


@dataclass(slots=True)
class Health:
    """One candidate. `at`: microseconds up to which the weights were halved; `latency_us` is 0 until it answered."""

    at: int = 0
    good: int = 0
    bad: int = 0
    latency_us: int = 0


def note(known: dict[str, Health], name: str, failure: str, latency_us: int, now: int) -> None:
    """Fold one end of one attempt: `failure` is its class, or empty for an answer that took `latency_us`."""
    if failure and failure not in BLAMED:
        return
    if name not in known and len(known) >= MAX_KNOWN:
        del known[min(known, key=lambda other: (known[other].at, other))]
    health = faded(known.get(name), now)
    if failure:
        health.bad += UNIT
    else:
        health.good += UNIT
        taken = max(1, latency_us)
        health.latency_us += (taken - health.latency_us) // _WEIGHT if health.latency_us else taken
    known[name] = health


def faded(health: Health | None, now: int) -> Health:
    """A copy with its weights as of now."""
    if health is None:
        return Health(now)
    halvings = min(62, max(0, now - health.at) // HALF_LIFE_US)
    at = health.at + halvings * HALF_LIFE_US if halvings < 62 else now
    return Health(at, health.good >> halvings, health.bad >> halvings, health.latency_us)


def failures_permille(health: Health) -> int:
    """Of its recent calls; 0 while too little is known."""
    seen = health.good + health.bad
    return health.bad * 1_000 // seen if seen >= ENOUGH else 0


def unhealthy(health: Health) -> bool:
    """Whether it is asked last."""
    return failures_permille(health) >= UNHEALTHY_PERMILLE


def score(health: Health) -> int:
    """0 to 1,000, higher is better: what did not fail, less what it takes."""
    slow = min(LATENCY_WORST, health.latency_us // LATENCY_STEP_US)
    return max(0, BEST - failures_permille(health) - slow)


FIELDS = ("at", "good", "bad", "latency_us")
"""As a snapshot writes them, and as expressions see them but for `at`."""


def rows(known: dict[str, Health]) -> Iterator[tuple[str, Health]]:
    """Name and health, in the order of names."""
    return iter(sorted(known.items()))
