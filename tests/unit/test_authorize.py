"""Authorize: default deny, forbid wins, an error refuses, and refusals name the nearest permit."""

import json

import pytest
from sluicegate.processors import conform
from sluicegate.processors.control.control import Agent
from sluicegate.processors.policy import cedar
from sluicegate.processors.policy.explain import nearest_permit
from sluicegate.processors.policy.files import parse_policies
from sluicegate.processors.releases.release import compile_release

SCHEMA = {
    "type": "object",
    "properties": {"amount": {"type": "number"}, "n": {"type": "integer"}, "to": {"type": "string"}},
}
CONTRACT = {
    "name": "pay",
    "inputSchema": SCHEMA,
    "x-sluicegate": {"class": "irreversible", "executor": {"kind": "http", "url": "http://tool/"}},
}
AGENT = Agent("a", "t", "team", ("clerk",))


def verdict(policies: str, args: bytes, *, agent: Agent = AGENT) -> tuple[cedar.Verdict, str]:
    files = {
        "release.yaml": "name: r\nversion: '1'\n",
        "contracts/pay.json": json.dumps(CONTRACT),
        "policies/p.cedar": policies,
    }
    # Not checked against the contract: what follows is about policies that err all the same.
    release = compile_release(files, proven=True)
    tool = release.tools["pay"]
    found = conform.conform(tool.validator, tool.typer, args)
    assert isinstance(found, conform.Conformed), found
    cut = cedar.slice_for(release.book, agent.roles, "pay", (), agent.agent_id)
    entities = cedar.entities_for(release.book, agent, "pay", tool.tool_class)
    request = cedar.request_of(agent, "pay", {"args": found.cedar, "environment": "dev"})
    return cedar.evaluate(cut.enforced, entities, request), nearest_permit(cut, entities, request, found.args)


SMALL = '@id("refund-small") permit(principal in Role::"clerk", action == Action::"pay", resource) '
SMALL += 'when { context.args.amount.lessThanOrEqual(decimal("100.0")) };'


def test_default_deny() -> None:
    answer, near = verdict('@id("x") forbid(principal, action == Action::"other", resource);', b"{}")
    assert (answer.allowed, answer.policies, answer.error, near) == (False, [], "", "")


def test_the_determining_policies_are_recorded() -> None:
    answer, _ = verdict(SMALL, b'{"amount":100}')
    assert (answer.allowed, answer.policies) == (True, ["refund-small"])


def test_the_nearest_permit_is_named() -> None:
    answer, near = verdict(SMALL, b'{"amount":250}')
    assert not answer.allowed
    assert near == "`refund-small` fails on `amount <= 100`, got 250"


def test_forbid_wins() -> None:
    answer, _ = verdict(SMALL + '@id("no") forbid(principal, action, resource);', b'{"amount":1}')
    assert (answer.allowed, answer.policies) == (False, ["no"])


def test_erring_forbid_never_permits() -> None:
    policies = '@id("all") permit(principal, action, resource);'
    policies += '@id("cap") forbid(principal, action, resource) when { context.args.n > 100 };'
    answer, _ = verdict(policies, b"{}")  # no `n`: Cedar skips the forbid and would allow
    assert not answer.allowed
    assert answer.error


def test_a_number_as_text_never_reaches_a_policy() -> None:
    release = compile_release(
        {
            "release.yaml": "name: r\nversion: '1'\n",
            "contracts/pay.json": json.dumps(CONTRACT),
            "policies/p.cedar": SMALL,
        },
        proven=True,
    )
    tool = release.tools["pay"]
    found = conform.conform(tool.validator, tool.typer, b'{"amount":"5000"}')
    assert isinstance(found, conform.Misfit)
    assert found.reason == "schema_violation"


def test_roles_outside_the_slice_get_nothing() -> None:
    answer, near = verdict(SMALL, b'{"amount":1}', agent=Agent("b", "t", "team", ("guest",)))
    assert (answer.allowed, near) == (False, "")


def test_a_policy_for_one_agent_is_in_its_slices_only() -> None:
    policies = "".join(
        f'@id("p{n}") permit (principal == Agent::"a{n}", action, resource);' for n in range(50)
    )
    policies += '@id("no") forbid (principal == Agent::"a1", action, resource);'
    for agent_id, said in (("a0", (True, ["p0"])), ("a1", (False, ["no"])), ("other", (False, []))):
        answer, _ = verdict(policies, b"{}", agent=Agent(agent_id, "t", "team", ()))
        assert (answer.allowed, answer.policies) == said
    book = parse_policies({"p": policies})
    assert len(cedar.slice_for(book, (), "pay", (), "a1").policies) == 2
    assert cedar.slice_for(book, (), "pay", (), "x") is cedar.slice_for(book, (), "pay", (), "y")


@pytest.mark.parametrize(
    ("policy", "others_too"),
    [
        ('permit (principal in Role::"clerk", action, resource);', True),
        ('permit (principal, action, resource) when { context.environment == "dev" };', True),
        ('permit (principal == Agent::"a", action, resource);', False),
        ('permit (principal in Agent::"a", action, resource);', False),
        ('permit (principal is Agent in Agent::"a", action, resource);', False),
        ('permit (principal, action, resource) when { principal.team == "red" };', False),
        (
            'permit (principal, action, resource) when { principal has team && principal.team like "r*" };',
            False,
        ),
        ('permit (principal, action, resource) when { [principal].contains(Agent::"a") };', False),
        (
            'permit (principal, action, resource) when { if principal in Agent::"a" then true else false };',
            False,
        ),
    ],
)
def test_agents_share_an_answer_unless_a_condition_tells_them_apart(policy: str, others_too: bool) -> None:
    book = parse_policies({"p": f'@id("p") {policy}'})
    for agent, allowed in (
        (Agent("a", "t", "red", ("clerk",)), True),
        (Agent("b", "t", "blue", ("clerk",)), others_too),
        (Agent("c", "t", "blue", ()), others_too and "Role" not in policy),
    ):
        cut = cedar.slice_for(book, agent.roles, "pay", (), agent.agent_id)
        entities = cedar.entities_for(book, agent, "pay", "read_only")
        request = cedar.request_of(agent, "pay", {"environment": "dev"})
        assert cedar.evaluate(cut.enforced, entities, request).allowed is allowed, agent.agent_id


def test_a_shared_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    book = parse_policies({"p": '@id("p") permit (principal in Role::"clerk", action, resource);'})
    asked: list[str] = []
    real = cedar._evaluate
    monkeypatch.setattr(cedar, "_evaluate", lambda *args: asked.append("") or real(*args))
    for n in range(5):
        agent = Agent(f"a{n}", "t", "red", ("clerk",))
        cut = cedar.slice_for(book, agent.roles, "pay", (), agent.agent_id)
        request = cedar.request_of(agent, "pay", {})
        assert cedar.evaluate(
            cut.enforced, cedar.entities_for(book, agent, "pay", "read_only"), request
        ).allowed
    assert len(asked) == 1
