"""Routes, prices and budgets: the cheapest first, and a candidate that a budget or limit has no room for goes last."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.release import compile_release

from tests.driver import AGENT, Driver
from tests.exchange_driver import World
from tests.unit.test_attempts import LARGE, MESSAGES, SMALL, SPARE, answer, ask, driver, fail, files, model_of
from tests.unit.test_model_routes import choice
from tests.unit.test_rederive import check as decide_again
from tests.unit.test_verify import verify

CHEAPEST: dict[str, object] = {"choose": "cheapest"}
SCORED: dict[str, object] = {"choose": "scored"}


def prices(**rows: tuple[int, int]) -> str:
    """`large=(input, output)`, in micro-units for a million tokens."""
    said = {f"model.{k}": {"input_per_mtok": a, "output_per_mtok": b} for k, (a, b) in rows.items()}
    return f"prices: {json.dumps(said)}\nspend: true\n"


def order(d: Driver, **more: object) -> list[str]:
    return [name for name, _ in choice(d, **more)]


DEAR = prices(large=(2_000_000, 8_000_000), small=(1_000_000, 9_000_000), spare=(3_000_000, 3_000_000))


def test_the_cheapest_first_by_what_this_call_may_cost() -> None:
    d = driver(CHEAPEST, more_yaml=DEAR)
    assert order(d, max_tokens=1) == [SMALL, LARGE, SPARE], "the input is most of it"
    assert order(d, max_tokens=1_000) == [SPARE, LARGE, SMALL], "the answer is"
    assert model_of(ask(d, max_tokens=1)) == SMALL


def test_what_has_no_price_is_asked_last_and_the_check_says_so() -> None:
    rows = prices(large=(2_000_000, 2), spare=(1_000_000, 1))
    assert order(driver(CHEAPEST, more_yaml=rows)) == [SPARE, LARGE, SMALL]
    _, findings = check_release(files(CHEAPEST, more_yaml=rows))
    [one] = [f for f in findings if f.rule == "route"]
    assert one.severity == "warning" and f"`{SMALL}` has neither a price" in one.sentence and one.line > 1
    _, findings = check_release(files(CHEAPEST, more_yaml=DEAR))
    assert not [f for f in findings if f.rule == "route"]


def test_the_best_score_first_and_of_equal_ones_the_cheapest() -> None:
    d = driver(SCORED, more_yaml=DEAR)
    assert order(d, max_tokens=1_000) == [SPARE, LARGE, SMALL]
    asked = ask(d, max_tokens=1_000)
    d.receipt(asked, "finished", result=answer(SPARE), started_at=d.now - 9_000_000)
    assert order(d, max_tokens=1_000) == [LARGE, SMALL, SPARE], "it took nine seconds"


def test_an_unhealthy_one_is_last_however_cheap() -> None:
    d = driver({**CHEAPEST, "on_error": {"overload": "stop"}}, more_yaml=DEAR)
    for _ in range(3):
        assert fail(d, ask(d, max_tokens=1), "overload") == "failed overload"
    assert choice(d, max_tokens=1)[-1] == (SMALL, "unhealthy")


ONE = f"limits: [{{id: few, scope: agent, tools: [{LARGE}], unit: requests, cap: 1, window: day}}]\n"


def test_a_candidate_whose_limit_is_full_goes_last() -> None:
    d = driver(more_yaml=ONE)
    assert model_of(ask(d)) == LARGE
    assert choice(d) == [(SMALL, "ok"), (SPARE, "ok"), (LARGE, "full few")]
    second = ask(d)
    assert model_of(second) == SMALL
    assert model_of(fail(d, second, "overload")) == SPARE, "and it is the last one who is fallen back to"
    d.now += 86_400_000_000
    assert choice(d)[0] == (LARGE, "ok")


def test_only_when_nobody_else_is_left_it_is_asked_and_refused_with_the_numbers() -> None:
    d = driver({"candidates": [{"contract": LARGE}]}, more_yaml=ONE)
    ask(d)
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call")
    assert (decision.outcomes[-1].status, decision.outcomes[-1].reason) == ("refused", "rate_limited")
    assert "1 requests needed" in d.replies[-1].for_developer


def test_money_and_a_freeze() -> None:
    rows = f"budgets: [{{id: purse, scope: session, tools: [{LARGE}], unit: money, cap: 9000}}]\n" + DEAR
    d = driver(more_yaml=rows)
    first = ask(d, max_tokens=900)
    assert model_of(first) == LARGE
    assert choice(d, max_tokens=900)[-1] == (LARGE, "full purse")
    assert choice(d, max_tokens=1)[0] == (LARGE, "ok"), "what a smaller call needs is there"


def test_a_frozen_budget_has_no_room_for_anything() -> None:
    rows = f"budgets: [{{id: purse, scope: session, tools: [{LARGE}], unit: money, cap: 1000000}}]\n" + DEAR
    d = driver(more_yaml=rows)
    costly = answer(LARGE, usage={"input_tokens": 3, "output_tokens": 2_000})
    d.receipt(ask(d, max_tokens=1), "finished", result=costly)
    assert choice(d, max_tokens=1)[-1] == (LARGE, "full purse")


def test_who_failed_lately_is_asked_before_who_has_no_room() -> None:
    d = driver({"on_error": {"overload": "stop"}}, more_yaml=ONE)
    ask(d)
    for name in (SMALL,) * 3 + (SPARE,) * 3:
        asked = ask(d)
        assert model_of(asked) == name
        fail(d, asked, "overload")
    assert choice(d) == [(SMALL, "unhealthy"), (SPARE, "unhealthy"), (LARGE, "full few")]


def test_what_the_home_of_a_shared_limit_said_last_counts() -> None:
    rows = f"limits: [{{id: few, scope: tool, match: {LARGE}, unit: requests, cap: 1, window: day}}]\n"
    w = World(1)
    w.deploy(compile_release(files(more_yaml=rows)))
    d = w.on(AGENT)
    d.open_session(agent=AGENT)
    told: list[str] = []
    for _ in range(3):
        asked = d.call("triage", {"messages": MESSAGES}, kind="model_call")
        w.settle()
        told += [model_of(dispatch) for dispatch in asked.dispatches or d.dispatches[-1:]]
    # The second one finds out: nothing is known before the home says no, and it is refused with the numbers.
    assert (told[0], told[2]) == (LARGE, SMALL), told
    assert [reply.reason for reply in d.replies if reply.status == "refused"] == ["rate_limited"]
    tally = decide_again(d)
    assert tally.differences == [] and not tally.without_bytes


def test_it_is_decided_again_byte_for_byte_and_verifies() -> None:
    d = driver(SCORED, more_yaml=DEAR + ONE)
    first = ask(d, max_tokens=1)
    d.finish(first, answer(model_of(first)))
    d.finish(ask(d, max_tokens=1_000), answer(SPARE))
    tally = decide_again(d)
    assert tally.differences == [] and not tally.without_bytes
    assert verify(d).names == set()


@pytest.mark.parametrize("scope", ["agent", "session"])
def test_whose_budget_it_is(scope: str) -> None:
    rows = f"limits: [{{id: few, scope: {scope}, tools: [{LARGE}], unit: requests, cap: 1, window: day}}]\n"
    d = driver(more_yaml=rows)
    ask(d)
    assert choice(d)[-1] == (LARGE, "full few")
    d.open_session("another")
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call", session="another")
    assert model_of(decision.dispatches[0]) == (LARGE if scope == "session" else SMALL)
