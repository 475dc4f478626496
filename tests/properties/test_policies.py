"""Policies: their order means nothing, slicing changes no answer, and a policy that errs never permits."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import cedarpy
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.conform import Conformed, conform
from sluicegate.processors.control.control import Agent
from sluicegate.processors.policy.cedar import (
    Handle,
    PolicyBook,
    Verdict,
    entities_for,
    evaluate,
    request_of,
    slice_for,
)
from sluicegate.processors.policy.files import parse_policies
from sluicegate.processors.policy.mentions import SESSION_FIELDS, mentions_of

from tests import driver

FILES = {p: t for p, t in driver.release_files().items() if p.startswith("policies/")}


@cache
def book() -> PolicyBook:
    return driver.release().book


@cache
def agents() -> tuple[Agent, ...]:
    rows: list[Any] = driver.agents()
    return tuple(Agent(str(row["agent_id"]), "t", "x", tuple(row["roles"])) for row in rows)


def typed(tool: str, filler: int) -> dict[str, Any]:
    """Arguments of a tool made from its schema, typed for Cedar; or none of them when those do not fit."""
    compiled = driver.release().tools[tool]
    schema: Any = compiled.contract.input_schema
    args: dict[str, Any] = {}
    for i, (name, spec) in enumerate(schema.get("properties", {}).items()):
        if name not in schema.get("required", []) and (filler >> i) & 1:
            continue
        kind = spec.get("type")
        args[name] = spec["enum"][0] if "enum" in spec else {
            "integer": filler % 500, "number": filler % 500 + 0.5, "boolean": bool(filler & 1), "array": [],
            "object": {}}.get(kind, "no" if filler & 1 else "Some Text")  # fmt: skip
    found = conform(compiled.validator, compiled.typer, json.dumps(args).encode())
    return found.cedar if isinstance(found, Conformed) else {}


def ask(policies: PolicyBook, agent: Agent, tool: str, args: dict[str, Any], calls: int) -> Verdict:
    context = {"args": args, "environment": "test", "session": {"calls": calls, "user_messages": 1}}
    entities = entities_for(policies, agent, tool, driver.release().tools[tool].tool_class)
    return evaluate(
        slice_for(policies, agent.roles, tool, (), agent.agent_id).enforced,
        entities,
        request_of(agent, tool, context),
    )


TOOLS = st.sampled_from(sorted(driver.release().tools))
QUESTION = (st.sampled_from(agents()), TOOLS, st.integers(0, 1_000), st.integers(0, 200))


@given(st.integers(0, 2**32), *QUESTION)
def test_the_order_of_policies_means_nothing(
    seed: int, agent: Agent, tool: str, filler: int, calls: int
) -> None:
    shuffled = list(book().policies)
    random.Random(seed).shuffle(shuffled)
    args = typed(tool, filler)
    verdict = ask(book(), agent, tool, args, calls)
    again = ask(PolicyBook(shuffled), agent, tool, args, calls)
    assert (again.allowed, again.policies, bool(again.error)) == (
        verdict.allowed,
        verdict.policies,
        bool(verdict.error),
    )


@given(*QUESTION)
def test_a_slice_answers_as_all_policies_do(agent: Agent, tool: str, filler: int, calls: int) -> None:
    args = typed(tool, filler)
    sliced = ask(book(), agent, tool, args, calls)
    whole = PolicyBook(list(book().policies))
    handle = cedarpy.PolicySet.from_str("\n".join(p.text for p in whole.policies))
    cut = slice_for(whole, agent.roles, tool, (), agent.agent_id)
    cut.enforced = Handle(handle, {f"policy{i}": p.policy_id for i, p in enumerate(whole.policies)})
    assert ask(whole, agent, tool, args, calls) == sliced


@given(*QUESTION)
def test_what_no_policy_mentions_changes_no_answer(agent: Agent, tool: str, filler: int, calls: int) -> None:
    args = typed(tool, filler)
    cut = slice_for(book(), agent.roles, tool, (), agent.agent_id)
    names, said = cut.mentions.args, cut.mentions.session
    session: dict[str, object] = {"calls": calls, "user_messages": 1}
    context = {
        "args": args if names is None else {n: args[n] for n in names if n in args},
        "environment": "test",
        "session": {n: v for n, v in session.items() if n in said},
    }
    entities = entities_for(book(), agent, tool, driver.release().tools[tool].tool_class)
    assert evaluate(cut.enforced, entities, request_of(agent, tool, context)) == ask(
        book(), agent, tool, args, calls
    )


@pytest.mark.parametrize(
    ("condition", "args", "session"),
    [
        ("context.args.a > 1 && context.args has b", ("a", "b"), ()),
        ("context.args == {a: 1}", None, ()),
        ("context has args", None, ()),
        ("context == {a: 1}", None, SESSION_FIELDS),
        ('context.session.counts["x.y"] > context.session.calls', (), ("calls", "counts")),
        ("[context.session].contains({a: 1})", (), SESSION_FIELDS),
        ("context.args.a.b.c == 1", ("a",), ()),
        ("principal has team", (), ()),
    ],
)
def test_mentions(condition: str, args: tuple[str, ...] | None, session: tuple[str, ...]) -> None:
    policies = parse_policies(
        {"policies/x.cedar": f'@id("x")\nforbid (principal, action, resource) unless {{ {condition} }};'}
    )
    found = mentions_of([p.est for p in policies.policies])
    assert (found.args, found.session) == (args, session)
    assert found.counts == (("x.y",) if "counts" in condition else ())


def test_the_questions_above_are_permitted_forbidden_and_neither() -> None:
    """Else the two tests above compare refusals with refusals."""
    verdicts = {
        (v.allowed, bool(v.policies))
        for agent in agents()[:40]
        for tool in sorted(driver.release().tools)
        for filler in (0, 1, 499)
        for v in [ask(book(), agent, tool, typed(tool, filler), 3)]
    }
    assert verdicts == {(True, True), (False, True), (False, False)}


@given(
    *QUESTION,
    st.sampled_from(["{}", '{"args":{"amount":5000.5}}', "[", '{"args":{"n":99999999999999999999}}', ""]),
)
def test_the_short_way_answers_as_cedarpys_own(
    agent: Agent, tool: str, filler: int, calls: int, context: str
) -> None:
    context = context or orjson.dumps({"args": typed(tool, filler), "session": {"calls": calls}}).decode()
    cut = slice_for(book(), agent.roles, tool, (), agent.agent_id).enforced
    entities = entities_for(book(), agent, tool, "irreversible")
    request = {**request_of(agent, tool, {}), "context": context}
    mine, theirs = evaluate(cut, entities, request), cedarpy.is_authorized(request, cut.parsed, entities)
    assert mine.allowed == (theirs.allowed and not theirs.diagnostics.errors)
    assert bool(mine.error) == (
        bool(theirs.diagnostics.errors) or theirs.decision == cedarpy.Decision.NoDecision
    )
    if not mine.error:
        assert mine.policies == sorted(cut.ids[reason] for reason in theirs.diagnostics.reasons)


PERMIT = '@id("yes")\npermit (principal, action, resource);'
ERRING = [
    "context.args.missing > 1",  # no such argument
    "context.args.amount > 100",  # a long compared with text
    'context.args.amount.lessThan(decimal("1.0"))',
    "principal.nothing == 1",
    "9223372036854775807 + context.calls > 1",
    'context.args.amount like "5*" && context.args.other',
]


@pytest.mark.parametrize("effect", ["forbid", "permit"])
@pytest.mark.parametrize("condition", ERRING)
@given(st.booleans())
def test_a_policy_that_errs_never_permits(effect: str, condition: str, first: bool) -> None:
    erring = f'@id("errs")\n{effect} (principal, action, resource) when {{ {condition} }};'
    policies = parse_policies(
        {"policies/x.cedar": "\n".join([erring, PERMIT] if first else [PERMIT, erring])}
    )
    agent = Agent("a", "t", "", ("r",))
    context = {"args": {"amount": "5000"}, "calls": 1}
    entities = entities_for(policies, agent, "pay", "irreversible")
    verdict = evaluate(
        slice_for(policies, agent.roles, "pay", (), agent.agent_id).enforced,
        entities,
        request_of(agent, "pay", context),
    )
    assert not verdict.allowed
    assert verdict.error
    # The trap itself: Cedar alone answers Allow here, since it skips the policy that errs.
    cut = slice_for(policies, agent.roles, "pay", (), agent.agent_id)
    assert cedarpy.is_authorized_batch([request_of(agent, "pay", context)], cut.enforced.parsed, entities)[
        0
    ].decision == (cedarpy.Decision.Allow)


@given(st.permutations(sorted(FILES)))
def test_files_are_read_in_any_order(names: list[str]) -> None:
    parsed = parse_policies({name: FILES[name] for name in names})
    assert [p.policy_id for p in parsed.policies] == [p.policy_id for p in book().policies]


def test_a_remembered_answer_is_of_the_same_question() -> None:
    policies = parse_policies(
        {
            "policies/x.cedar": '@id("a") permit (principal, action, resource) when { principal.team == "red" };\n'
            '@id("b") forbid (principal, action == Action::"pay", resource) when { context.args.n == 7 };'
        }
    )
    red, blue = Agent("a", "t", "red", ()), Agent("a", "t", "blue", ())
    asked = [(red, "pay", 1), (blue, "pay", 1), (red, "pay", 7), (red, "get", 7), (red, "pay", 1)]
    for _ in range(2):
        verdicts = []
        for agent, tool, n in asked:
            entities = entities_for(policies, agent, tool, "read_only")
            request = request_of(agent, tool, {"args": {"n": n}})
            verdicts.append(
                evaluate(
                    slice_for(policies, agent.roles, tool, (), agent.agent_id).enforced, entities, request
                ).allowed
            )
        assert verdicts == [True, False, False, True, True]
    assert len(policies.memo) == 3  # the agents share an id: which of them it was asked about is kept beside
