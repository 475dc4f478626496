"""The command line ends with one sentence and an exit code, whatever went wrong below it."""

from __future__ import annotations

import sys

import pytest
import typer
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from clickhouse_connect.driver.exceptions import DatabaseError
from sluicegate.schemas.errors import Retryable, Terminal, WrongUsage
from sluicegate.streams import cli


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (WrongUsage("option `--x` is missing"), 2, "option `--x` is missing"),
        (Retryable("try again"), 3, "try again"),
        (Terminal("change something"), 4, "change something"),
        (TopicAuthorizationFailedError("prod.intents"), 4, "ask for an ACL that allows it"),
        (KafkaConnectionError("gone"), 3, "check that it is up and SLUICEGATE_KAFKA"),
        (DatabaseError("Code: 497.\n  not enough privileges"), 3, "clickhouse refused: Code: 497. not enough privileges"),
    ],
)  # fmt: skip
def test_what_failed_is_one_sentence(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails(error, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (code, 1) and said.startswith("sluicegate: ")
    assert words in said


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(ZeroDivisionError("ours"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sluicegate` has one command, which raises this."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["sluicegate"])
