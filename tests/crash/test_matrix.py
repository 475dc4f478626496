"""A slice of the crash matrix (`make crash` runs all of it), and that its judge finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.judge import Journal, Life, Record, hand_offs, judge, unpermitted
from tests.crash.matrix import Cell, matrix
from tests.crash.scenario import CLASSES, Call

PER_CLASS = 80
"""Two rounds of 40 sessions: a point strikes in the first or second."""


def test_a_slice(kafka: str, tmp_path: Path) -> None:
    """An executor dies between effect and receipt; a ledger worker stands still with a transfer half decided."""
    with matrix(kafka, tmp_path, PER_CLASS) as running:
        for cell in (Cell("claim.4.called", "kill"), Cell("transfer.4.appended", "stop")):
            found = running.run(cell)
            assert not found.broken
            assert [name for name in CLASSES if not found.passed(name)] == [], found.tallies
        assert running.judge_again() == []


@pytest.mark.parametrize(
    ("tool_class", "kind", "life", "requests", "effects", "promise"),
    [
        ("irreversible", "works", Life("released", key="k"), 1, 1, ""),
        ("irreversible", "works", Life("released", key="k"), 2, 1, "at most one call"),
        ("irreversible", "late", Life("in_doubt", key="k", silent=False), 2, 2, "at most one call"),
        ("irreversible", "drops", Life("in_doubt", key="k", silent=False), 1, 1, ""),
        ("irreversible", "works", Life("in_doubt", key="k", claimers=["died"]), 0, 0, ""),
        (
            "irreversible",
            "works",
            Life("in_doubt", key="k", claimers=["lives"]),
            1,
            1,
            "in doubt for a reason",
        ),
        ("queryable", "works", Life("released", key="k"), 2, 2, "at most one effect"),
        ("idempotent", "works", Life("released", key="k"), 3, 1, ""),
        ("idempotent", "works", Life("released", key="k"), 2, 2, "at most one effect"),
        ("idempotent", "works", Life("released", key="k"), 0, 0, "what is released was done"),
        ("read_only", "works", Life("released", key="k"), 4, 4, ""),
        ("read_only", "works", Life("claimed", key="k"), 1, 1, "it is terminal or in doubt"),
        ("read_only", "works", None, 0, 0, "it has a record"),
    ],
)
def test_judge(
    tool_class: str, kind: str, life: Life | None, requests: int, effects: int, promise: str
) -> None:
    calls = [Call("a", "i", tool_class, kind)]
    found = {} if life is None else {"i": life}
    tally = judge(calls, found, Journal({"k": requests}, {"k": effects}), frozenset(["died"]))[tool_class]
    assert list(tally.broken) == ([promise] if promise else [])
    assert (tally.calls, tally.requests) == (1, requests)


def test_judge_of_hand_offs() -> None:
    record = Record(sent={"a": ["x"], "b": ["y"], "d": ["z", "w"]})
    record.opened.update(["x", "y", "y", "z", "w"])
    wrong = hand_offs(["a", "b", "c", "d"], record)
    assert [line.split()[1] for line in wrong] == ["b", "c", "d"]


def test_judge_of_permits() -> None:
    assert unpermitted({"i": Life(key="k")}, Journal({"k": 1, "other": 1}, {})) == ["other"]
