"""How a call stands when it is to be taken back, as its contract and its end say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.orders import DONE as WAS_DONE
from sluicegate.processors.control.orders import VERIFIED, Ordered
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.replay.lineage import Call, Cascade
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.undo import rollback
from sluicegate.streams.undo.rollback import (
    CANNOT,
    DONE,
    LEFT,
    NOTHING,
    TODO,
    Plan,
    Step,
    Wish,
    fill,
    judge,
    settled,
)
from sluicegate.streams.undo.saga import How, carry_out

from tests import shop
from tests.driver import AGENT

RESULT = {"id": "order-1", "parcel": "parcel-1"}


def step(tool: str = "shop.order", state: str = "released", **more: object) -> Step:
    call = Call(AGENT, "i-1", "s-1", "t", 0, 5, 1, tool, "irreversible", state)
    for name in [n for n in more if n in ("to", "tool_class", "proof", "op")]:
        setattr(call, name, more.pop(name))
    return Step(call, undo=undo_id(*call.key), **more)  # type: ignore[arg-type]


def filled(one: Step, result: object = RESULT, seen: str = "") -> Step:
    control = Control()
    if seen:
        control.orders = {undo_id(*one.call.key): Ordered("by", "shop.cancel", "saga", state=seen)}
    judge(one, shop.release(), control)
    if one.stands == TODO:
        fill(one, {"item": "a lamp"}, result)
    return one


@pytest.mark.parametrize(
    ("one", "stands", "why"),
    [
        (step(), TODO, ""),
        (step(state="withheld"), TODO, ""),
        (step("shop.mail"), CANNOT, "has no `compensate`"),
        (step("gone.tool"), CANNOT, "has no contract"),
        (step("memory.write", op="write"), CANNOT, "only the agent can forget it"),
        (step("shop.look", tool_class="read_only"), NOTHING, "only reads"),
        (step("handoff", "delegated", to=("b", "s")), NOTHING, "hand-off"),
        (step(state="refused"), NOTHING, "nothing happened"),
        (step(state="expired"), NOTHING, "nothing happened"),
        (step(state="failed"), NOTHING, "nothing happened"),
        (step(state="resolved", proof="did_not_happen"), NOTHING, "nothing happened"),
        (step(state="resolved", proof="happened"), TODO, ""),
        (step(state="in_doubt"), CANNOT, "in-doubt list"),
        (step(state="claimed"), CANNOT, "may still happen"),
        (step(state="held"), CANNOT, "may still happen"),
        (step(state="parked"), CANNOT, "may still happen"),
        (step(undo_state="held"), LEFT, "a person has to agree"),
        (step(undo_state="in_doubt"), LEFT, "nobody knows"),
        (step(undo_state="dispatched"), TODO, ""),
    ],
)
def test_how_it_ended_and_what_its_contract_says(one: Step, stands: str, why: str) -> None:
    found = filled(one)
    assert (found.stands, why in found.why) == (stands, True), found.why


def test_arguments_come_from_the_result_or_are_named_as_missing() -> None:
    found = filled(step())
    assert (found.undo_tool, found.arguments, found.verify_arguments) == (
        "shop.cancel", {"id": "order-1"}, {"id": "order-1"},
    )  # fmt: skip
    erased = filled(step(), None)
    assert erased.stands == CANNOT and "`$.result.id`" in erased.why


def test_done_is_what_was_read_back_where_the_contract_says_how() -> None:
    assert filled(step(undone=True)).stands == TODO
    assert filled(step(undone=True), seen=WAS_DONE).stands == TODO
    assert filled(step(undone=True), seen=VERIFIED).stands == DONE
    assert filled(step("shop.ship", undone=True)).stands == DONE, "its contract has no `verify`"
    assert not filled(step(), seen=VERIFIED).verified, (
        "what control says counts for nothing without the ledger"
    )


def test_what_somebody_took_back_already_is_left_alone() -> None:
    other = Call(AGENT, "i-2", "s-1", "t", 0, 9, 2, "shop.cancel", "idempotent", "released")
    one = filled(step())
    settled(one, None)
    assert one.stands == TODO
    settled(one, other)
    assert one.stands == NOTHING and "`i-2`" in one.why
    vague = filled(step())
    assert vague.tool is not None
    contract = vague.tool.contract.model_copy(deep=True)
    assert contract.governance.compensate is not None
    contract.governance.compensate.arguments = {"id": "$.args.item"}
    vague.tool = replace(vague.tool, contract=contract)
    settled(vague, other)
    assert vague.stands == CANNOT and "for this call or another one" in vague.why


def test_in_doubt_counts_as_happened_when_that_is_asked_for() -> None:
    one = step("shop.book", "in_doubt")
    one.call.digest = b"d" * 32
    judge(one, shop.release(), Control(), doubt=True)
    assert one.stands == TODO
    fill(one, {"item": "a room"}, None)
    assert list(one.arguments) == ["key"] == list(one.verify_arguments)
    assert len(str(one.arguments["key"])) == 40
    by_result = step("shop.order", "in_doubt")
    judge(by_result, shop.release(), Control(), doubt=True)
    fill(by_result, {"item": "a lamp"}, None)
    assert by_result.stands == CANNOT and "$.result.id" in by_result.why


@pytest.mark.parametrize(("tool", "waits"), [("shop.mail", False), ("shop.order", True)])
def test_a_plan_needs_no_registered_agent_and_taking_back_does(
    tool: str, waits: bool, tmp_path: Path
) -> None:
    one, control = filled(step(tool)), Control()
    found = Cascade(one.call.key, [one.call.key], {}, {}, set())
    by = rollback._by(control, found, Wish("i-1"), one.call)
    why = rollback.unready(control, by, one.call.tenant)
    plan = Plan("saga-1", by, control, found, {one.call.key: one}, unready=why)
    assert by == "rollback-t" and bool(plan.waits_for) is waits == (not plan.cannot)
    keys = Keys(tmp_path)
    try:
        if waits:
            with pytest.raises(Terminal, match="agents register rollback-t"):
                asyncio.run(carry_out(Settings(home=tmp_path), keys, plan, How()))
        else:
            assert asyncio.run(carry_out(Settings(home=tmp_path), keys, plan, How())) == -1
    finally:
        keys.close()
