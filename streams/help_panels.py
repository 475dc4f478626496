"""The order and the headings of `sluicegate --help`: one table, by what somebody wants to do.

Never imports a command: a name that is not in the table is shown last, and a test asks for its place
(`tests/unit/test_docs.py`). Next: `cli.py`.
"""

from __future__ import annotations

import typer.core

PANELS: dict[str, tuple[str, ...]] = {
    "Start": ("demo", "init", "up", "doctor", "call"),
    "Watch and ask": (
        "status",
        "tail",
        "intents",
        "sessions",
        "explain",
        "access",
        "query",
        "memory",
        "budgets",
        "dead-letters",
    ),
    "Decide as a person": (
        "approvals",
        "approve",
        "reject",
        "changes",
        "alarms",
        "review",
        "in-doubt",
        "feedback",
    ),
    "Policies and releases": ("release", "policy", "mode", "deploy", "canary", "promote", "pin", "unpin"),
    "Stop and take back": ("quarantine", "rollback", "erase"),
    "Evidence": ("ledger", "checkpoint", "prove", "evidence", "reproduce", "replay", "rebuild", "traces"),
    "Identities": ("agents", "people", "keys", "issuers"),
    "Run": ("worker", "gateway", "witness", "topics", "archive"),
}
"""Heading -> commands in order. Every command stands once."""

_PLACES = {
    name: (number, panel)
    for number, (name, panel) in enumerate((n, p) for p, names in PANELS.items() for n in names)
}


def arrange(root: typer.core.TyperGroup) -> None:
    """Put the root's commands into the table's order, under its headings."""
    last = (len(_PLACES), "")
    names = sorted(root.commands, key=lambda name: _PLACES.get(name, last)[0])
    root.commands = {name: root.commands[name] for name in names}
    for name in names:
        vars(root.commands[name])["rich_help_panel"] = _PLACES.get(name, last)[1] or None
