"""How held calls are printed: nothing a call holds can move the cursor, hide a letter or look like our own words.

Next: `approvals.py`.
"""

from __future__ import annotations

import difflib
import json
import time

from rich.console import Console
from rich.markup import escape
from sluicegate.processors.guardrails.detectors import detects
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import printable
from sluicegate.streams.inspect.contents import ERASED
from sluicegate.streams.inspect.pending import Pending, afterwards, json_of

DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60


def span(us: int) -> str:
    """`3h12m`, `45s`; `0s` for what is over."""
    seconds = max(0, us // 1_000_000)
    for unit_s, unit, smaller_s, smaller in (
        (DAY_S, "d", HOUR_S, "h"), (HOUR_S, "h", MINUTE_S, "m"), (MINUTE_S, "m", 1, "s")
    ):  # fmt: skip
        if seconds >= unit_s:
            return f"{seconds // unit_s}{unit}{seconds % unit_s // smaller_s:02d}{smaller}"
    return f"{seconds}s"


def lines_of(arguments: bytes) -> list[str]:
    """Arguments as indented JSON; what is not printable is written as an escape."""
    try:
        text = json.dumps(json.loads(arguments), indent=2, sort_keys=True, ensure_ascii=False)
    except ValueError:
        text = arguments.decode("utf-8", "replace")
    return [printable(line) for line in text.splitlines()]


def difference(old: bytes, new: bytes) -> list[str]:
    """Lines with `  `, `- ` or `+ ` before them."""
    return [line for line in difflib.ndiff(lines_of(old), lines_of(new)) if not line.startswith("?")]


def print_ask(out: Console, shown: Pending, edit: bytes | None = None) -> None:
    """What is agreed to: the call, and what an edit changes in it."""
    e = shown.entry
    asked = f"{e.quorum} of {' or '.join(e.reviewers) or 'any registered person'}"
    _say(
        out, f"[bold]{_e(e.tool)}[/bold] ({e.tool_class}) asked by {_e(e.agent_id)}, intent {_e(e.intent_id)}"
    )
    _say(
        out,
        f"  why        {_e(shown.why or (ERASED if shown.erased else ''))}, by {_e(', '.join(e.hold_policies))}",
    )
    _say(out, f"  needs      {_e(asked)}; agreed: {_e(', '.join(e.approvals) or 'nobody yet')}")
    left_us = e.due_at - time.time_ns() // 1000
    _say(out, f"  held       {iso(e.held_at)}, expires {iso(e.due_at)}, in {span(left_us)}")
    _say(out, f"  digest     {e.action_digest.hex()}")
    _say(out, f"  release    {_e(e.hold_release)}")
    _say(out, f"  afterwards {_e(afterwards(shown))}")
    old = shown.original if e.edit_topic else shown.arguments
    new = shown.arguments if edit is None else edit
    _say(out, "  arguments" + (", changed by a person" if e.edit_topic or edit is not None else ""))
    for line in difference(old, new):
        colour = {"-": "red", "+": "green"}.get(line[0], "default")
        _say(out, f"    [{colour}]{_e(line)}[/{colour}]")
    if shown.erased:
        _say(
            out,
            "    ERASED: whom it was for was erased, and nothing of it opens any more; reject it, or let it expire",
        )
    elif not shown.exact and edit is None:
        _say(out, "  [bold red]these are not the bytes that are held: do not approve them[/bold red]")
    if detects("lookalike", json_of(new)):
        _say(out, "  [bold yellow]a text in it has letters that look like others[/bold yellow]")


def print_call(out: Console, shown: Pending) -> None:
    """Everything about a held call."""
    print_ask(out, shown)
    if shown.grounded:
        _say(out, "  where values come from")
        for argument, origin, label in shown.grounded:
            _say(out, f"    {_e(argument)}: {_e(origin)}, {_e(label)}")
    behalf = shown.on_behalf_of or "nobody named"
    _say(out, f"\nbefore, in session {_e(shown.entry.session_id)}, for {_e(behalf)}")
    for line in shown.before:
        _say(out, f"  {iso(line.at)[11:19]}  {line.what:<8} {_e(line.text)}")
    for ident, words in shown.policies.items():
        _say(out, f"\npolicy [bold]{_e(ident)}[/bold]")
        for part in words.splitlines():
            _say(out, "  " + _e(part))


def _e(text: str) -> str:
    return escape(printable(text))


def _say(out: Console, text: str) -> None:
    out.print(text, highlight=False)
