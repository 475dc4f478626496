"""What ClickHouse says of a wrong query, as `sluicegate query` says it."""

from __future__ import annotations

import pytest
from sluicegate.sinks import ddl
from sluicegate.streams.commands.query import in_words

FRAME = "Received ClickHouse exception, code: 60, server response: Code: 60. DB::Exception: "
TAIL = " (version 26.9.2.1 (embedded)) (for url http://127.0.0.1:36751)"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Unknown table expression identifier 'refusal'. Maybe you meant dev.refusals? In scope SELECT 1. (UNKNOWN_TABLE)",
            "there is no table or view `refusal`: did you mean `refusals`?",
        ),
        (
            "Unknown table expression identifier 'dev.evnts'. In scope SELECT 1. (UNKNOWN_TABLE)",
            "did you mean `events`",
        ),
        ("Table dev.tool_failure does not exist. (UNKNOWN_TABLE)", "did you mean `tool_failures`"),
        ("Unknown table expression identifier 'zzz'. In scope SELECT 1.", "`zzz`: docs/analysts.md has all"),
    ],
)
def test_an_unknown_table_is_told_with_those_that_are_near(said: str, told: str) -> None:
    assert told in in_words(FRAME + said + TAIL)


def test_the_servers_word_stands_alone() -> None:
    said = "Syntax error: failed at position 7 (1) (line 1, col 7): 1 FORMAT Native. Expected one of: token"
    assert in_words(FRAME + said + TAIL) == said.replace(" FORMAT Native", "")


def test_every_table_and_view_has_its_name() -> None:
    assert {"events", "contents", "intents", "intents_since", "drift_1m"} <= set(ddl.names())
    assert len(ddl.names()) == len(set(ddl.names()))
