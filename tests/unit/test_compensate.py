"""Which call takes another one back."""

from __future__ import annotations

import pytest
from sluicegate.processors.compensate import Compensation, arguments_of, undo_id

SAID = Compensation(
    tool="refund", arguments={"id": "$.result.payment.id", "amount": "$.args.amount", "note": "taken back", "n": 1}
)  # fmt: skip


def test_values_come_from_the_call_its_result_and_the_contract() -> None:
    args, result = {"amount": 7}, {"payment": {"id": "p1"}}
    assert arguments_of(SAID, args, result) == (
        {"id": "p1", "amount": 7, "note": "taken back", "n": 1}, "",
    )  # fmt: skip


@pytest.mark.parametrize("result", [None, {}, {"payment": None}, [], "x"])
def test_what_is_missing_is_named(result: object) -> None:
    assert arguments_of(SAID, {"amount": 7}, result) == ({}, "$.result.payment.id")


def test_the_id_is_the_originals_and_nobody_elses() -> None:
    assert undo_id("a", "i") == undo_id("a", "i")
    assert len({undo_id("a", "i"), undo_id("b", "i"), undo_id("a", "j"), undo_id("ai", "")}) == 4
