"""Which call takes another one back, how it is read back, and what a release may say about both."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.jobs.compensate import (
    Compensation,
    arguments_of,
    base_of,
    check_id,
    met,
    saga_id,
    shared_value,
    undo_id,
    unfit,
)
from sluicegate.processors.releases.findings import errors
from sluicegate.processors.releases.release import build

from tests import shop

SAID = Compensation(
    tool="refund", arguments={"id": "$.result.payment.id", "amount": "$.args.amount", "note": "taken back", "n": 1}
)  # fmt: skip


def test_values_come_from_the_call_its_result_and_the_contract() -> None:
    args, result = {"amount": 7}, {"payment": {"id": "p1"}}
    assert arguments_of(SAID, args, result) == (
        {"id": "p1", "amount": 7, "note": "taken back", "n": 1}, "",
    )  # fmt: skip


def test_a_text_with_json_in_it_is_read_as_that() -> None:
    text = json.dumps({"payment": {"id": "p1"}})
    assert arguments_of(SAID, {"amount": 7}, text)[0]["id"] == "p1"
    assert met("result.payment.id == original.payment.id", text, {}, {"payment": {"id": "p1"}}) == (True, "")
    assert arguments_of(SAID, {"amount": 7}, "{payment")[1] == "$.result.payment.id"


def test_the_key_is_all_that_is_known_of_a_call_in_doubt() -> None:
    said = Compensation(tool="undo", arguments={"key": "$.key", "amount": "$.args.amount"})
    assert arguments_of(said, {"amount": 7}, None, "k-1") == ({"key": "k-1", "amount": 7}, "")
    assert arguments_of(said, {"amount": 7}, None) == ({}, "$.key")


@pytest.mark.parametrize("result", [None, {}, {"payment": None}, [], "x"])
def test_what_is_missing_is_named(result: object) -> None:
    assert arguments_of(SAID, {"amount": 7}, result) == ({}, "$.result.payment.id")


def test_the_id_is_the_originals_and_nobody_elses() -> None:
    assert undo_id("a", "i") == undo_id("a", "i")
    assert len({undo_id("a", "i"), undo_id("b", "i"), undo_id("a", "j"), undo_id("ai", "")}) == 4
    assert undo_id("a", "i", 2) == undo_id("a", "i") + ".2" and base_of(undo_id("a", "i", 2)) == undo_id(
        "a", "i"
    )
    assert len({check_id(undo_id("a", "i"), 1), check_id(undo_id("a", "i"), 2), saga_id("a", "i")}) == 3
    assert base_of(check_id(undo_id("a", "i", 3), 7)) == base_of(check_id(undo_id("a", "i"), 0))


@pytest.mark.parametrize(
    ("expect", "holds"),
    [
        ("result.status == 'cancelled'", True),
        ("result.status == 'open'", False),
        ("args.item == 'a lamp' && original.id == result.id", True),
        ("result.status", False),
        ("result.nothing == 1", False),
        ("result.status > 3", False),
        ("1 / 0 == 1", False),
    ],
)
def test_only_true_is_a_yes(expect: str, holds: bool) -> None:
    found, why = met(expect, {"status": "cancelled", "id": "1"}, {"item": "a lamp"}, {"id": "1"})
    assert found is holds and bool(why) is not holds


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ({"note": "order-1001"}, "order-1001"),
        ({"deep": [{"n": 1234567}]}, "1234567"),
        ({"note": "about order-1001"}, ""),
        ({"note": "open"}, ""),
        ({"yes": True}, ""),
        (None, ""),
    ],
)
def test_a_value_that_two_calls_share(args: object, value: str) -> None:
    result = {"id": "order-1001", "n": 1234567, "status": "open", "yes": True}
    assert shared_value(args, result) == shared_value(args, json.dumps(result)) == value


def test_an_expectation_that_cannot_be_meant() -> None:
    assert unfit("result.a == 1") == ""
    assert "does not compile" in unfit("result.a ==")
    assert "uses `now`" in unfit("now > 1")


def contract(**more: object) -> dict[str, str]:
    """The shop's release with another `shop.order`."""
    raw = json.loads(shop.FILES["contracts/order.json"])
    raw["x-sluicegate"].update(more)
    return {**shop.FILES, "contracts/order.json": json.dumps(raw, indent=1)}


CANCEL = {"tool": "shop.cancel", "arguments": {"id": "$.result.id"}}
LOOK = {"tool": "shop.look", "arguments": {"id": "$.result.id"}, "expect": "result.status == 'cancelled'"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"compensate": {**CANCEL, "tool": "shop.cancle"}}, "no contract does"),
        ({"compensate": {"tool": "shop.cancel"}}, "needs the argument `id`"),
        ({"compensate": {**CANCEL, "arguments": {"id": "1", "ids": "2"}}}, "has no argument `ids`"),
        ({"compensate": {**CANCEL, "arguments": {"id": "$.result.ident"}}}, "outputSchema has no `ident`"),
        ({"compensate": {**CANCEL, "arguments": {"id": "$.args.id"}}}, "inputSchema has no `id`"),
        (
            {"compensate": {"tool": "memory.write", "arguments": {"scope": "a", "key": "b"}}},
            "runs inside an agent",
        ),
        ({"compensate": None}, "give the contract `compensate`"),
        ({"verify": {**LOOK, "tool": "shop.mail", "arguments": {"text": "x"}}}, "a tool that is read_only"),
        ({"verify": {**LOOK, "expect": "result.status =="}}, "does not compile"),
        ({"class": "read_only"}, "there is nothing to take back"),
    ],
)
def test_what_could_never_work_is_refused_with_its_line(more: dict[str, object], said: str) -> None:
    wrong = errors(build(contract(**more))[1])
    assert [f.rule for f in wrong] == ["compensation"], wrong
    assert said in str(wrong[0]) and wrong[0].file == "contracts/order.json" and wrong[0].line > 5


def test_the_shops_own_is_sound_and_a_proven_release_is_not_checked_again() -> None:
    assert not errors(build(shop.FILES)[1])
    broken = contract(compensate={"tool": "gone"})
    assert errors(build(broken)[1]) and not errors(build(broken, proven=True)[1])
