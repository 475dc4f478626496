"""Wrong usage is told as such: exit code 2 and a sentence, whether or not anything runs here."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from sluicegate.schemas.errors import Retryable, Terminal, Unreadable, WrongUsage
from sluicegate.streams import cli
from typer.testing import CliRunner

WRONG = """
agents register
agents register a --file agents.yaml
alarms backtest --from 2026-05-02 --to 2026-05-01
alarms backtest --from soon
access data x --from-time soon
call t '{'
call t '[]' --agent a
call t '{}'
call t '{}' --agent a --model
canary start examples/release --weight many
canary explain --from paper
checkpoint verify --log x
doctor --env-file x
erase --subject ''
evidence --agent a --from 2026-05-02 --to 2026-05-01 -o x.zip
evidence --agent a --from soon --to 2026-05-01 -o x.zip
evidence --from 2026-05-01 --to 2026-05-02 -o x.zip
evidence controls --framework nobodys
gateway --listen nowhere
feedback s --score 2 --agent a
in-doubt resolve i perhaps
in-doubt resolve i happened --result '{'
in-doubt resolve i did-not-happen --result '{}'
init x --framework fortran
init x --name 'A b'
intents --status lost
keys new a --role cook
keys new a --role agent --valid long
keys create a --scope moon
keys create a --rate 0
memory get --agent a --key k --as-of soon
memory list --agent a
memory list --agent a --scope shared:A
mode set planet earth enforce
mode set tool t perhaps
pin planet earth sha256:0
quarantine add planet earth
quarantine add tool ''
quarantine lift planet earth
rebuild --as-of soon
release init x
release test examples/release -o yaml
replay --mode diff
replay --mode diff --release examples/release --resume x
replay --mode diff --release examples/release --max-changes many
replay --mode copy
replay --into elsewhere
replay --from-time soon
replay --from-time 2999-01-01
replay --from-time 2026-05-02 --to 2026-05-01
replay --from-offset 7
replay --from-offset 0:9 --to 0:8
replay --topic nowhere
replay --to 2026-05-01 --to 2026-05-02
reproduce
reproduce i --sample 3
rollback agent a
rollback agent a --to 7 --undo 3
rollback agent a --to soon
rollback call i --seen
status --no-such-option
tail -o csv
topics create --signing maybe
up --signing maybe
up --tools-url nowhere
witness run --name w.example/a --log x --listen nowhere
traces export --from-time soon
worker --role cook
"""


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_wrong_usage_ends_with_2(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs here: what only needs the words is said before anything is asked."""
    for name in ("SLUICEGATE_KAFKA", "SLUICEGATE_CLICKHOUSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLUICEGATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    came = CliRunner().invoke(cli.app, shlex.split(line))
    if isinstance(came.exception, SystemExit):  # click's own: it prints a box
        assert came.exit_code == cli.EXIT_USAGE, came.output
        return
    assert isinstance(came.exception, WrongUsage), repr(came.exception)
    said = str(came.exception)
    assert said[0].islower() or said[0] in "`-" or said.startswith("API"), said


def test_each_kind_of_error_has_its_exit_code() -> None:
    told = [cli.exit_code(e) for e in (WrongUsage("x"), Retryable("x"), Terminal("x"), Unreadable("r", "x"))]
    assert told == [cli.EXIT_USAGE, cli.EXIT_RETRY, cli.EXIT_TERMINAL, cli.EXIT_TERMINAL]
