"""Budgets of agents and sessions: reserved before, settled after, refused with the numbers; limits, prices, overruns."""

from __future__ import annotations

import json
from typing import cast

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.budget.state import Account
from sluicegate.processors.handoff.delegation import join_names
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import AGENT, OTHER_AGENT, PERSON, SESSION, Driver, release_files
from tests.exchange_driver import folded

SPENT = {"type": "object", "properties": {"ok": {"type": "boolean"}, "cost": {"type": "number"}}}


def contract(name: str, tool_class: str, **more: object) -> str:
    """A tool that says what it cost."""
    executor = {"kind": "http", "url": f"http://tools.invalid/{name}"}
    value = {"type": "object", "properties": {"value": {"type": "string"}}}
    governance = {"class": tool_class, "executor": executor, "timeout_ms": 2_000, **more}
    return json.dumps({"name": name, "inputSchema": value, "outputSchema": SPENT, "x-sluicegate": governance})


def files(rows: str, **more: str) -> dict[str, str]:
    """The test release with rows of budgets, and tools that cost something."""
    found = dict(release_files())
    found["release.yaml"] += rows
    model = {"kind": "model", "url": "http://model.invalid/v1", "model": "m-1", "max_tokens": 100}
    messages = {
        "type": "object",
        "properties": {"messages": {"type": "array"}, "max_tokens": {"type": "integer"}},
    }
    found["contracts/cost.pay.json"] = contract("cost.pay", "irreversible", max_cost=100, cost="$.cost")
    found["contracts/cost.set.json"] = contract("cost.set", "idempotent", max_cost=100, cost="$.cost")
    found["contracts/cost.read.json"] = contract("cost.read", "read_only", max_cost=100, cost="$.cost")
    found["contracts/ask.json"] = json.dumps(
        {"name": "ask", "inputSchema": messages, "x-sluicegate": {"executor": model, "timeout_ms": 2_000}}
    )
    found["policies/cost.cedar"] = (
        '@id("cost") permit (principal, action in [Action::"cost.pay", Action::"cost.set", Action::"cost.read", '
        'Action::"ask"], resource);'
    )
    return {**found, **more}


def driver(rows: str) -> Driver:
    d = Driver()
    d.deploy(compile_release(files(rows)))
    d.open_session()
    return d


def account(d: Driver, name: str) -> Account:
    return d.state.accounts[name]


def figures(d: Driver, name: str) -> tuple[int, int, int]:
    one = account(d, name)
    return one.reserved, one.spent, one.overran


def finish(d: Driver, asked: Decision, cost: int | None) -> Decision:
    result = {"ok": True} if cost is None else {"ok": True, "cost": cost}
    return d.finish(asked.dispatches[0], orjson.dumps(result))


def refusal(d: Driver, decision: Decision) -> tuple[str, str]:
    assert not decision.dispatches and decision.outcomes[-1].status == "refused"
    assert decision.replies[-1].status == "refused"
    return decision.outcomes[-1].reason, decision.replies[-1].for_developer


MONEY = "budgets: [{id: purse, scope: agent, unit: money, cap: 250}]\n"
PURSE = f"agent:{AGENT}/purse"


def test_reserved_then_settled_then_refused_with_the_numbers() -> None:
    d = driver(MONEY)
    first = d.call("cost.pay")
    assert figures(d, PURSE) == (100, 0, 0)
    finish(d, first, 30)
    assert figures(d, PURSE) == (0, 30, 0)
    d.call("cost.pay")
    second = d.call("cost.pay")
    assert figures(d, PURSE) == (200, 30, 0)
    reason, said = refusal(d, d.call("cost.pay"))
    assert reason == "budget_exceeded"
    assert f"budget `purse` of agent `{AGENT}`: 100 money needed, 30 spent and 200 reserved of 250" in said
    finish(d, second, 0)
    assert d.call("cost.pay").dispatches
    assert snapshot.digest(folded(d)) == snapshot.digest(d.state)
    assert snapshot.digest(snapshot.decode(snapshot.encode(d.state))) == snapshot.digest(d.state)


def test_a_result_that_says_nothing_costs_everything_reserved() -> None:
    d = driver(MONEY)
    finish(d, d.call("cost.pay"), None)
    assert figures(d, PURSE) == (0, 100, 0)
    d.receipt(d.call("cost.read").dispatches[0], "failed", error_class="refused_by_tool")
    assert figures(d, PURSE) == (0, 200, 0)


def test_released_only_when_nothing_was_sent() -> None:
    d = driver(MONEY)
    asked = d.call("cost.pay")
    d.claim(asked.dispatches[0])
    d.receipt(asked.dispatches[0], "failed", error_class="egress_denied", sent=False)
    assert figures(d, PURSE) == (0, 0, 0)
    d.call("cost.pay", deadline_at=d.now + 1_000_000)
    for _ in range(3):
        d.tick(10_000_000)
    assert figures(d, PURSE) == (0, 0, 0)  # nobody claimed it
    d.call("cost.read", deadline_at=d.now + 1_000_000)
    for _ in range(3):
        d.tick(10_000_000)
    assert figures(d, PURSE) == (0, 100, 0)  # a read needs no claim, so it may have happened


def test_in_doubt_keeps_its_reservation_until_somebody_knows() -> None:
    d = driver(MONEY)
    for verdict, spent in (("did_not_happen", 0), ("happened", 100)):
        asked = d.call("cost.pay")
        d.claim(asked.dispatches[0])
        for _ in range(3):
            d.tick(60_000_000)
        assert d.state.open_count == 1 and figures(d, PURSE) == (100, 0, 0)
        o = asked.outcomes[0].origin
        d.feed("reviews", r.Resolution(d.new_id(), AGENT, o.intent_id, verdict, PERSON, d.now))
        assert figures(d, PURSE) == (0, spent, 0)


def test_every_attempt_has_its_own_reservation() -> None:
    d = driver(MONEY)
    asked = d.call("cost.set")
    d.tick(8_000_000)
    assert figures(d, PURSE) == (
        100,
        0,
        0,
    )  # nobody claimed the first offer: the reservation goes with the second
    d.claim(d.dispatches[-1])
    d.tick(10_000_000)
    assert figures(d, PURSE) == (100, 100, 0)  # claimed and lost: it may have cost all of it
    d.claim(d.dispatches[-1])
    d.tick(10_000_000)
    # A third attempt does not fit any more: what became of the second is for a person to find out.
    assert d.state.intents[asked.outcomes[0].origin.key].state == "in_doubt"
    assert figures(d, PURSE) == (100, 100, 0)


def test_a_read_offered_again_reserves_again() -> None:
    d = driver(MONEY)
    first = d.call("cost.read").dispatches[0]
    d.tick(8_000_000)
    assert figures(d, PURSE) == (200, 0, 0)
    d.receipt(first, "finished", result=b'{"ok":true,"cost":10}')
    assert figures(d, PURSE) == (0, 110, 0)  # the other one may have happened, too


def test_an_overrun_freezes_until_a_person_lifts_it_or_the_cap_is_raised() -> None:
    d = driver(MONEY)
    ended = finish(d, d.call("cost.pay"), 140)
    assert [o.reason for o in ended.outcomes] == ["", "overrun"]
    assert figures(d, PURSE) == (0, 100, 40)
    assert refusal(d, d.call("cost.pay"))[0] == "budget_frozen"
    d.control_event("budget.lifted", account=PURSE)
    finish(d, d.call("cost.pay"), 101)
    assert refusal(d, d.call("cost.pay"))[0] == "budget_frozen"
    d.deploy(compile_release(files(MONEY.replace("250", "400"))))
    assert d.call("cost.pay").dispatches


def test_lowered_below_what_is_reserved_breaks_nothing_that_runs() -> None:
    d = driver(MONEY)
    running = d.call("cost.pay")
    d.deploy(compile_release(files(MONEY.replace("250", "10"))))
    assert "0 spent and 100 reserved of 10" in refusal(d, d.call("cost.pay"))[1]
    assert finish(d, running, 5).outcomes[0].status == "released"
    assert figures(d, PURSE) == (0, 5, 0)


def test_headroom_is_kept_back_for_overruns() -> None:
    d = driver("budgets: [{id: purse, scope: agent, unit: money, cap: 250, headroom: 60}]\n")
    d.call("cost.pay")
    assert refusal(d, d.call("cost.pay"))[0] == "budget_exceeded"


def test_windows_are_of_decided_time() -> None:
    d = driver("limits: [{id: pace, scope: session, unit: requests, cap: 2, window: minute}]\n")
    d.now += 60_000_000 - d.now % 60_000_000
    assert d.call().dispatches and d.call().dispatches
    reason, said = refusal(d, d.call())
    assert reason == "rate_limited" and "limit `pace`" in said and "of this minute" in said
    d.now += 60_000_000
    late = d.dispatches[0]
    assert d.call().dispatches
    d.finish(late)
    assert figures(d, f"session:{AGENT}\t{SESSION}/pace") == (1, 0, 0)  # the late one was of another window


def test_fan_out_counts_what_is_open() -> None:
    d = driver("budgets: [{id: wide, scope: session, unit: fan_out, cap: 2}]\n")
    one = d.call().dispatches[0]
    d.call()
    assert refusal(d, d.call())[0] == "budget_exceeded"
    d.finish(one)
    assert d.call().dispatches


def test_wall_time_and_calls_of_some_tools() -> None:
    d = driver("budgets: [{id: time, scope: agent, unit: wall_ms, cap: 5000, tools: [cost.*]}]\n")
    assert d.call("desk.read").dispatches and not d.state.accounts
    asked = d.call("cost.pay").dispatches[0]
    assert figures(d, f"agent:{AGENT}/time") == (2_000, 0, 0)
    d.claim(asked)
    d.receipt(asked, "finished", result=b'{"ok":true}', started_at=d.now, finished_at=d.now + 1_500)
    assert figures(d, f"agent:{AGENT}/time") == (0, 2, 0)


def test_models_by_price_and_tokens() -> None:
    rows = (
        "budgets: [{id: purse, scope: agent, unit: money, cap: 100000}, {id: words, scope: agent, unit: tokens, cap: 1000}]\n"
        "prices: {ask: {input_per_mtok: 1000000, output_per_mtok: 2000000}}\n"
    )
    d = driver(rows)
    arguments = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    asked = d.call("ask", arguments, kind="model_call")
    size = len(asked.dispatches[0].arguments)
    assert figures(d, PURSE) == (size + 20, 0, 0)
    assert figures(d, f"agent:{AGENT}/words") == (size + 10, 0, 0)
    answer = {"text": "x", "usage": {"input_tokens": 9, "output_tokens": 3}}
    d.receipt(asked.dispatches[0], "finished", result=orjson.dumps(answer))
    assert figures(d, PURSE) == (0, 15, 0) and figures(d, f"agent:{AGENT}/words") == (0, 12, 0)


def test_a_stream_that_a_quarantine_ended_spends_what_was_reserved() -> None:
    d = driver("budgets: [{id: words, scope: agent, unit: tokens, cap: 1000}]\n")
    arguments = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    asked = d.call("ask", arguments, kind="model_call").dispatches[0]
    reserved, _, _ = figures(d, f"agent:{AGENT}/words")
    d.receipt(asked, "failed", error_class="quarantined", error="stopped while it answered")
    assert figures(d, f"agent:{AGENT}/words") == (0, reserved, 0)


def test_a_missing_price_is_a_refusal() -> None:
    d = driver(MONEY)
    reason, said = refusal(d, d.call("ask", {"messages": []}, kind="model_call"))
    assert reason == "no_price" and "`ask` has neither a price nor a max_cost" in said


def test_depth_is_of_handed_on_sessions() -> None:
    d = driver("budgets: [{id: deep, scope: session, unit: depth, cap: 0}]\n")
    assert d.call().dispatches
    name = f"{AGENT}\0{SESSION}"
    d.state.sessions[name].chain = OTHER_AGENT
    assert refusal(d, d.call())[0] == "budget_exceeded"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (MONEY.replace("[", "[{id: purse, scope: agent, unit: calls, cap: 1}, "), "stands twice"),
        (MONEY.replace("250", "250, headroom: 251"), "keeps back"),
        (MONEY.replace("money", "depth, window: day"), "knows no window"),
        (MONEY.replace("250", "250, tools: [no.such]"), "no contract has such a name"),
        (MONEY.replace("250", "2.5"), "valid integer"),
        (MONEY.replace("money", "euros"), "Input should be"),
    ],
)
def test_rows_that_mean_nothing_are_refused(rows: str, said: str) -> None:
    with pytest.raises(Terminal) as caught:
        compile_release(files(rows))
    assert said in str(caught.value)


def test_facts_of_a_reservation() -> None:
    d = driver(MONEY)
    asked = d.call("cost.pay")
    noted = asked.outcomes[-2]
    facts = cast(r.BudgetFacts, noted.facts)
    assert (noted.stage, noted.status, facts.what, facts.accounts, facts.reserved, facts.caps) == (
        "budget", "noted", "reserved", [PURSE], [100], [250],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "cap", "fits", "said"),
    [
        ("requests", 2, 2, "1 requests needed"),
        ("tokens", 200, 1, "tokens needed"),
        ("cost", 250, 2, "100 cost needed"),
    ],
)
@pytest.mark.parametrize("scope", ["agent", "session"])
def test_rate_limits_of_requests_tokens_and_cost(
    unit: str, cap: int, fits: int, said: str, scope: str
) -> None:
    """Refused with the numbers, never frozen, and free again in the next window."""
    d = driver(f"limits: [{{id: pace, scope: {scope}, unit: {unit}, cap: {cap}, window: minute}}]\n")

    def ask() -> Decision:
        if unit == "tokens":
            return d.call("ask", {"messages": [], "max_tokens": 100}, kind="model_call")
        return d.call("cost.read")

    for _ in range(fits):
        assert ask().dispatches
    reason, detail = refusal(d, ask())
    assert reason == "rate_limited" and said in detail and "of this minute" in detail
    d.now += 60_000_000
    assert ask().dispatches


@pytest.mark.parametrize("window", ["minute", "hour", "day", "week", "month"])
def test_every_window_ends(window: str) -> None:
    d = driver(f"budgets: [{{id: purse, scope: agent, unit: calls, cap: 1, window: {window}}}]\n")
    assert d.call("cost.read").dispatches
    assert refusal(d, d.call("cost.read"))[0] == "budget_exceeded"
    days = {"minute": 0, "hour": 0, "day": 1, "week": 7, "month": 30}[window]
    d.now += days * 86_400_000_000 + {"minute": 60_000_000, "hour": 3_600_000_000}.get(window, 0)
    d.open_session("s-2")
    assert d.call("cost.read", session="s-2").dispatches


@pytest.mark.parametrize("scope", ["agent", "session", "team", "tenant", "tool"])
def test_depth_refuses_what_was_handed_on_too_often_with_the_numbers(scope: str) -> None:
    d = driver(f"budgets: [{{id: deep, scope: {scope}, unit: depth, cap: 1}}]\n")
    name = f"{AGENT}\0{SESSION}"
    d.state.sessions[name].chain = OTHER_AGENT
    assert d.call().dispatches
    d.state.sessions[name].chain = join_names([OTHER_AGENT, OTHER_AGENT])
    reason, detail = refusal(d, d.call())
    assert (reason, "handed on 2 times, 1 may act" in detail) == ("budget_exceeded", True)
    assert not d.state.accounts, "it is counted in the session, and leased from nobody"


def test_depth_of_another_team_is_its_own_business() -> None:
    d = driver("budgets: [{id: deep, scope: team, match: nobodys, unit: depth, cap: 0}]\n")
    d.state.sessions[f"{AGENT}\0{SESSION}"].chain = OTHER_AGENT
    assert d.call().dispatches
