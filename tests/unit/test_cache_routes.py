"""The cache of calls through a model's alias: which candidate, equal calls at once, fallbacks, policies, labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import records as r

from tests.driver import AGENT, OTHER_AGENT, Driver, agents
from tests.exchange_driver import World
from tests.unit.test_attempts import LARGE, MESSAGES, PERMIT, SMALL, SPARE, answer, files, model_of
from tests.unit.test_cache import intact, settle, statuses
from tests.unit.test_cache_homes import NAMES, ROW, dispatches, everything_holds, released

FORBID = '@id("no-large")\nforbid (principal in Role::"retail", action == Action::"triage", resource == Tool::"model.large");\n'


def cached(scope: str = "tenant", policy: str = PERMIT, **route: object) -> dict[str, str]:
    """A route of three models whose answers are kept for a minute."""
    found = files(route, policy)
    for name in (LARGE, SMALL, SPARE):
        contract = json.loads(found[f"contracts/{name}.json"])
        contract["x-sluicegate"]["cache"] = {"scope": scope, "ttl_s": 60}
        found[f"contracts/{name}.json"] = json.dumps(contract)
    return found


def driver(scope: str = "tenant", policy: str = PERMIT, **route: object) -> Driver:
    d = Driver()
    row = next(row for row in agents() if row["agent_id"] == OTHER_AGENT)
    tenant = d.control.agents[AGENT].tenant
    d.control_event("agents.registered", agents=[{**row, "tenant": tenant}])
    d.deploy(compile_release(cached(scope, policy, **route)))
    d.open_session()
    d.open_session("s-other", OTHER_AGENT)
    return d


def ask(d: Driver, agent: str = AGENT, text: str = "hello", **more: Any) -> Decision:
    said = {"messages": [{"role": "user", "content": text}]}
    where = {"agent": agent, "session": "s-other"} if agent == OTHER_AGENT else {}
    return d.call("triage", {**said, **more}, kind="model_call", **where)


def one(decision: Decision) -> r.Dispatch:
    (found,) = decision.dispatches
    return found


def test_an_equal_call_is_answered_from_the_candidate_asked_first() -> None:
    d = driver()
    d.finish(one(ask(d)), answer(LARGE))
    hit = ask(d)
    assert statuses(hit) == ["routed", "permitted", "validated", "released"]
    assert hit.replies[0].result == answer(LARGE) and not hit.dispatches
    assert ask(d, text="another").dispatches, "other words are another call"
    intact(d)


def test_equal_calls_at_once_run_once_with_all_their_fallbacks() -> None:
    d = driver()
    first = one(ask(d))
    others = [ask(d) for _ in range(5)]
    assert all(statuses(o)[-1] == "waiting" for o in others)
    second = one(d.receipt(first, "failed", error_class="timeout", error="slow"))
    third = one(d.receipt(second, "failed", error_class="overload", error="busy"))
    assert [model_of(x) for x in (first, second, third)] == [LARGE, SMALL, SPARE]
    d.finish(third, answer(SPARE))
    settle(d)
    said = [x.result for x in d.replies if x.status == "released"]
    assert said == [answer(SPARE)] * 6 and len(d.dispatches) == 3, "each candidate was asked once"
    assert d.state.cache.entries == {}, "the answer of a lesser model is not kept"
    assert model_of(one(ask(d))) == LARGE
    intact(d)


def test_a_retry_or_repair_of_the_first_candidate_is_kept() -> None:
    d = driver()
    again = one(d.receipt(one(ask(d)), "failed", error_class="malformed_result", error="no json"))
    assert model_of(again) == LARGE
    d.finish(again, answer(LARGE))
    assert ask(d).replies[0].result == answer(LARGE)
    intact(d)


def test_when_every_candidate_fails_the_next_who_waits_runs() -> None:
    d = driver(attempts=1)
    first = one(ask(d))
    ask(d)
    d.receipt(first, "failed", error_class="timeout", error="slow")
    [woken] = [x for x in settle(d) if x.dispatches]
    d.finish(one(woken), answer(LARGE))
    assert ask(d).replies[0].result == answer(LARGE)
    intact(d)


def test_nobody_gets_the_answer_of_a_candidate_that_may_not_be_asked_for_it() -> None:
    d = driver(policy=PERMIT + FORBID)
    d.finish(one(ask(d)), answer(LARGE))
    other = ask(d, OTHER_AGENT)
    assert model_of(one(other)) == SMALL, "its first candidate is another, so its call is another"
    d.finish(one(other), answer(SMALL))
    assert ask(d, OTHER_AGENT).replies[0].result == answer(SMALL)
    assert ask(d).replies[0].result == answer(LARGE)
    intact(d)


def test_who_waits_for_a_fallback_may_be_answered_by_all_of_them() -> None:
    """The same first candidate, but not the same ones after it: two runs, or one would be told by who it may not ask."""
    forbid = FORBID.replace("model.large", "model.small")
    d = driver(policy=PERMIT + forbid)
    first, other = one(ask(d)), one(ask(d, OTHER_AGENT))
    assert model_of(first) == model_of(other) == LARGE
    d.finish(one(d.receipt(first, "failed", error_class="timeout", error="slow")), answer(SMALL))
    settle(d)
    assert [x.result for x in d.replies if x.agent_id == OTHER_AGENT and x.status == "released"] == []
    intact(d)


def test_another_executor_object_is_another_call() -> None:
    d = driver()
    d.finish(one(ask(d)), answer(LARGE))
    changed = cached()
    contract = json.loads(changed[f"contracts/{LARGE}.json"])
    contract["x-sluicegate"]["executor"]["model"] = "large-2"
    changed[f"contracts/{LARGE}.json"] = json.dumps(contract)
    d.deploy(compile_release(changed), now=True)
    assert model_of(one(ask(d))) == "large-2"


def test_weighted_draws_are_kept_apart() -> None:
    """A share of the calls goes to each candidate; the cache does not give one the other's answer."""
    d = driver(choose="weighted")
    seen: dict[str, int] = {}
    for _ in range(12):
        decision = ask(d)
        for dispatch in decision.dispatches:
            model = model_of(dispatch)
            seen[model] = seen.get(model, 0) + 1
            d.finish(dispatch, answer(model))
    assert set(seen.values()) == {1} and len(seen) > 1
    intact(d)


def test_a_candidate_quarantined_while_others_wait_for_it() -> None:
    """Who waits leaves that call, runs with the next candidate, and no entry keeps anybody."""
    d = driver()
    first = one(ask(d))
    ask(d)
    d.control_event("quarantine.added", scope="tool", value=LARGE, why="it lies")
    d.receipt(first, "failed", error_class="content_policy", error="no")
    [woken] = [x for x in settle(d) if x.dispatches]
    assert model_of(one(woken)) == SMALL
    assert [o.facts.op for o in woken.outcomes if isinstance(o.facts, r.CacheFacts)] == ["leave", "run"]
    d.finish(one(woken), answer(SMALL))
    assert ask(d).replies[0].result == answer(SMALL)
    assert sum(len(e.waiters) for e in d.state.cache.entries.values()) == 0
    intact(d)


def test_a_second_offer_that_turned_to_another_candidate_is_not_kept() -> None:
    d = driver()
    ask(d)
    d.control_event("quarantine.added", scope="tool", value=LARGE, why="it lies")
    again = one(d.tick(10_000_000))
    assert model_of(again) == SMALL
    d.finish(again, answer(SMALL))
    d.control_event("quarantine.lifted", scope="tool", value=LARGE)
    assert model_of(one(ask(d))) == LARGE
    intact(d)


def test_a_hit_costs_nothing() -> None:
    d = Driver()
    found = cached()
    found["release.yaml"] += "budgets: [{id: few, scope: agent, unit: calls, cap: 1}]\n"
    d.deploy(compile_release(found))
    d.open_session()
    d.finish(one(ask(d)), answer(LARGE))
    assert ask(d).replies[0].status == "released"
    assert ask(d, text="another").outcomes[-1].reason == "budget_exceeded"
    intact(d)


def test_what_a_secret_session_asks_is_apart() -> None:
    d = driver()
    d.finish(one(ask(d)), answer(LARGE))
    d.state.sessions[f"{AGENT}\0session-1"].confidentiality = 2
    assert ask(d).dispatches


def test_a_label_that_rises_while_a_call_waits_moves_it_to_another_entry() -> None:
    """The line around `secret` holds for who waits, too, and it leaves no trace in the entry it left."""
    d = driver()
    first = one(ask(d))
    ask(d, OTHER_AGENT)
    d.state.sessions[f"{OTHER_AGENT}\0s-other"].confidentiality = 2
    d.finish(first, answer(LARGE))
    [woken] = [x for x in settle(d) if x.outcomes]
    assert model_of(one(woken)) == LARGE, "it runs for itself"
    d.finish(one(woken), answer(LARGE, "for the secret one"))
    assert all(not e.waiters for e in d.state.cache.entries.values())


@pytest.mark.parametrize("fallback", [False, True])
def test_over_partitions_it_runs_once(fallback: bool) -> None:
    w = World(3)
    w.control_event("agents.registered", agents=[{**ROW, "agent_id": name} for name in NAMES])
    w.deploy(compile_release(cached()))
    for name in NAMES:
        w.on(name).open_session(f"s-{name}", name)
    for name in NAMES:
        w.on(name).call("triage", {"messages": MESSAGES}, kind="model_call", agent=name, session=f"s-{name}")
    w.settle()
    ((d, dispatch),) = dispatches(w)
    if fallback:
        dispatch = one(d.receipt(dispatch, "failed", error_class="timeout", error="slow"))
    d.finish(dispatch, answer(model_of(dispatch)))
    w.settle()
    assert released(w) == [answer(model_of(dispatch))] * len(NAMES)
    assert len(dispatches(w)) == 1 + fallback
    assert not any(e.waiters or e.queue for d in w.drivers for e in d.state.cache.entries.values())
    everything_holds(w)
