"""How canaries are printed: the headline, a row a metric, and the same again in place. Never reads anything.

Next: `canary.py` (the commands), `processors/canary/words.py` (the words).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from rich.console import Group
from rich.live import Live
from rich.table import Table
from sluicegate.processors.canary import words as canary_words
from sluicegate.processors.canary.words import Evidence
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import WHOLE_BP
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import Format, Row, console, show
from sluicegate.streams.control import deployments
from sluicegate.streams.watch.canary_watcher import Watched, sessions_waiting

COLUMNS = (
    "metric", "canary_sessions", "control_sessions", "canary", "control", "e_value", "abort_at", "worse_by", "margin", "says",
    "in_words",
)  # fmt: skip
NONE = "no canary is running; why the last one ended: sluicegate canary explain"

Look = Callable[[], tuple[str, list[Row]] | None]


def rows_of(evidence: Evidence) -> list[Row]:
    """A row a metric. Sessions are those that were compared, shares are of all that closed; `worse_by`: where the difference lies, at all times at once."""
    found: list[Row] = []
    for m in canary_words.metrics_of(evidence):
        sessions = m["sessions"]
        assert isinstance(sessions, list)
        found.append(
            (
                m["metric"], *sessions, *canary_words.rates(m), f"{m['e']:.4g}", f"{m['bound']:.4g}", canary_words.interval(m),
                m["margin"], m["says"], canary_words.metric_words(m),
            )
        )  # fmt: skip
    return found


def places(evidence: Evidence) -> str:
    """The last session that was compared, and how far each partition was read."""
    at, partition, seq = cast("Sequence[int]", evidence["until"])
    cut = ", ".join(f"{p}:{last}" for p, last in cast("Sequence[tuple[int, int]]", evidence["cut"]))
    return f"{partition}:{seq} at {iso(at, 'milliseconds')}, partitions read up to {cut}"


def headline(control: Control, watched: Watched, evidence: Evidence) -> str:
    """What runs, how far it is, and what would follow."""
    canary = watched.canary
    waiting, sessions = sessions_waiting(watched), evidence["sessions"]
    assert isinstance(sessions, Mapping)
    paused = ", paused" if canary.paused else ""
    who = "promoted or aborted by its sessions" if canary.auto else "promoted or aborted by a person"
    lines = [
        f"{deployments.named(control, canary.digest)} decides {canary.weight_bp / 100:g} % of new sessions{paused}, "
        f"since control event {canary.started}; {who}",
        f"closed sessions: {sessions['canary']:,} of the canary (cap {watched.rules.max_sessions:,}), {sessions['control']:,} beside "
        f"it; open: {waiting['canary']:,} and {waiting['control']:,}, they count when they close",
        f"verdict so far: {evidence['verdict']}: {canary_words.why(evidence)}",
    ]
    if canary.weight_bp == WHOLE_BP:
        lines.append("it has all new sessions, so nothing is there to compare it with")
    return "\n".join([*lines, *([watched.blind] if watched.blind else [])])


def follow(look: Look, output: Format, wait: Callable[[], None]) -> None:
    """Show what `look` finds, again after each `wait`, until it finds no canary: on a terminal in place, else one below the other."""
    if output is not Format.TABLE or not sys.stdout.isatty():
        while (found := look()) is not None:
            if output is Format.TABLE:
                console().print(found[0], markup=False)
            show(COLUMNS, found[1], Format.JSONL if output is Format.JSON else output)
            sys.stdout.flush()
            wait()
    else:
        with Live(console=console(), auto_refresh=False) as live:
            while (found := look()) is not None:
                live.update(_screen(*found), refresh=True)
                wait()
    if output is Format.TABLE:
        console().print(NONE)


def _screen(headline: str, rows: list[Row]) -> Group:
    table = Table(*COLUMNS, header_style="bold")
    for row in rows:
        table.add_row(*[f"{v:,}" if isinstance(v, int) else str(v) for v in row])
    return Group(headline, table, f"looked at {time.strftime('%H:%M:%S')}, Ctrl-C ends the looking only")
