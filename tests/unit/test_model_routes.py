"""Routes: what a release may say, and which candidates a call gets, in which order."""

from __future__ import annotations

from collections import Counter

import pytest
from sluicegate.processors.releases.check import check_release
from sluicegate.schemas import records as r

from tests.driver import Driver
from tests.unit.test_attempts import (
    LARGE,
    MESSAGES,
    PERMIT,
    SMALL,
    SPARE,
    answer,
    ask,
    contract,
    driver,
    fail,
    files,
    model_of,
)


def choice(d: Driver, **more: object) -> list[tuple[str, str]]:
    """Candidates and standings of one call."""
    decision = d.call("triage", {"messages": MESSAGES, **more}, kind="model_call")
    facts = decision.outcomes[-1 if len(decision.outcomes) < 3 else 1].facts
    assert isinstance(facts, r.ChoiceFacts), decision.outcomes
    return list(zip(facts.candidates, facts.standing, strict=True))


def candidates(**conditions: str) -> dict[str, object]:
    names = {"large": LARGE, "small": SMALL, "spare": SPARE}
    return {
        "candidates": [
            {"contract": name, **({"when": conditions[key]} if key in conditions else {})}
            for key, name in names.items()
        ]
    }


def test_conditions_are_cel_over_the_call_and_what_is_around_it() -> None:
    d = driver(candidates(large="size(arguments.messages) > 5", small='agent.team == "nobody"'))
    assert choice(d) == [(LARGE, "condition"), (SMALL, "condition"), (SPARE, "ok")]
    d = driver(candidates(large='environment == "test" && session.calls == 0 && health.failures == 0'))
    assert choice(d)[0] == (LARGE, "ok")


def test_a_condition_that_errors_lets_nobody_in() -> None:
    assert choice(driver(candidates(large="arguments.nothing > 5")))[0] == (LARGE, "condition failed")


def test_no_candidate_is_a_refusal_that_names_each() -> None:
    d = driver(candidates(large="false", small="false", spare="false"))
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call")
    assert (decision.outcomes[-1].status, decision.outcomes[-1].reason) == ("refused", "no_route")
    assert all(name in d.replies[-1].for_developer for name in (LARGE, SMALL, SPARE))


def test_each_candidate_is_authorised_and_a_forbidden_one_is_skipped_with_its_policies() -> None:
    policy = (
        PERMIT
        + f'@id("not-large")\nforbid (principal, action == Action::"triage", resource == Tool::"{LARGE}");\n'
    )
    d = driver(policy=policy)
    assert choice(d)[0] == (LARGE, "forbidden not-large")
    assert model_of(ask(d)) == SMALL
    only = f'@id("one")\npermit (principal, action == Action::"triage", resource == Tool::"{SPARE}");\n'
    d = driver(policy=only)
    first = ask(d)
    assert model_of(first) == SPARE
    assert fail(d, first, "timeout") == "failed timeout", "nobody else may be asked"


def test_nobody_permitted_is_refused_as_ever() -> None:
    d = driver(policy=PERMIT.replace("permit", "forbid"))
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_call")
    assert (decision.outcomes[-1].status, decision.outcomes[-1].reason) == ("refused", "forbidden")


def test_people_who_agree_to_one_agree_to_no_stricter_one() -> None:
    policy = (
        f'@id("free")\npermit (principal, action == Action::"triage", resource == Tool::"{LARGE}");\n'
        '@id("asked")\n@hold("dear")\npermit (principal, action == Action::"triage", resource);\n'
    )
    d = driver(policy=policy)
    assert choice(d) == [(LARGE, "ok"), (SMALL, "held asked"), (SPARE, "held asked")]


def test_a_held_call_is_routed_when_people_agreed() -> None:
    d = driver(policy=PERMIT.replace("permit", '@hold("dear")\npermit'))
    held = d.call("triage", {"messages": MESSAGES}, kind="model_call")
    assert held.outcomes[-1].status == "held"
    (dispatch,) = d.review(held).dispatches
    assert model_of(fail(d, dispatch, "timeout")) == SMALL


def test_features_and_regions() -> None:
    more = {
        f"contracts/{LARGE}.json": contract(LARGE, features=["json"], region="us"),
        f"contracts/{SMALL}.json": contract(SMALL, features=["json", "tools"], region="eu"),
    }
    assert choice(driver({"requires": ["json"]}, **more))[2] == (SPARE, "feature json")
    d = driver({"region": ["eu"]}, **more)
    assert choice(d) == [(LARGE, "region"), (SMALL, "ok"), (SPARE, "region")]
    d = driver(None, **more)
    asked = choice(d, tools=[{"type": "function"}])
    assert asked == [(LARGE, "feature tools"), (SMALL, "ok"), (SPARE, "ok")], "what a call itself needs"


def test_weights_are_drawn_by_the_calls_id_and_again_the_same() -> None:
    route = {
        "choose": "weighted",
        "candidates": [{"contract": LARGE, "weight": 8}, {"contract": SMALL}, {"contract": SPARE}],
    }
    drawn: list[list[str]] = []
    for _ in range(2):
        d = driver(route)
        drawn.append([model_of(ask(d)) for _ in range(150)])
    assert drawn[0] == drawn[1]
    counts = Counter(drawn[0])
    assert counts[LARGE] > 100 and counts[SMALL] > 3 and counts[SPARE] > 3


def test_an_unhealthy_candidate_goes_last_and_comes_back() -> None:
    d = driver()
    for _ in range(3):
        first = ask(d)
        assert model_of(first) == LARGE
        d.finish(fail(d, first, "overload"), answer(SMALL))  # type: ignore[arg-type]
    assert choice(d) == [(SMALL, "ok"), (SPARE, "ok"), (LARGE, "unhealthy")]
    d.now += 61_000_000
    assert choice(d)[0] == (LARGE, "ok")


def test_what_the_caller_did_is_not_held_against_a_candidate() -> None:
    d = driver()
    for _ in range(4):
        fail(d, ask(d), "content_policy")
    assert choice(d)[0] == (LARGE, "ok")


def test_the_best_score_first() -> None:
    d = driver({"choose": "scored"})
    slow = d.receipt(ask(d), "finished", result=answer(LARGE), started_at=d.now - 9_000_000)
    assert slow.outcomes[0].status == "released"
    assert [name for name, _ in choice(d)] == [SMALL, SPARE, LARGE]


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"candidates": [{"contract": "model.lage"}]}, "which no contract is, did you mean `model.large`"),
        ({"candidates": [{"contract": "desk.read"}]}, "is no model"),
        ({"candidates": [{"contract": LARGE}, {"contract": LARGE}]}, "twice"),
        ({"candidates": []}, "at least 1"),
        ({"requires": ["tools"]}, "leads nowhere"),
        ({"region": ["eu"]}, "leads nowhere"),
        ({"on_error": {"rate_limt": "next"}}, "did you mean `rate_limit`"),
        ({"on_error": {"timeout": "repair"}}, "only `malformed_output`"),
        ({"candidates": [{"contract": LARGE, "when": "args.x"}]}, "uses `args`"),
        ({"candidates": [{"contract": LARGE, "when": "1 +"}]}, "does not compile"),
        ({"candidates": [{"contract": LARGE, "when": "now() > 1"}]}, "calls `now`"),
        ({"attempts": 99}, "less than or equal to 20"),
    ],
)
def test_a_route_to_nowhere_is_found(route: dict[str, object], words: str) -> None:
    _, findings = check_release(files(route))
    assert [f for f in findings if f.severity == "error" and words in f.sentence], findings


def test_candidates_take_and_give_the_same() -> None:
    other = contract(SMALL, {"type": "object"})
    _, findings = check_release(files(**{f"contracts/{SMALL}.json": other}))
    assert [f for f in findings if f.rule == "route" and "do not take and give the same" in f.sentence]


def test_an_alias_is_no_contract() -> None:
    more = {"contracts/triage.json": contract("triage")}
    _, findings = check_release(files(**more))
    assert [f for f in findings if f.rule == "route" and "has the name of a contract" in f.sentence]


def test_a_policy_on_a_candidate_is_no_policy_that_never_matches() -> None:
    only = f'@id("one")\npermit (principal, action == Action::"triage", resource == Tool::"{SPARE}");\n'
    _, findings = check_release(files(policy=only))
    assert not [f for f in findings if "`one`" in f.sentence], findings
    never = '@id("one")\npermit (principal, action == Action::"triage", resource == Tool::"desk.read");\n'
    _, findings = check_release(files(policy=never))
    assert [f for f in findings if "`one`" in f.sentence and f.rule == "never-matches"]


def test_a_candidate_behind_a_permitted_alias_is_no_tool_that_nobody_may_call() -> None:
    def said(policy: str) -> list[str]:
        return [f.sentence for f in check_release(files(policy=policy))[1] if f.rule == "nobody-may-call"]

    assert not [sentence for sentence in said(PERMIT) if "model." in sentence]
    assert [s for s in said(PERMIT.replace("triage", "desk.pay")) if "no policy permits `model.large`" in s]
