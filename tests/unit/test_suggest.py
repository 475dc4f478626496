"""`policy suggest`: what was observed is permitted, nothing wider, and what comes out checks like any policy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.cedar import to_text
from sluicegate.processors.policy.files import parse_policies
from sluicegate.processors.policy.observed import Collector, Observation
from sluicegate.processors.policy.suggest import Suggester, Tool, quoted
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.rehearsal import Rehearsal
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.processors.replay.diff import Diff, under
from sluicegate.streams import demo

from tests.driver import RELEASE, Driver, read, release_files

SUITES = ("banking", "slack", "retail", "airline")


@cache
def traffic() -> Driver:
    """Recorded sessions of all four desks through the example release, each call answered."""
    driver = Driver(extended=False)
    known = set(driver.control.agents)
    scripts = [s for s in demo.scripts(RELEASE.parent, "t") if s.agent_id in known]
    for script in scripts[:60]:
        driver.open_session(script.session_id, script.agent_id)
        for step in script.steps:
            if step.tool:
                made = driver.call(
                    step.tool, step.arguments, session=script.session_id, agent=script.agent_id
                )
                if made.dispatches:
                    driver.finish(made.dispatches[0])
            else:
                driver.say(step.text, script.session_id, script.agent_id)
    return driver


def observed(driver: Driver) -> list[Observation]:
    found: list[Observation] = []
    collector = Collector(driver.keys.open, driver.control.agents, found.append)
    for record in driver.records:
        event = read(record)
        collector.add(event.header, event.facts, event.sealed)
    collector.finish()
    return found


def tools_of(release: CompiledRelease) -> dict[str, Tool]:
    return {
        n: Tool(shape_of(t.contract.input_schema), t.tool_class != "read_only", tuple(t.protected))
        for n, t in release.tools.items()
    }


def suggested(seen: Iterable[Observation], release: CompiledRelease, by: str = "role") -> dict[str, str]:
    suggester = Suggester(tools_of(release), by)
    for one in seen:
        suggester.add(one)
    return suggester.files()


def with_only(policies: dict[str, str], files: dict[str, str]) -> dict[str, str]:
    return {**{p: t for p, t in files.items() if not p.startswith("policies/")}, **policies}


@pytest.mark.parametrize("by", ["role", "agent"])
def test_suggestions_check_and_permit_every_call_that_was_permitted(by: str) -> None:
    driver = traffic()
    files = release_files(extended=False)
    seen = [o for o in observed(driver) if o.executed]
    assert len(seen) > 200
    policies = suggested(seen, compile_release(files), by)
    candidate, findings = check_release(with_only(policies, files))
    assert candidate is not None and [f for f in findings if f.severity == "error"] == []
    assert {f.rule for f in findings} <= {"nobody-may-call"}
    again = Diff(driver.partition, under(driver.controls, candidate), driver.keys.open)
    for record in driver.records:
        again.add(*record)
    again.finish()
    lost = [c for c in again.diff.changes if c.was.said == "permit" and not c.speculative]
    assert lost == []
    assert again.diff.compared > len(seen)


def test_suggestions_refuse_what_was_refused_for_its_values() -> None:
    """Least privilege: most of what the example's policies forbid is beyond what was seen."""
    driver = traffic()
    files = release_files(extended=False)
    every = observed(driver)
    policies = suggested([o for o in every if o.executed], compile_release(files))
    candidate = compile_release(with_only(policies, files))
    refused = [o for o in every if o.reason in ("forbidden", "no_permit")]
    assert refused
    told = {o.tool: Rehearsal(candidate, o.agent) for o in refused}
    for play in told.values():
        play.begin()
        play.say("go on")
    answers = [told[o.tool].call(o.tool, orjson.dumps(o.arguments)).outcomes[-1].status for o in refused]
    assert answers.count("refused") > len(answers) / 2


def test_the_same_observations_give_the_same_bytes() -> None:
    release = compile_release(release_files(extended=False))
    assert suggested(observed(traffic()), release) == suggested(observed(traffic()), release)


CONTRACT = {
    "name": "pay",
    "inputSchema": {
        "type": "object",
        "properties": {
            "to": {"type": "string"}, "amount": {"type": "number"}, "n": {"type": "integer"}, "fast": {"type": "boolean"},
            "memo": {"type": "string"}, "what ever": {}, "place": {"type": "object", "properties": {"zip": {"type": "integer"}}},
        },
        "required": ["to", "amount"],
    },
    "x-sluicegate": {"class": "irreversible", "executor": {"kind": "http", "url": "http://x/"}, "protected": ["to"]},
}  # fmt: skip
FILES = {"release.yaml": "name: r\nversion: '1'\n", "contracts/pay.json": json.dumps(CONTRACT)}


def call(
    at: int,
    *,
    spoke: bool = True,
    worst: str | None = None,
    roles: tuple[str, ...] = ("clerk",),
    **arguments: Any,
) -> Observation:
    return Observation(
        f"i-{at}", Agent(f"a-{at % 2}", "t", "", roles), "pay", {"to": "x", "amount": 1, **arguments},
        1_795_000_000_000_000 + at, "released", user_spoke=spoke, worst=worst,
    )  # fmt: skip


def text_of(calls: list[Observation]) -> str:
    (text,) = suggested(calls, compile_release(FILES)).values()
    assert [
        f for f in check_release(with_only({"policies/p.cedar": text}, FILES))[1] if f.severity == "error"
    ] == []
    return text


def test_the_evidence_stands_with_the_policy() -> None:
    text = text_of([call(n, amount=n, n=n % 3) for n in range(6)])
    assert "// Suggested from 6 calls of 2 agent(s), for the role clerk." in text
    assert "// 6 calls by 2 agent(s), 2026-11-18 11:06 to 2026-11-18 11:06: 6 released." in text
    assert "// Such as i-0, i-1, i-2." in text
    assert '@id("clerk-pay-observed")' in text


SEEN: list[tuple[list[Observation], list[str], list[str]]] = [
    # calls, what stands in the policy, what does not
    ([call(n, amount=n / 4) for n in range(3)], ['amount.greaterThanOrEqual(decimal("0.0"))', 'lessThanOrEqual(decimal("0.5"))'], ["to like"]),
    ([call(n, n=7) for n in range(2)], ["context.args has n && context.args.n == 7", "!(context.args has memo)", '!(context.args has "what ever")'], []),
    ([call(0), call(1, n=3), call(2, n=-5)], ["(if context.args has n then context.args.n >= -5 && context.args.n <= 3 else true)"], []),
    ([call(n, to="rent" if n % 2 else "gift") for n in range(6)], ['["gift", "rent"].contains(context.args.to)'], []),
    ([call(n, to=f"card_{n}") for n in range(6)], ['context.args.to like "card_*"'], []),
    ([call(n, to=f"https://a.example/{n}*") for n in range(6)], ['context.args.to like "https://a.example/*"'], []),
    ([call(n, to=f"u{n}@a*b.example") for n in range(6)], ['context.args.to like "*@a\\*b.example"'], []),
    ([call(n, to=f"{n} street") for n in range(6)], [], ["context.args.to"]),
    ([call(n, fast=True) for n in range(6)], ["context.args has fast && context.args.fast == true"], []),
    ([call(n, fast=True) for n in range(2)], [], ["context.args.fast"]),
    ([call(n, place={"zip": n}) for n in range(2)], ["context.args.place has zip && context.args.place.zip >= 0"], []),
    ([call(n) for n in range(2)], ["context.session.user_messages >= 1"], ["grounding"]),
    ([call(0), call(1, spoke=False)], [], ["user_messages"]),
    ([call(0, worst="user"), call(1, worst="internal")], ['["user", "internal"].contains(context.grounding.worst)'], []),
    ([call(0, worst="user"), call(1, worst="unknown")], [], ["grounding"]),
    ([call(0, worst="user"), call(1)], [], ["grounding"]),
    ([call(n, to='a"\\\n\x01é') for n in range(6)], ['["a\\"\\\\\\u{a}\\u{1}é"].contains'], []),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "there", "absent"), SEEN)
def test_what_was_seen_becomes_a_condition(
    calls: list[Observation], there: list[str], absent: list[str]
) -> None:
    text = text_of(calls)
    assert [t for t in there if t not in text] == []
    assert [t for t in absent if t in text] == []


def test_an_agent_of_several_roles_or_none_gets_its_own_policies() -> None:
    text = text_of([call(0, roles=("b", "a"))])
    assert 'permit (principal == Agent::"a-0", action == Action::"pay", resource)' in text


def test_tools_without_a_contract_are_counted() -> None:
    suggester = Suggester({})
    suggester.add(call(0))
    assert (suggester.files(), dict(suggester.unknown)) == ({}, {"pay": 1})


def test_names_that_look_alike_get_ids_of_their_own() -> None:
    files = suggested([call(0, roles=("a b",)), call(2, roles=("a-b",))], compile_release(FILES))
    assert len(parse_policies(files).policies) == 2


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
@settings(max_examples=200)
def test_any_text_can_be_quoted(text: str) -> None:
    policy = parse_policies(
        {"p": f'@id("a") permit (principal, action, resource) when {{ context.x == {quoted(text)} }};'}
    )
    (condition,) = policy.policies[0].est["conditions"]  # type: ignore[misc]
    assert condition["body"]["=="]["right"] == {"Value": text}
    assert to_text(policy.policies[0].est)


def test_what_was_erased_is_counted_and_left_out() -> None:
    driver = Driver()
    driver.open_session()
    driver.call("desk.read")
    driver.keys.destroyed.add("person-1")
    collector = Collector(driver.keys.open, driver.control.agents, lambda _: None)
    for record in driver.records:
        event = read(record)
        collector.add(event.header, event.facts, event.sealed)
    assert collector.erased == 1


def test_how_calls_ended_is_told() -> None:
    driver = Driver()
    driver.everyday()
    ended = {(o.tool, o.ended) for o in observed(driver)}
    assert {
        ("desk.read", "released"),
        ("desk.never", "refused"),
        ("no.such.tool", "refused"),
        ("desk.pay", "refused"),
    } <= ended
    assert all(o.user_spoke for o in observed(driver))
