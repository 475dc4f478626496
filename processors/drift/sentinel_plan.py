"""From a signal to control events: the alarm with its evidence, and the one action that cites it.

What cannot or may not be done by itself becomes an alarm that only tells, and says why (`held_back`): no good release to
go back to, a release that is gone already, a bound that is reached, a policy of `control.cedar`. The alarm's id follows from
rule, stream, release and the beginning of the run, so two sentinels that see the same thing propose the same alarm.
Pure: proposes only. Next: `drift/alarm_events.py` (what control lets count), `streams/watch/sentinel.py` (who appends).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sluicegate.processors.control.deployments import good_before
from sluicegate.processors.control.policy import may_deploy
from sluicegate.processors.drift import alarm_events
from sluicegate.processors.drift.alarm_events import (
    NOTIFY,
    QUARANTINE,
    RAISED,
    REVIEW,
    ROLLBACK,
    ROLLBACK_AGENT,
    SENTINEL,
    Alarm,
)
from sluicegate.processors.drift.rules import Drift
from sluicegate.processors.drift.runs import BOUND_ALPHA
from sluicegate.processors.drift.watch import Signal, usual

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

Body = dict[str, object]
Event = tuple[str, Body]

BLIND: Final = "blind"
"""Rule and detector of the alarm that says that nothing can be said."""
DIGITS = 6
"""Of numbers in evidence: enough to compare, and the same bytes everywhere."""
CERTAIN = 999.0
"""Stands for an infinite logarithm."""


def alarm_id(rule: str, stream: str, release: str, since: int) -> str:
    """The same for whoever sees the same."""
    text = f"{rule}\0{stream}\0{release}\0{since}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


def plan(
    control: Control, drift: Drift, signal: Signal, log_id: str, cut: Mapping[int, int], now: int, who: str = SENTINEL
) -> list[Event]:  # fmt: skip
    """The events of one signal; none when control knows of it already, or it cools down."""
    rule, key = signal.rule, signal.key
    ident = alarm_id(rule.rule_id, key.text, key.release, signal.since)
    if ident in control.alarms:
        return []
    if alarm_events.cooling(
        control, rule.rule_id, key.text, rule.cool_down_s * 1_000_000, max(now, control.at)
    ):
        return []
    body: Body = {
        "id": ident, "rule": rule.rule_id, "stream": key.text, "agent_id": key.agent_id, "tool": key.tool,
        "release": key.release, "until": signal.until, "began": signal.began, "cool_down_s": rule.cool_down_s,
        "evidence": evidence(signal, drift, log_id, cut), "said": said(signal),
    }  # fmt: skip
    return _with_action(control, drift, body, rule.action, who)


def blind(control: Control, why: str, since: int, now: int, cool_down_s: int = 3_600) -> list[Event]:
    """Nothing was judged since then: that is an alarm of its own, which only tells."""
    ident = alarm_id(BLIND, BLIND, "", since)
    if ident in control.alarms or alarm_events.cooling(
        control, BLIND, BLIND, cool_down_s * 1_000_000, max(now, control.at)
    ):
        return []
    body: Body = {
        "id": ident, "rule": BLIND, "stream": BLIND, "action": NOTIFY, "agent_id": "", "tool": "", "release": "",
        "until": since, "began": since, "cool_down_s": cool_down_s, "evidence": {"detector": BLIND},
        "said": f"nothing is watched: {why}",
    }  # fmt: skip
    return [(RAISED, body)]


def _with_action(control: Control, drift: Drift, body: Body, action: str, who: str) -> list[Event]:
    if action == NOTIFY:
        return [(RAISED, {**body, "action": NOTIFY})]
    event, reason = _act(control, body, action)
    if event is not None:
        reason = alarm_events.exhausted(control) or _tighter(control, drift)
    if event is not None and not reason:
        reason = may_deploy(control, who, *event)
    if event is not None and not reason:
        # INVARIANT: nothing is proposed that control would leave out (tests/unit/test_sentinel_plan.py).
        reason = alarm_events.may_act(_as_if_raised(control, body, action), who, *event)
    if event is None or reason:
        return [
            (RAISED, {**body, "action": NOTIFY, "held_back": f"{action}: {reason}"[: alarm_events.WHY_CHARS]})
        ]
    return [(RAISED, {**body, "action": action}), event]


def _act(control: Control, body: Body, action: str) -> tuple[Event | None, str]:
    """The event that an action is, or why it cannot be."""
    ident, agent, release = str(body["id"]), str(body["agent_id"]), str(body["release"])
    why = f"alarm {ident}: {body['said']}"[: alarm_events.WHY_CHARS]
    if action == ROLLBACK and control.canary is not None and control.canary.digest == release:
        return ("canary.aborted", {"digest": release, "canary": control.canary.started, "alarm": ident}), ""
    if action == ROLLBACK:
        if release != control.deployed:
            return None, f"release `{release[:20]}` is not deployed any more"
        good = good_before(control)
        if not good:
            return None, "no earlier release is known to be good"
        return ("release.rolled_back", {"to": good, "alarm": ident}), ""
    if action in (REVIEW, ROLLBACK_AGENT) and not agent:
        return None, "the alarm is about no agent"
    if action == REVIEW:
        if agent in control.reviews:
            return None, "the agent is under review already"
        return (alarm_events.REVIEW_BEGUN, {"agent_id": agent, "why": why, "alarm": ident}), ""
    if action == ROLLBACK_AGENT:
        return ("agent.rolled_back", {"agent_id": agent, "at": body["began"], "why": why, "alarm": ident}), ""
    scope, value = _raised(control, body, QUARANTINE).target
    if (scope, value) in control.quarantines:
        return None, f"{scope} `{value[:80]}` is quarantined already"
    return ("quarantine.added", {"scope": scope, "value": value, "why": why, "alarm": ident}), ""


def _tighter(control: Control, drift: Drift) -> str:
    """The release's own bounds."""
    waiting = sum(1 for a in control.alarms.values() if a.acted >= 0 and a.open)
    if waiting >= drift.unacknowledged:
        return (
            f"{waiting} automatic actions wait to be acknowledged, the release allows {drift.unacknowledged}"
        )
    recent = sum(1 for at in control.acts if at > control.at - alarm_events.DAY_US)
    if recent >= drift.per_day:
        return f"{recent} automatic actions within a day, the release allows {drift.per_day}"
    return ""


def _raised(control: Control, body: Body, action: str) -> Alarm:
    return Alarm(
        str(body["id"]), str(body["rule"]), str(body["stream"]), action, str(body["agent_id"]), str(body["tool"]),
        str(body["release"]), control.head + 1, control.at, _whole(body["until"]), _whole(body["began"]),
    )  # fmt: skip


def _as_if_raised(control: Control, body: Body, action: str) -> Control:
    one = _raised(control, body, action)
    return replace(control, alarms={**control.alarms, one.alarm_id: one})


def evidence(signal: Signal, drift: Drift, log_id: str, cut: Mapping[int, int]) -> Body:
    """Everything it takes to compute it again, and the numbers that have to come out."""
    reference = signal.reference
    found: Body = {
        "detector": signal.detector, "stream": signal.rule.stream, "per": signal.rule.per,
        "log_e": _rounded(signal.log_e), "threshold": _rounded(signal.threshold),
        "alpha": _rounded(1.0 / drift.run_length, 12), "run_length_s": int(drift.run_length_us // 1_000_000),
        "bucket_us": drift.bucket_us, "streams": signal.streams, "since": signal.since, "began": signal.began,
        "until": signal.until, "n": signal.n, "floor": signal.rule.floor, "log_id": log_id,
        "cut": {str(p): seq for p, seq in sorted(cut.items())},
        "reference": {"source": reference.source, "n": reference.tally.n, "bad": _rounded(reference.tally.bad)},
        "window": drift.window, "reference_n": drift.reference, "start": signal.start, "begun": signal.begun,
        "reset": signal.reset, "agents": sorted(signal.rule.agents), "tools": sorted(signal.rule.tools),
    }  # fmt: skip
    if signal.rule.expected is not None:
        found["expected"] = signal.rule.expected
    if signal.detector == "e-SR":
        found |= {"rate": _rounded(signal.rate), "usual": _rounded(usual(reference)), "bound": _rounded(reference.bound),
                  "bound_alpha": BOUND_ALPHA}  # fmt: skip
    if signal.shift is not None:
        shift = signal.shift
        found |= {
            "psi": _rounded(shift.psi), "js": _rounded(shift.js), "log_p": _rounded(shift.log_p), "cells": shift.cells,
            "moved": [[name[:120], _rounded(p), _rounded(q)] for name, p, q in shift.moved],
        }  # fmt: skip
    if signal.names:
        found["names"] = [name[:120] for name in signal.names]
    return found


WORDS = {
    "refused": "calls are refused", "failed": "executions fail", "withheld": "results are withheld",
    "ungrounded": "calls have a value from nowhere", "observed": "calls break what is only observed",
    "low_quality": "quality is missing",
    "tools": "the mix of tools", "bigrams": "which tool follows which", "shapes": "the shape of arguments",
}  # fmt: skip


def said(signal: Signal) -> str:
    """One sentence for a person."""
    key = signal.key
    about = [f"agent `{key.agent_id}`"] * bool(key.agent_id) + [f"tool `{key.tool}`"] * bool(key.tool)
    where = " and ".join(about) or "the environment"
    where += f" under release {key.release.removeprefix('sha256:')[:12]}"
    if signal.detector == "e-SR":
        return (
            f"of {where}: {_percent(signal.rate)} of {signal.n}: {WORDS[signal.rule.stream]}, "
            f"at most {_percent(signal.reference.bound)} was usual ({signal.reference.source})"
        )
    if signal.shift is not None:
        moved = ", ".join(f"`{n}` {_percent(p)} to {_percent(q)}" for n, p, q in signal.shift.moved[:3])
        return (
            f"of {where}: {WORDS[signal.rule.stream]} moved (Jensen-Shannon {signal.shift.js:.3f}): {moved}"
        )
    return f"of {where}: answered by {', '.join(f'`{n}`' for n in signal.names)}, never seen before"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _rounded(value: float, digits: int = DIGITS) -> float:
    return round(value, digits) if math.isfinite(value) else math.copysign(CERTAIN, value)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
