"""The README's figures of calls, models, budgets and the cache are those that the last run of each bench wrote.

`python -m tests.unit.test_figures` writes them into the README.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CLASSES, RATES, QUANTILES = (
    ("read_only", "idempotent", "queryable", "irreversible"),
    (50, 200, 1_000),
    ("p50", "p95", "p99"),
)


def results(bench: str) -> dict[str, dict[str, Any]]:
    """Name -> row of `bench/results/BENCH.json`."""
    rows = json.loads((ROOT / "bench" / "results" / f"{bench}.json").read_text("utf-8"))
    return {row["name"]: row for row in rows}


def latencies() -> str:
    """What the gate adds to a direct call, as a table."""
    rows = results("calls")

    def added(tool_class: str, rate: int) -> str:
        return " / ".join(
            f"{rows[f'calls.added_ms.{tool_class}.{rate}.{q}']['value']:.0f}" for q in QUANTILES
        )

    lines = [f"| `{c}` | " + " | ".join(added(c, rate) for rate in RATES) + " |" for c in CLASSES]
    conditions = rows[f"calls.added_ms.{CLASSES[0]}.{RATES[0]}.p50"]["conditions"]
    seconds = re.search(r"for (\d+) s", conditions)
    assert seconds is not None, conditions
    head = "| class | " + " | ".join(f"{rate:,}/s" for rate in RATES) + " |\n|---|---|---|---|"
    return (
        f"Added to a direct call (p50 / p95 / p99, ms), by class and rate, {seconds[1]} s each:\n\n{head}\n"
        + "\n".join(lines)
    )


def rows() -> dict[str, str]:
    """First cell of a row of the README -> its second."""
    calls, models = results("calls"), results("model_faults")
    budget, cache = results("budget"), results("cache")
    assert budget["budget.overshoot"]["value"] == 0
    a_second = [f"{calls[f'calls.{kind}_per_s']['value']:,.0f}/s" for kind in ("read_only", "claimed")]
    answered = [f"{models[f'models.success_{way}']['value']:.4g} %" for way in ("routed", "direct")]
    added = [f"{models[f'models.added_{q}_ms']['value']:,.0f} ms" for q in ("p50", "p95")]
    return {
        "executed calls, instant tool, 512 at once": f"{a_second[0]} read-only, {a_second[1]} with a claim",
        "600 model calls, 5 % of each of seven faults": (
            f"{answered[0]} answered by a route of three, {answered[1]} by a direct call; added p50 {added[0]}, p95 {added[1]}"
        ),
        "10,000 calls at once against one team's budget, 50 agents, 8 processes, two of three workers killed": (
            f"charged {budget['budget.charged']['ratio'] * 100:.0f} % of the cap, never above it; `ledger verify` intact"
        ),
        "10,000 requests of 50 agents on three partitions, 1,000 distinct": (
            f"{cache['cache.upstream_calls']['value']:,} calls reached the tool; `ledger verify` intact"
        ),
    }


def written(text: str) -> str:
    """The README with the figures as they are."""
    text, count = re.subn(
        r"Added to a direct call .*?\n\n\| class \|.*?\n(?=\n)",
        lambda _: latencies() + "\n",
        text,
        flags=re.DOTALL,
    )
    assert count == 1, "the table of latencies"
    for first, second in rows().items():
        text, count = re.subn(
            rf"^\| {re.escape(first)} \| .* \|$",
            lambda _, row=f"| {first} | {second} |": row,
            text,
            flags=re.MULTILINE,
        )
        assert count == 1, first
    return text


def test_the_readme_shows_what_was_measured() -> None:
    text = README.read_text("utf-8")
    assert text == written(text), "run `python -m tests.unit.test_figures`"


def test_every_bar_has_its_figure_and_its_conditions() -> None:
    """The names that others look for, with what they were measured under."""
    for bench, names in {
        "calls": ("calls.read_only_per_s", "calls.claimed_per_s"),
        "budget": ("budget.overshoot", "budget.largest_grant"),
        "cache": ("cache.upstream_calls",),
        "crash": ("crash.points_passed", "crash.points_total"),
        "model_faults": ("models.success_routed", "models.success_direct", "models.added_p50_ms"),
    }.items():
        found = results(bench)
        assert all("cores" in found[name]["conditions"] for name in names), bench


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
