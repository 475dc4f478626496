"""What `sluicegate replay --mode resink` says. Next: `streams/replay/resink.py`, which does it."""

from __future__ import annotations

import asyncio

from sluicegate.streams.commands.output import Format, bars, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.resink import resink
from sluicegate.streams.settings import Settings


def run_resink(dry_run: bool, output: Format) -> None:
    """Fill ClickHouse anew and say with what."""
    settings = attach(Settings.from_env())
    keys = Keys(settings.home)
    try:
        with bars("filling clickhouse (offsets)") as on_start:
            found = asyncio.run(resink(settings, keys, dry_run=dry_run, on_start=on_start))
    finally:
        keys.close()
    state = "would be filled" if dry_run else "filled"
    columns = ("clickhouse", "offsets", "rows", "rejects")
    show(columns, [(state, found.offsets, found.rows, found.rejects)], output, "replay --mode resink")
