"""The life of an intent: the table is total, ends end, and the page in the docs is generated from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sluicegate.processors import lifecycle as life

from docs import make_lifecycle

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"
STATUSES = (*life.PASSING, *life.OPEN, *life.DECIDED_TERMINAL, *life.EXECUTED_TERMINAL)
STATES = (life.START, *STATUSES)


def test_groups_of_statuses_do_not_overlap_and_cover_the_table() -> None:
    everything = (*STATUSES, life.ATTACHED, *life.OTHER)
    assert len(set(everything)) == len(everything)
    assert set(life.TABLE) == {life.START, *life.PASSING, *life.OPEN}
    assert {s for row in life.TABLE.values() for s in row} <= set(STATUSES)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("status", (*STATUSES, *life.OTHER, "no such status", ""))
def test_every_pair_is_legal_by_the_table_or_refused(state: str, status: str) -> None:
    legal = status in life.TABLE.get(state, ())
    assert life.follow(state, status) == (status if legal else None)


@pytest.mark.parametrize("state", STATES)
def test_an_attachment_changes_nothing(state: str) -> None:
    assert life.follow(state, life.ATTACHED) == state


@pytest.mark.parametrize("state", sorted(life.TERMINAL))
def test_nothing_ends_an_intent_twice(state: str) -> None:
    assert life.is_terminal(state)
    assert [s for s in (*STATUSES, *life.OTHER) if life.follow(state, s) is not None] == []


@pytest.mark.parametrize("state", sorted(set(STATES) - life.TERMINAL))
def test_every_other_state_is_reached_and_can_end(state: str) -> None:
    assert not life.is_terminal(state)
    reached, todo = {state}, [state]
    while todo:
        for status in life.TABLE.get(todo.pop(), ()):
            if status not in reached:
                reached.add(status)
                todo.append(status)
    assert reached & life.TERMINAL
    assert state == life.START or any(state in row for row in life.TABLE.values())


# Written down a second time, by hand: a change of the table has to be made twice, knowingly. DESIGN §5.4's promises.
@pytest.mark.parametrize(
    ("state", "status", "legal"),
    [
        ("", "routed", True),
        ("", "permitted", False),
        ("routed", "dispatched", False),
        ("routed", "held", True),
        ("permitted", "dispatched", False),
        ("held", "dispatched", False),
        ("held", "expired", True),
        ("dispatched", "in_doubt", True),  # an earlier offer was claimed; `ledger verify` checks that
        ("parked", "dispatched", True),
        ("parked", "claimed", False),
        ("parked", "expired", False),
        ("dispatched", "released", True),
        ("claimed", "expired", False),
        ("claimed", "refused", False),
        ("claimed", "in_doubt", True),
        ("in_doubt", "dispatched", False),
        ("in_doubt", "claimed", False),
        ("in_doubt", "resolved", True),
        ("released", "failed", False),
        ("refused", "permitted", False),
    ],
)
def test_what_must_and_must_not_follow(state: str, status: str, legal: bool) -> None:
    assert (life.follow(state, status) is not None) is legal


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == make_lifecycle.page(), "run `python -m docs.make_lifecycle`"
