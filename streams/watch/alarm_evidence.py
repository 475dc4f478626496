"""An alarm's evidence, computed again from the store: the same rows, the same detector, the same numbers or not.

Everything it takes stands in the event: where the run began, up to which positions, the rule, and what its stream was held
against. Blocking; reads only. Next: `watch/drift_feed.py` (the same loop as live), `commands/alarms.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from sluicegate.processors.drift.rules import Drift, Rule
from sluicegate.processors.drift.sentinel_plan import BLIND, CERTAIN, evidence
from sluicegate.processors.drift.streams import Key
from sluicegate.processors.replay.reproduce_alarm import REPRODUCE
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.watch.drift_feed import Feed
from sluicegate.streams.watch.windows import Windows

Body = Mapping[str, object]
NUMBERS = (
    "log_e",
    "n",
    "rate",
    "bound",
    "psi",
    "js",
    "log_p",
    "cells",
    "moved",
    "names",
    "reference",
    "since",
    "began",
)
"""What has to come out again."""
TOLERANCE = 1e-5
"""Between two machines' logarithms, after rounding to six digits."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One number that came out otherwise; `now` is None when nothing came out at all."""

    name: str
    then: object
    now: object


def recompute(windows: Windows, alarm: Body) -> list[Difference] | None:
    """What is not the same; empty when all is. None: the alarm says that nothing was seen, which no store can show."""
    then = _evidence(alarm)
    if then.get("detector") in (BLIND, REPRODUCE):
        return None
    key = Key(str(alarm["rule"]), str(alarm["release"]), str(alarm["agent_id"]), str(alarm["tool"]))
    drift = rules_in(key.rule_id, then)
    now = _again(windows, drift, key, then)
    if now is None:
        return [Difference("detector", then.get("detector"), None)]
    return [Difference(n, then.get(n), now.get(n)) for n in NUMBERS if not _same(then.get(n), now.get(n))]


def rules_in(rule_id: str, then: Body) -> Drift:
    """The one rule, as the evidence says it was. Raises `Terminal` for evidence of a form this version does not know."""
    try:
        expected = then.get("expected")
        rule = Rule(
            rule_id, str(then["stream"]), str(then["per"]), frozenset(cast("list[str]", then["agents"])),
            frozenset(cast("list[str]", then["tools"])), "notify", _number(then["floor"]),
            None if expected is None else _number(expected), 60,
        )  # fmt: skip
        return Drift(
            (rule,), int(_number(then["bucket_us"])), int(_number(then["run_length_s"])) * 1_000_000,
            int(_number(then["window"])), int(_number(then["reference_n"])), 0, 0, 0,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise Terminal(f"the alarm's evidence cannot be read ({error}), it is of another version") from error


def _again(windows: Windows, drift: Drift, key: Key, then: Body) -> Body | None:
    """The evidence as it comes out now."""
    cut = {int(p): int(seq) for p, seq in cast("dict[str, int]", then["cut"]).items()}
    log_id = str(then["log_id"])
    begun = int(_number(then["begun"]))
    feed = Feed(windows, drift, log_id, int(_number(then["start"])), {key.release: begun})
    if reset := int(_number(then["reset"])):
        feed.watch.reset(key.rule_id, key.text, reset)
    for _ in feed.to(int(_number(then["until"])), cut):
        pass
    signal = feed.watch.signal_of(key)
    return None if signal is None else evidence(signal, drift, log_id, cut)


def _evidence(alarm: Body) -> Body:
    found = alarm.get("evidence")
    return found if isinstance(found, dict) else {"detector": BLIND}


def _same(then: object, now: object) -> bool:
    if isinstance(then, int | float) and isinstance(now, int | float):
        return abs(then - now) <= TOLERANCE * max(1.0, min(abs(then), CERTAIN))
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_same(then[k], now[k]) for k in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(_same(a, b) for a, b in zip(then, now, strict=True))
    return then == now


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"`{value}` is no number")
    return value
