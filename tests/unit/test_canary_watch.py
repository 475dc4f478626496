"""`canary status --watch`: looks again until the canary ends."""

from __future__ import annotations

import json

import pytest
from sluicegate.streams.commands.canary_text import COLUMNS, follow
from sluicegate.streams.commands.output import Format, Row

ROW: Row = ("failure", 3, 27, "0 %", "5 %", "0.9", "66.7", "-20 % … +9 %", 0.05, "open", "not decided")


def watched(output: Format) -> int:
    """How often it looked before it stopped by itself."""
    found: list[tuple[str, list[Row]] | None] = [
        ("a decides 10 %", [ROW]),
        ("a decides 10 %, paused", [ROW]),
        None,
    ]
    waits: list[int] = []
    follow(lambda: found.pop(0), output, lambda: waits.append(1))
    assert found == []
    return len(waits)


def test_it_looks_until_the_canary_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert watched(Format.TABLE) == 2
    said = capsys.readouterr().out
    assert said.index("a decides 10 %") < said.index("paused") < said.index("no canary is running")


def test_json_is_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    watched(Format.JSON)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [dict(zip(COLUMNS, ROW, strict=True))] * 2
