"""A canary's evidence in plain words: why it was aborted, what is known so far. Reads what `canary/judge.py` states, nothing else.

Pure; never judges. Next: `streams/commands/canary_text.py` (who prints it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from sluicegate.processors.canary.judge import ABORT, CAP, PROMOTE

Evidence = Mapping[str, object]

KINDS = {ABORT: "canary.aborted", PROMOTE: "canary.promoted"}
"""Verdict -> the control event that carries it out; the cap does what the rules say."""

NAMES = {
    ("failure", "any"): "sessions with a failed call", ("failure", "share"): "calls that failed",
    ("refusal", "any"): "sessions with a refused call", ("refusal", "share"): "calls that were refused",
    ("withheld", "any"): "sessions with a withheld result", ("withheld", "share"): "results withheld",
    ("ungrounded", "any"): "sessions with a value from nowhere", ("ungrounded", "share"): "calls with a value from nowhere",
    ("quality", "mean"): "quality", ("cost", "mean"): "cost",
}  # fmt: skip


def metrics_of(evidence: Evidence) -> Sequence[Evidence]:
    """Its metrics."""
    return cast("Sequence[Evidence]", evidence["metrics"])


def why(evidence: Evidence) -> str:
    """The verdict in a sentence, for the record."""
    sessions = cast("Mapping[str, int]", evidence["sessions"])
    seen = f"after {sessions['canary']:,} sessions of the canary and {sessions['control']:,} beside it"
    if evidence["verdict"] == ABORT:
        causes = cast("Sequence[str]", evidence["causes"])
        said = "; ".join(_worse(m) for m in metrics_of(evidence) if m["metric"] in causes)
        return f"{said}, {seen}; a canary that differs in nothing is aborted with probability {_p(evidence['alpha'])} at most"
    if evidence["verdict"] == PROMOTE:
        margins = ", ".join(
            f"{m['metric']} by {_share(m['margin'])}" for m in metrics_of(evidence) if m["says"] == "safe"
        )
        half = cast(float, evidence["alpha"]) / 2
        return f"not worse by the margins ({margins}), {seen}; one that is worse by a margin gets here with probability {_p(half)} at most"
    if evidence["verdict"] == CAP:
        return f"neither worse for certain nor good enough for certain, {seen}, which is the cap"
    return f"not decided, {seen}"


def metric_words(m: Evidence) -> str:
    """One metric so far."""
    if m["says"] == "unmeasured":
        return "nothing was scored yet"
    low, high = cast("Sequence[float]", m["interval"])
    if m["says"] == ABORT:
        return _worse(m)
    spread = f"{_signed(low)} to {_signed(high)}"
    if m["says"] == "safe":
        return f"not worse by {_share(m['margin'])} or more: it is between {spread}"
    return f"not decided: it is between {spread}, and has to be below {_signed(cast(float, m['margin']))}"


def _worse(m: Evidence) -> str:
    new, old = (0.0 if r is None else cast(float, r) for r in cast("Sequence[object]", m["rates"]))
    name = NAMES.get((str(m["metric"]), str(m["score"])), str(m["metric"]))
    return f"{name} {_share(new)} against {_share(old)} (e-value {cast(float, m['e']):,.4g}, needed {cast(float, m['bound']):,.4g})"


def rates(m: Evidence) -> tuple[str, str]:
    """Both rates as text; a dash where nothing was scored."""
    new, old = cast("Sequence[object]", m["rates"])
    return _share(new), _share(old)


def interval(m: Evidence) -> str:
    """The confidence sequence as text."""
    low, high = cast("Sequence[float]", m["interval"])
    return f"{_signed(low)} … {_signed(high)}"


def _share(x: object) -> str:
    return "-" if x is None else f"{100 * cast(float, x):.3g} %"


def _signed(x: float) -> str:
    return f"{float(f'{100 * x:.2g}'):+g} %"


def _p(x: object) -> str:
    return f"{cast(float, x):.3g}"
