"""The table of kinds of tampering and what found them, as rows and as docs/mutations.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sluicegate.processors.verify.invariants import INVARIANTS

from tests.mutations import kinds
from tests.mutations.registry import KINDS, REPLAY, VERIFY, Result, run
from tests.mutations.rows import TAMPERINGS

PAGE = Path(__file__).parent.parent.parent / "docs" / "mutations.md"
COLUMNS = ("tampering", "chain made to fit", "found by", "named", "at")
HEAD = """\
# The verifier's own test

Made by `python -m tests.mutations --write`; do not edit. Each row is a kind of tampering that is done to a sound ledger, by
somebody who may write the topic and, where the second column says so, makes `seq`, ids, hashes and chain fit again afterwards.
It counts as found when the right invariant is named, at the first record that tells, and nothing is named beside it but
what the same damage also breaks. {found} of {total} are found. What each name means: [verify.md](verify.md).

"""


def results() -> list[Result]:
    """Every kind, done and looked for."""
    assert kinds.__all__
    return [run(kind) for kind in KINDS]


def rows(found: Sequence[Result]) -> list[tuple[str, str, str, str, str]]:
    """For people, in `COLUMNS`."""
    return [
        (
            one.kind.what,
            "yes" if one.kind.rechained else "no",
            one.kind.by,
            _named(one),
            _at(one),
        )
        for one in found
    ]


def _named(one: Result) -> str:
    if not one.ok:
        return f"NOT FOUND, but {', '.join(one.names) or 'nothing'}"
    return f"DIFFERENT: {one.kind.name}" if one.kind.by == REPLAY else one.kind.name


def _at(one: Result) -> str:
    if one.place is None:
        return ""
    return f"control, seq {one.place[1]}" if one.place[0] < 0 else f"seq {one.place[1]}"


def of_rows() -> list[tuple[str, str, str, str, str]]:
    """What is done to ClickHouse, as tests/contracts/test_verify_clickhouse.py holds it to be found."""
    done = [(f"ClickHouse: {what}", seq) for what, _, seq in TAMPERINGS]
    done.append(("the ledger's tail is cut off, ClickHouse has it", -1))
    return [
        (what, "no", VERIFY, "clickhouse", f"seq {seq}" if seq >= 0 else "first missing")
        for what, seq in done
    ]


def page(found: Sequence[Result]) -> str:
    """docs/mutations.md."""
    more = of_rows()
    head = HEAD.format(found=sum(one.ok for one in found) + len(more), total=len(found) + len(more))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [*rows(found), *more]
    ]
    return head + "\n".join(lines) + "\n"


def unnamed(found: Sequence[Result]) -> list[str]:
    """Invariants that no kind of tampering breaks first."""
    return [name for name in INVARIANTS if name not in {one.kind.name for one in found}]
