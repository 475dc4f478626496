"""Routed model calls through the ledger: who is asked, what follows each error, and that it is all recorded."""

from __future__ import annotations

import json
from functools import cache

import orjson
import pytest
import yaml
from sluicegate.processors import snapshot
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas import records as r
from sluicegate.streams.control.quarantines import about

from tests.driver import SESSION, Driver, release_files
from tests.unit.test_verify import verify

MESSAGES = [{"role": "user", "content": "hello"}]
LARGE, SMALL, SPARE = "model.large", "model.small", "model.spare"
PERMIT = '@id("triage")\npermit (principal, action == Action::"triage", resource);\n'


def contract(name: str, schema: dict[str, object] | None = None, **executor: object) -> str:
    said = {"type": "object", "properties": {"role": {"type": "string"}, "content": {"type": "string"}}}
    body: dict[str, object] = {
        "name": name,
        "inputSchema": {
            "type": "object",
            "properties": {
                "messages": {"type": "array", "maxItems": 100, "items": said},
                "tools": {"type": "array", "items": {"type": "object"}},
                "max_tokens": {"type": "integer"},
            },
            "required": ["messages"],
        },
        "x-sluicegate": {
            "executor": {"kind": "model", "url": f"https://{name}.invalid/v1", "model": name, **executor}
        },
    }
    if schema is not None:
        body["outputSchema"] = schema
    return json.dumps(body)


def files(
    route: dict[str, object] | None = None, policy: str = PERMIT, schema: dict[str, object] | None = None,
    more_yaml: str = "", **more: str,
) -> dict[str, str]:  # fmt: skip
    plain = release_files()
    names = (LARGE, SMALL, SPARE)
    alias = {"candidates": [{"contract": name} for name in names], **(route or {})}
    return {
        **plain,
        "release.yaml": plain["release.yaml"] + yaml.safe_dump({"models": {"triage": alias}}) + more_yaml,
        **{f"contracts/{name}.json": contract(name, schema) for name in names},
        "policies/model.cedar": policy,
        **more,
    }


@cache
def compiled(text: str) -> CompiledRelease:
    return compile_release(json.loads(text))


def driver(
    route: dict[str, object] | None = None, policy: str = PERMIT, schema: dict[str, object] | None = None,
    more_yaml: str = "", **more: str,
) -> Driver:  # fmt: skip
    d = Driver()
    d.deploy(compiled(json.dumps(files(route, policy, schema, more_yaml, **more))), now=True)
    d.open_session()
    return d


def ask(d: Driver, alias: str = "triage", **more: object) -> r.Dispatch:
    decision = d.call(alias, {"messages": MESSAGES, **more}, kind="model_call")
    (dispatch,) = decision.dispatches
    return dispatch


def fail(d: Driver, dispatch: r.Dispatch, error_class: str, **more: object) -> r.Dispatch | str:
    """The next dispatch, or the status and reason it ended with."""
    decision = d.receipt(dispatch, "failed", error_class=error_class, error="as ordered", **more)
    if decision.dispatches:
        return decision.dispatches[0]
    last = next(o for o in reversed(decision.outcomes) if o.stage != "budget")
    return f"{last.status} {last.reason}"


def model_of(dispatch: r.Dispatch | str) -> str:
    assert isinstance(dispatch, r.Dispatch), dispatch
    return str(orjson.loads(dispatch.executor)["model"])


def next_of(d: Driver, dispatch: r.Dispatch, error_class: str, **more: object) -> r.Dispatch:
    found = fail(d, dispatch, error_class, **more)
    assert isinstance(found, r.Dispatch), found
    return found


def answer(model: str, text: str = "hi", **more: object) -> bytes:
    return orjson.dumps(
        {"text": text, "tool_calls": [], "finish_reason": "stop", "served_model": model,
         "usage": {"input_tokens": 3, "output_tokens": 2}, **more}
    )  # fmt: skip


def test_a_call_falls_back_twice_and_says_why() -> None:
    d = driver()
    first = ask(d)
    assert (model_of(first), first.tool, first.attempt) == (LARGE, "triage", 1)
    second = next_of(d, first, "rate_limit")
    third = next_of(d, second, "overload")
    assert (model_of(second), model_of(third), third.attempt) == (SMALL, SPARE, 3)
    ended = d.receipt(third, "finished", result=answer(SPARE)).outcomes[-1]
    assert ended.status == "released"
    facts = ended.facts
    assert isinstance(facts, r.AnswerFacts)
    assert (facts.candidate, facts.served_model, facts.input_tokens, facts.output_tokens) == (
        SPARE,
        SPARE,
        3,
        2,
    )
    assert orjson.loads(d.replies[-1].result or b"")["served_model"] == SPARE


def test_every_attempt_is_on_the_ledger_with_who_failed_before() -> None:
    d = driver()
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call")
    permitted = decision.outcomes[1].facts
    assert isinstance(permitted, r.ChoiceFacts)
    assert permitted.candidates == [LARGE, SMALL, SPARE]
    assert permitted.scores == [1000, 1000, 1000]
    assert permitted.standing == ["ok", "ok", "ok"]
    followed = d.receipt(decision.dispatches[0], "failed", error_class="timeout", error="slow")
    facts = followed.outcomes[0].facts
    assert isinstance(facts, r.AttemptFacts)
    assert (facts.candidate, facts.why, facts.tried) == (SMALL, "timeout next", [f"{LARGE} timeout"])
    assert followed.outcomes[0].caused_by == [decision.outcomes[-1].event_id]


@pytest.mark.parametrize(
    ("error_class", "expected"),
    [
        ("rate_limit", SMALL), ("overload", SMALL), ("timeout", SMALL), ("context_length", SMALL),
        ("authentication", SMALL), ("server_error", SMALL), ("model_changed", SMALL), ("unreachable", SMALL),
        ("refused_by_tool", SMALL), ("content_policy", "failed content_policy"), ("quarantined", SMALL),
    ],
)  # fmt: skip
def test_what_follows_by_default(error_class: str, expected: str) -> None:
    d = driver()
    found = fail(d, ask(d), error_class)
    assert (found if isinstance(found, str) else model_of(found)) == expected


def test_a_route_has_rules_of_its_own() -> None:
    d = driver({"on_error": {"timeout": "stop", "content_policy": "next"}})
    assert fail(d, ask(d), "timeout") == "failed timeout"
    assert model_of(fail(d, ask(d), "content_policy")) == SMALL


def test_the_last_candidates_failure_is_the_calls() -> None:
    d = driver()
    third = next_of(d, next_of(d, ask(d), "timeout"), "overload")
    assert fail(d, third, "rate_limit") == "failed rate_limit"
    assert d.replies[-1].reason == "rate_limit"


def test_attempts_are_bounded() -> None:
    d = driver({"attempts": 2})
    assert fail(d, next_of(d, ask(d), "timeout"), "timeout") == "failed timeout"


def test_nothing_is_begun_after_the_deadline() -> None:
    d = driver()
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call", deadline_at=d.now + 1_000_000)
    d.now += 950_000
    assert fail(d, decision.dispatches[0], "timeout") == "failed timeout"


def test_nothing_is_begun_for_a_session_that_was_closed() -> None:
    d = driver()
    first = ask(d)
    d.close_session(SESSION)
    assert fail(d, first, "timeout") == "failed timeout"


def test_a_repair_asks_the_same_candidate_once_more_with_what_is_wrong() -> None:
    d = driver()
    first = ask(d)
    second = next_of(d, first, "malformed_result")
    assert model_of(second) == LARGE
    said = orjson.loads(second.arguments)["messages"]
    assert said[0] == MESSAGES[0] and "as ordered" in said[-1]["content"]
    assert second.idempotency_key != first.idempotency_key
    third = next_of(d, second, "malformed_result")
    assert model_of(third) == SMALL
    assert orjson.loads(third.arguments)["messages"] == MESSAGES, "another candidate is asked the plain call"
    assert d.receipt(third, "finished", result=answer(SMALL)).outcomes[-1].status == "released"


def test_a_result_that_does_not_fit_the_contract_is_repaired_with_the_validators_words() -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 3}}}
    d = driver(schema=schema)
    first = ask(d)
    decision = d.receipt(first, "finished", result=answer(LARGE, "too long"))
    (second,) = decision.dispatches
    said = orjson.loads(second.arguments)["messages"]
    assert said[-2] == {"role": "assistant", "content": "too long"}
    assert "`text`" in said[-1]["content"] and "longer than 3" in said[-1]["content"]
    assert not d.replies or d.replies[-1].intent_id != first.intent_id, (
        "the agent hears of the answer that counts only"
    )
    assert d.receipt(second, "finished", result=answer(LARGE, "ok")).outcomes[-1].status == "released"


def test_a_repair_whose_offer_lapsed_is_the_same_call_again() -> None:
    d = driver()
    second = next_of(d, ask(d), "malformed_result")
    (again,) = d.tick(8_000_000).dispatches
    assert (again.arguments, again.idempotency_key) == (second.arguments, second.idempotency_key)
    assert again.attempt == second.attempt + 1
    assert d.receipt(second, "finished", result=answer(LARGE)).outcomes[-1].status == "released"


def test_retry_after_is_obeyed_and_then_the_next_is_asked() -> None:
    d = driver({"on_error": {"rate_limit": "retry"}})
    first = ask(d)
    paused = d.receipt(first, "failed", error_class="rate_limit", error="later", retry_after_ms=20_000)
    assert [(o.stage, o.status) for o in paused.outcomes] == [("plan", "waiting")] and not paused.dispatches
    assert not d.tick(10_000_000).dispatches, "too early"
    late = d.receipt(first, "finished", result=answer(LARGE))
    assert late.outcomes[0].reason == "late"
    (second,) = d.tick(10_000_000).dispatches
    assert (model_of(second), second.attempt) == (LARGE, 2)
    assert model_of(fail(d, second, "rate_limit", retry_after_ms=20_000)) == SMALL


def test_a_wait_that_the_deadline_does_not_allow_is_not_begun() -> None:
    d = driver({"on_error": {"rate_limit": "retry"}})
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call", deadline_at=d.now + 5_000_000)
    assert model_of(fail(d, decision.dispatches[0], "rate_limit", retry_after_ms=6_000)) == SMALL


def test_a_receipt_of_a_candidate_that_failed_says_nothing_any_more() -> None:
    d = driver()
    first = ask(d)
    second = next_of(d, first, "timeout")
    assert d.receipt(first, "failed", error_class="timeout").outcomes[0].status == "noted"
    assert d.receipt(first, "finished", result=answer(LARGE)).outcomes[0].status == "noted"
    assert d.receipt(second, "finished", result=answer(SMALL)).outcomes[0].status == "released"


def test_a_quarantined_candidate_is_not_asked() -> None:
    d = driver()
    first = ask(d)
    d.control_event("quarantine.added", scope="tool", value=SMALL, why="it lies")
    assert model_of(fail(d, first, "timeout")) == SPARE
    d.control_event("quarantine.added", scope="tool", value=LARGE, why="")
    assert model_of(ask(d)) == SPARE


def test_a_candidate_quarantined_after_its_offer_is_followed_by_the_next() -> None:
    """The executor says so before it calls (tests/unit/test_quarantine.py), and a lapsed offer is not made to it again."""
    d = driver({"on_error": {"refused": "stop"}})
    first = ask(d)
    assert (first.tool, first.candidate) == ("triage", LARGE)
    d.control_event("quarantine.added", scope="tool", value=LARGE, why="it lies")
    second = next_of(d, first, "quarantined", sent=False)
    assert (model_of(second), second.candidate) == (SMALL, SMALL)
    assert d.state.health == {}, "nobody was asked"
    d.control_event("quarantine.added", scope="tool", value=SMALL, why="")
    again = d.tick(10_000_000)
    [third] = again.dispatches
    assert (third.candidate, third.attempt) == (SPARE, 3)
    facts = again.outcomes[-1].facts
    assert isinstance(facts, r.AttemptFacts)
    assert (facts.tried, facts.why) == ([f"{LARGE} quarantined", f"{SMALL} quarantined"], "quarantined next")
    d.control_event("quarantine.added", scope="tool", value=SPARE, why="")
    ended = d.tick(10_000_000)
    assert not ended.dispatches and d.state.open_count == 0
    assert (ended.outcomes[0].status, ended.outcomes[0].reason) == ("expired", "quarantined")
    assert verify(d).names == set()


def test_calls_in_flight_at_a_candidate_are_listed_under_it() -> None:
    d = driver()
    first = ask(d)
    found = [i for i in d.state.intents.values() if isinstance(i, OpenIntent)]
    assert [i.intent_id for i in about("tool", LARGE, found)] == [first.intent_id]
    assert about("tool", "triage", found) == found and about("tool", SMALL, found) == []
    assert (
        about("agent", LARGE, found) == about("session", LARGE, found) == about("release", LARGE, found) == []
    )


def test_the_whole_call_stopped_at_the_executor_is_not_followed() -> None:
    d = driver()
    first = ask(d)
    d.control_event("quarantine.added", scope="tool", value="triage", why="")
    assert fail(d, first, "quarantined", sent=False) == "failed quarantined"


def test_another_release_meanwhile_ends_it() -> None:
    d = driver()
    first = ask(d)
    d.deploy(compiled(json.dumps(files({"attempts": 3}))), now=True)
    assert fail(d, first, "timeout") == "failed timeout"


def test_without_routes_nothing_is_followed() -> None:
    policy = PERMIT.replace("triage", LARGE)
    d = driver(policy=PERMIT + policy)
    assert fail(d, ask(d, LARGE), "rate_limit") == "failed rate_limit"
    assert type(d.state) is not None


def everything() -> Driver:
    """A ledger with every way a routed call can go."""
    d = driver({"on_error": {"rate_limit": "retry"}, "choose": "weighted"})
    d.finish(next_of(d, next_of(d, ask(d), "timeout"), "malformed_result"), answer(LARGE))
    paused = ask(d)
    d.receipt(paused, "failed", error_class="rate_limit", error="later", retry_after_ms=3_000)
    (second,) = d.tick(4_000_000).dispatches
    (again,) = d.tick(8_000_000).dispatches
    d.receipt(second, "failed", error_class="content_policy", error="no")
    assert again.tool == "triage"
    d.everyday()
    return d


def test_a_replay_and_a_snapshot_say_the_same() -> None:
    d = everything()
    rederived = Rederive(d.partition, d.controls, d.keys.open)
    for record in d.records:
        rederived.add(record.offset, record.value)
    tally = rederived.finish()
    assert tally.different == 0, tally.differences
    assert snapshot.encode(rederived.state) == snapshot.encode(d.state)
    assert snapshot.encode(snapshot.decode(snapshot.encode(d.state))) == snapshot.encode(d.state)
    assert d.state.health


def test_the_ledger_verifies() -> None:
    found = verify(everything())
    assert found.names == set()


def test_answers_that_get_less_sure_halt_the_session_until_a_person_resumes_it() -> None:
    d = driver(more_yaml="derail: {falling_confidence: 2}\n")
    for sure in (0.9, 0.895, 0.7, 0.5):
        d.finish(ask(d), answer(LARGE, confidence=sure))
    refused = d.call("triage", {"messages": MESSAGES}, kind="model_call").outcomes[-1]
    assert (refused.status, refused.reason) == ("refused", "falling_confidence")
    refused = d.call("desk.read").outcomes[-1]
    assert (refused.status, refused.reason) == ("refused", "halted")


def test_how_sure_counts_for_contracts_without_a_route_too() -> None:
    policy = PERMIT.replace("triage", LARGE)
    d = driver(policy=PERMIT + policy, more_yaml="derail: {falling_confidence: 1}\n")
    for sure in (0.5, 0.9, None, 0.8):
        d.finish(ask(d, LARGE), answer(LARGE, confidence=sure))
    assert d.call("desk.read").outcomes[-1].reason == "falling_confidence"


def test_each_attempt_is_reserved_and_settled_apart() -> None:
    budget = "budgets:\n  - {id: few, scope: agent, unit: calls, cap: 3}\n"
    d = driver(more_yaml=budget)
    second = next_of(d, ask(d), "timeout")
    d.finish(second, answer(SMALL))
    (account,) = d.state.accounts.values()
    assert (account.spent, account.reserved) == (2, 0)
    assert fail(d, ask(d), "timeout") == "failed budget_exceeded"
