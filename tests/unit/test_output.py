"""How listings are printed: what a ledger holds is shown as it is, and can do nothing to the terminal."""

from __future__ import annotations

import pytest
from sluicegate.streams.commands import output
from sluicegate.streams.commands.output import Format, show

ESCAPE, OVERRIDE = "\x1b[2J", "\u202e"
EVIL = f"[/bold] [red]x[/red] {ESCAPE}{OVERRIDE}"
"""An end of markup that was never begun, markup, a cleared screen, letters that run backwards."""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_cell_is_text_whatever_it_says(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: terminal, raising=False)
    show(("id", EVIL), [(EVIL, 1), ("two\nlines", 2_000)], Format.TABLE, EVIL if terminal else "")
    said = capsys.readouterr().out
    assert said.count("[/bold] [red]x[/red]") == (3 if terminal else 2)
    assert ESCAPE not in said and OVERRIDE not in said
    assert "\\u001b[2J\\u202e" in said and "2,000" in said


def test_other_formats_hold_the_very_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(("id",), [(EVIL,)], Format.JSON)
    assert OVERRIDE in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_an_empty_listing_says_so_to_people(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: terminal, raising=False)
    show(("id",), [], Format.TABLE)
    assert ("none" in capsys.readouterr().out) is terminal


@pytest.mark.parametrize(
    ("value", "cell"), [(0.0374, "0.0374"), (0.05, "0.05"), (-0.25, "-0.25"), (3.0, "3"), (43_366.25, "43,366.2")]
)  # fmt: skip
def test_a_small_share_is_not_nothing(value: float, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(("share",), [(value,)], Format.TABLE)
    assert capsys.readouterr().out.split() == ["share", cell]


def test_a_rate_is_told_of_many_events_only() -> None:
    assert output.took(16_375, 5.3) == "5.3 s"
    assert output.took(1_000_000, 10.0) == "10.0 s, 100,000/s"
    assert output.took(1_000_000, 0.0) == "0.0 s"
