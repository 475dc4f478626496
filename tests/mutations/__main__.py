"""`python -m tests.mutations [--write] [--clickhouse]`: do every kind of tampering and show what found it.

`--clickhouse`: those of its rows, too, on a chDB of its own. Exit code 1: one was not found.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.mutations.rows import TAMPERINGS, fill, tamper
from tests.mutations.table import COLUMNS, PAGE, page, results, rows


def main() -> None:
    """Show the table, and write the page."""
    found = results()
    shown = Table(*COLUMNS, title="kinds of tampering")
    for row in rows(found):
        shown.add_row(*row)
    Console().print(shown)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(found), "utf-8")
    ok, total = sum(one.ok for one in found), len(found)
    if "--clickhouse" in sys.argv[1:]:
        good = on_clickhouse()
        ok, total = ok + sum(good.values()), total + len(good)
    print(f"{ok} of {total} kinds of tampering found and named")
    sys.exit(ok != total)


def on_clickhouse() -> dict[str, bool]:
    """What is done to ClickHouse -> whether it is found and named."""
    from sluicegate.sinks.embedded import SINK_USER, EmbeddedClickHouse

    with tempfile.TemporaryDirectory() as folder, EmbeddedClickHouse(Path(folder)) as server:
        filled = fill(server.url.replace("://", f"://{SINK_USER}:{server.key}@"))
        found = {what: _first(tamper(filled, sql)) == seq for what, sql, seq in TAMPERINGS}
        found["its tail is cut off"] = _first(filled.violations(cut=3)) == len(filled.scene.records) - 3
    for what, good in found.items():
        print(f"clickhouse: {what}: {'found' if good else 'NOT FOUND'}")
    return found


def _first(found: dict[str, tuple[int, str]]) -> int:
    return found["clickhouse"][0] if set(found) == {"clickhouse"} else -1


if __name__ == "__main__":
    main()
