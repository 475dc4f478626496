"""What a table and a column are, and their DDL. Pure. Next: `tables.py` (which there are)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

DEDUPLICATION_WINDOW = 10_000
"""Blocks a table remembers the token of: at most 1 range/s a partition, so 13 partitions fill it in 12 minutes."""
WIDE_BYTES = 64 * 1024 * 1024
"""A range of 20,000 rows has 13 MB: below this a part has one file instead of 200 that are synced one by one, which halves
the server's work for an insert; what was merged is above it."""
MERGE_PARTS = 10
"""A range is a part: fewer and larger merges take a quarter off the server's work."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, ClickHouse type, what it means, and codec when the default (LZ4) is not the best."""

    name: str
    type: str
    comment: str
    codec: str = ""

    @property
    def inserted(self) -> bool:
        """False for what ClickHouse fills in by itself."""
        return "ALIAS" not in self.type and "DEFAULT" not in self.type

    @property
    def ddl(self) -> str:
        """Its line in CREATE TABLE."""
        return (
            f"`{self.name}` {self.type} COMMENT {quote(self.comment)}{self.codec and f' CODEC({self.codec})'}"
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `extra` are indexes and the engine's settings."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    order_by: str
    partition_by: str = ""
    version: str = ""
    indexes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Columns that are inserted, in order."""
        return [c.name for c in self.columns if c.inserted]

    @property
    def types(self) -> list[str]:
        """The types of `names`."""
        return [c.type for c in self.columns if c.inserted]

    def ddl(self, database: str, suffix: str = "") -> str:
        """CREATE TABLE IF NOT EXISTS."""
        lines = [f"    {c.ddl}" for c in self.columns]
        lines += [f"    {index}" for index in self.indexes]
        return (
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{self.name}{suffix}`\n(\n"
            + ",\n".join(lines)
            + f"\n)\nENGINE = ReplacingMergeTree({self.version})\n"
            + (f"PARTITION BY {self.partition_by}\n" if self.partition_by else "")
            + f"ORDER BY {self.order_by}\n"
            + f"SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, "
            + f"fsync_after_insert = 1, fsync_part_directory = 1, min_parts_to_merge_at_once = {MERGE_PARTS}, "
            + f"min_bytes_for_wide_part = {WIDE_BYTES}\n"
            + f"COMMENT {quote(self.comment)}"
        )

    def added(self, database: str, known: Collection[str]) -> str:
        """The statement that gives a table of an earlier version the columns it lacks; empty when it has all."""
        after = {c.name: f" AFTER `{b.name}`" for b, c in pairwise(self.columns)}
        lacking = [c for c in self.columns if c.name not in known]
        parts = ", ".join(f"ADD COLUMN IF NOT EXISTS {c.ddl}{after.get(c.name, ' FIRST')}" for c in lacking)
        return parts and f"ALTER TABLE `{database}`.`{self.name}` {parts}"


def quote(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


LC = "LowCardinality(String)"
TIME = "DateTime64(6, 'UTC')"
TIME_OR_NONE = f"Nullable({TIME})"
INT = "T64, LZ4"
CLOCK = "Delta, LZ4"
BYTES = "ZSTD(1)"  # where most of the bytes are; ZSTD everywhere would save 3 % of the disk for 10 % of the processor
