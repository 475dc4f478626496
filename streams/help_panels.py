"""The order and the headings of `sluicegate --help`: one table, by what somebody wants to do.

Never imports a command: a name that is not in the table is shown last, and a test asks for its place
(`tests/unit/test_commands.py`). Next: `command_root.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def placed(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The names in the table's order, each with its heading; what has no place comes last, without one."""
    last = (len(_PLACES), None)
    for name in sorted(names, key=lambda name: _PLACES.get(name, last)[0]):
        yield name, _PLACES.get(name, last)[1]
