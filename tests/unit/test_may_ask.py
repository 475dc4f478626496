"""Which tools MCP, and which models OpenAI's door, list for an agent: those of which something could be permitted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import orjson
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway import openai
from sluicegate.gateway.context import GATE
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.may_ask import may_ask
from sluicegate.processors.releases.release import compile_release

from tests.driver import release_files
from tests.model_release import CONTRACT
from tests.unit.test_gateway_access import TOKEN, a_gate, control_with_key

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


def test_models_that_an_agent_may_never_ask_are_not_listed(tmp_path: Path) -> None:
    """A route is listed while one of its candidates may be asked."""
    routes = {"any": ["model.small", "model.large"], "big": ["model.large"]}
    models = {alias: {"candidates": [{"contract": c} for c in names]} for alias, names in routes.items()}
    actions = ", ".join(f'Action::"{name}"' for name in ("model.small", "model.large", *routes))
    files = release_files()
    files |= {
        "release.yaml": files["release.yaml"] + yaml.safe_dump({"models": models}),
        "policies/models.cedar": f'@id("use") permit (principal, action in [{actions}], resource);'
        '@id("no-large") forbid (principal, action, resource == Tool::"model.large");',
    }
    files |= {
        f"contracts/{n}.json": json.dumps({**CONTRACT, "name": n}) for n in ("model.small", "model.large")
    }
    driver, app = control_with_key(), web.Application()
    driver.deploy(compile_release(files))
    app[GATE] = a_gate(driver, tmp_path)
    answer = asyncio.run(
        openai._models(make_mocked_request("GET", "/v1/models", headers={"x-api-key": TOKEN}, app=app))
    )
    assert {row["id"] for row in orjson.loads(answer.body)["data"]} == {"any", "model.small"}  # type: ignore[arg-type]
