"""Which tools MCP lists for an agent: those of which something could be permitted."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.may_ask import may_ask
from sluicegate.processors.releases.release import compile_release

OPEN = '@id("open") permit (principal in Role::"desk", action, resource);'
SCOPES = (
    'action == Action::"till.pay"',
    'action in [Action::"till.pay", Action::"till.none"]',
    'action in Action::"till.pay"',
    'action in [Action::"till.none"]',
)


def _listed(policies: str) -> list[str]:
    contract = {
        "inputSchema": {"type": "object", "properties": {"value": {"type": "string"}}},
        "x-sluicegate": {"version": "1", "class": "read_only", "executor": {"kind": "in_process"}},
    }
    tools = ("till.none", "till.pay", "till.read")
    files = {
        f"contracts/{n}.json": json.dumps({"name": n, "description": "A tool.", **contract}) for n in tools
    }
    files |= {"release.yaml": 'name: till\nversion: "1"\nroles: [desk]\n', "policies/till.cedar": policies}
    agent = Agent("desk-1", "default", "", ("desk",))
    return may_ask(Control(), compile_release(files), agent)


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_always_forbidden_is_not_listed_however_its_scope_is_written(scope: str) -> None:
    gone = {name for name in ("till.pay", "till.none") if f'"{name}"' in scope}
    listed = _listed(f'{OPEN}\n@id("shut") forbid (principal, {scope}, resource);')
    assert set(listed) == {"till.none", "till.pay", "till.read"} - gone
    when = 'when { context.args has value && context.args.value == "no" }'
    sometimes = _listed(f'{OPEN}\n@id("shut") forbid (principal, {scope}, resource) {when};')
    assert set(sometimes) == {"till.none", "till.pay", "till.read"}


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_permitted_is_listed_however_its_scope_is_written(scope: str) -> None:
    named = {name for name in ("till.pay", "till.none") if f'"{name}"' in scope}
    for when in ("", 'when { context.args has value && context.args.value == "yes" }'):
        listed = _listed(f'@id("some") permit (principal in Role::"desk", {scope}, resource) {when};')
        assert set(listed) == named
