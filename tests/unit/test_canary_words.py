"""A canary's evidence in words: what a person reads in `canary status`, in the record's `why`, and in `canary explain`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import rfc8785
from sluicegate.processors.canary import words as canary_words
from sluicegate.processors.canary.judge import Judge, judge
from sluicegate.processors.canary.rules import DEFAULT_RULES
from sluicegate.processors.canary.scores import CANARY, Item
from sluicegate.processors.control.deployments import Canary
from sluicegate.streams.commands.canary_text import COLUMNS, places, rows_of
from sluicegate.streams.watch.canary_evidence import differences

from tests.unit.test_canary_judge import drawn

EVEN = Canary("sha256:new", 5_000, 7, auto=True, control="sha256:old", at=1)


def sessions(bad: int, count: int) -> Iterator[Item]:
    """`bad` hundredths of a refusal in each of the canary's sessions, none elsewhere."""
    for item in drawn(EVEN, [0] * count):
        scores = {"failure": 0, "refusal": bad if item.arm == CANARY else 0, "withheld": 0, "ungrounded": 0}
        yield item._replace(scores=tuple(scores.items()))


def judged(bad: int, count: int, **rules: object) -> Judge:
    return judge(replace(DEFAULT_RULES, **rules), EVEN, sessions(bad, count))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (judged(100, 400), "sessions with a refused call 100 % against 0 % (e-value"),
        (
            judged(0, 4_000),
            "not worse by the margins (failure by 5 %, refusal by 5 %, withheld by 5 %, ungrounded by 5 %)",
        ),
        (
            judged(0, 400, max_sessions=60),
            "neither worse for certain nor good enough for certain, after 60 sessions",
        ),
        (judged(0, 20), "not decided, after"),
    ],
)
def test_why(found: Judge, why: str) -> None:
    evidence = found.evidence()
    assert why in canary_words.why(evidence)
    assert json.loads(rfc8785.dumps(evidence)) == evidence  # type: ignore[arg-type]  # as control has it


def test_a_row_a_metric() -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(judged(100, 400).evidence())]
    by_name = {row["metric"]: row for row in rows}
    assert by_name["refusal"]["says"] == "abort" and by_name["refusal"]["canary"] == "100 %"
    assert by_name["failure"]["says"] == "open" and "has to be below +5 %" in str(
        by_name["failure"]["in_words"]
    )
    assert by_name["quality"]["in_words"] == "nothing was scored yet"


def test_what_differs_is_named() -> None:
    one, other = judged(100, 400).evidence(), judged(100, 400, alpha=0.2).evidence()
    assert differences(one, dict(one)) == [] and differences({**one, "late": 0, "log": "x"}, one) == []
    assert "alpha" in differences(one, other)


def test_where_a_difference_lies_is_said_in_plain_numbers() -> None:
    assert canary_words.interval({"interval": [-1.0, 1.0]}) == "-100 % … +100 %"
    assert canary_words.interval({"interval": [-0.2345, 0.005]}) == "-23 % … +0.5 %"


def test_positions_are_said_as_other_commands_take_them() -> None:
    evidence = {"until": [1_795_947_848_674_442, 0, 8359], "cut": [[0, 8521], [1, 12651]]}
    assert (
        places(evidence) == "0:8359 at 2026-11-29T10:24:08.674+00:00, partitions read up to 0:8521, 1:12651"
    )
