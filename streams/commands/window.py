"""The window of a replay as it is written on the command line: `--from-offset`, `--from-time`, `--to`.

Looks at the words only. Next: `streams/replay/window.py`, which holds it against what a topic has.
"""

from __future__ import annotations

from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.replay.window import Window


def window_of(topic: str, from_offset: list[str], from_time: str | None, to: list[str]) -> Window:
    """The window that the options say. Raises `WrongUsage` with what to write instead."""
    ends = [t for t in to if not _is_place(t)]
    if len(ends) > 1:
        raise WrongUsage(f"`--to {ends[1]}` is a second time, give one")
    first, last = dict(map(_place, from_offset)), dict(map(_place, filter(_is_place, to)))
    return Window(
        topic, first, last, micros_of(from_time) if from_time else None, micros_of(ends[0]) if ends else None
    )


def _is_place(text: str) -> bool:
    partition, _, offset = text.partition(":")
    return partition.isdecimal() and offset.isdecimal()


def _place(text: str) -> tuple[int, int]:
    if not _is_place(text):
        raise WrongUsage(f"`{text}` is no position, write PARTITION:OFFSET such as `2:100`")
    partition, _, offset = text.partition(":")
    return int(partition), int(offset)
