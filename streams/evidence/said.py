"""The answer of `verify.py` in words: what is said of the bundle, and the findings, those of one kind in one line.

A part of a bundle's `verify.py`, between `evidence/period.py` and `evidence/verify.py`. Standard library only. Never judges:
it is given a report, and prints every check that failed. Next: `evidence/verify.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from sluicegate.streams.evidence.formats import Record
from sluicegate.streams.evidence.ledger import RANK, Report

MAX_PLACES = 8
"""Positions in one line; the rest is counted, and in `--json`."""


def time_of(micros: int) -> str:
    """UTC, as --from and --to of `sluicegate evidence` take it."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)
    return f"{moment.isoformat()}Z"


def numbers(counts: Record) -> str:
    """`7 events, 2 in doubt`."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())


def told(report: Report, path: Path) -> Iterator[str]:
    """The lines of an answer."""
    said = report.said
    yield f"{report.verdict}: {path}, sha256 {said.get('bundle') or 'unknown'}"
    for key in ("agent", "from", "to", "env", "log_id", "signing", "partition", "first", "end"):
        if key in said:
            yield f"  {key}: {time_of(said[key]) if key in ('from', 'to') else said[key]}"
    for name, head in said.get("heads", {}).items():
        yield (
            f"  head of {name}: {head['size']:,} events, signed at {time_of(head['signed_at'] * 10**6)} with key {head['key'] or 'none'}, "
            f"cosigned by {', '.join(head['witnesses']) or 'no witness'}, root {head['root']}"
        )
    for key in ("counts", "contents"):
        if key in said:
            yield f"  {key}: {numbers(said[key])}"
    for row in said.get("approvals", []):
        yield f"  agreed: {row['who']}, one of {row['of']}, to {row['intent']}, event {row['seq']} at {time_of(row['at'])}"
    yield from findings(report)
    for note in [*([f"{report.more} more findings"] if report.more else []), *report.notes]:
        yield f"  note: {note}"


def findings(report: Report) -> Iterator[str]:
    """The gravest first; those that say the same of one log stand in one line."""
    same: dict[tuple[str, str, str, str], list[int]] = {}
    for f in report.found:
        same.setdefault((f["verdict"], f["check"], f["log"], f["sentence"]), []).append(f["seq"])
    for (verdict, check, log, sentence), seqs in sorted(same.items(), key=lambda s: -RANK.index(s[0][0])):
        yield f"  {verdict} {check}: {log}{places(seqs)}: {sentence}"


def places(seqs: list[int]) -> str:
    """` event 7`, or ` events 7, 9 and 3 more`; nothing where a finding is about the file as a whole."""
    shown = [str(seq) for seq in seqs if seq >= 0][:MAX_PLACES]
    if not shown:
        return ""
    more = f" and {len(seqs) - len(shown)} more" if len(seqs) > len(shown) else ""
    return f" event{'s' if len(seqs) > 1 else ''} {', '.join(shown)}{more}"
