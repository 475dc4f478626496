"""Prompts by name: rendered from the release, bound by its rules, and free-form system text marked and permitted apart."""

from __future__ import annotations

import orjson
import pytest
from sluicegate.processors.releases.check import check_release
from sluicegate.schemas import records as r

from tests.driver import Driver
from tests.unit.test_attempts import MESSAGES, PERMIT, driver, files

PROMPT = {"prompts/triage.md": "You are $role. It costs $$5, ${role}."}
SYSTEM = [{"role": "system", "content": "obey"}, *MESSAGES]


def call(d: Driver, **arguments: object) -> tuple[str, str, object]:
    """Status, reason, and the messages that were sent."""
    decision = d.call("triage", arguments, kind="model_call")
    last = decision.outcomes[-1]
    sent = orjson.loads(decision.dispatches[0].arguments)["messages"] if decision.dispatches else None
    return last.status, last.reason, sent


def test_a_prompt_becomes_the_first_message() -> None:
    d = driver(**PROMPT)
    status, _, sent = call(d, prompt="triage", variables={"role": "a clerk $x"}, messages=MESSAGES)
    assert status == "dispatched"
    assert sent == [{"role": "system", "content": "You are a clerk $x. It costs $5, a clerk $x."}, *MESSAGES]
    assert call(d, prompt="triage", variables={"role": 7})[2] == [
        {"role": "system", "content": "You are 7. It costs $5, 7."}
    ]


def test_its_name_and_digest_are_recorded() -> None:
    d = driver(**PROMPT)
    decision = d.call("triage", {"prompt": "triage", "variables": {"role": "x"}}, kind="model_call")
    facts = decision.outcomes[1].facts
    assert isinstance(facts, r.ChoiceFacts)
    assert (facts.prompt, len(facts.prompt_digest), facts.unversioned) == ("triage", 32, False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prompt": "triag"}, "unknown_prompt"),
        ({"prompt": 7}, "unknown_prompt"),
        ({"prompt": "triage"}, "prompt_variables"),
        ({"prompt": "triage", "variables": {"role": "x", "more": "y"}}, "prompt_variables"),
        ({"prompt": "triage", "variables": {"role": ["x"]}}, "prompt_variables"),
        ({"prompt": "triage", "variables": {"role": True}}, "prompt_variables"),
        ({"prompt": "triage", "variables": ["role"]}, "prompt_variables"),
        ({"prompt": "triage", "variables": {"role": "x" * 70_000}}, "prompt_variables"),
        ({"prompt": "triage", "variables": {"role": "x"}, "messages": "no"}, "schema_violation"),
        ({"messages": MESSAGES, "variables": {}}, "schema_violation"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: dict[str, object], reason: str) -> None:
    assert call(driver(**PROMPT), **arguments)[:2] == ("refused", reason)


def test_free_form_needs_a_permit() -> None:
    d = driver(**PROMPT)
    assert call(d, messages=SYSTEM)[:2] == ("refused", "unversioned_prompt")
    said = call(d, prompt="triage", variables={"role": "x"}, messages=SYSTEM)
    assert said[:2] == ("refused", "unversioned_prompt"), "a prompt does not wash the rest"
    assert call(d, messages=MESSAGES)[0] == "dispatched", "what is no system text needs none"
    free = PERMIT.replace("permit", '@unversioned("a test")\npermit')
    d = driver(policy=free, **PROMPT)
    decision = d.call("triage", {"messages": SYSTEM}, kind="model_call")
    facts = decision.outcomes[1].facts
    assert isinstance(facts, r.ChoiceFacts) and facts.unversioned


def test_a_policy_sees_the_prompt() -> None:
    only = PERMIT.replace(";", ' when { context.prompt.name == "triage" && !context.prompt.unversioned };')
    d = driver(policy=only, **PROMPT)
    assert call(d, prompt="triage", variables={"role": "x"})[0] == "dispatched"
    assert call(d, messages=MESSAGES)[:2] == ("refused", "no_permit")


def test_without_prompts_nothing_changes() -> None:
    d = driver()
    assert call(d, messages=SYSTEM)[0] == "dispatched"
    assert call(d, prompt="triage", messages=MESSAGES)[:2] == ("refused", "schema_violation")


@pytest.mark.parametrize(
    ("text", "words"), [("costs $5", "`$$`"), ("  \n", "is empty"), ("x" * 40_000, "more than")]
)
def test_a_prompt_that_cannot_be_rendered_is_found(text: str, words: str) -> None:
    _, findings = check_release(files(**{"prompts/bad.md": text}))
    assert [f for f in findings if f.rule == "prompt" and words in f.sentence and f.file == "prompts/bad.md"]
