"""Which tools an agent may ask for at all: Cedar's partial evaluation, with the whole context unknown.

A tool is left out only when nothing the agent could say in a call of it would be permitted, now or after people agreed. What is in
the list is not permitted yet: every call is decided when it is made. Pure.
Next: `policy/cedar.py`, `gateway/mcp.py` and `gateway/model_calls.py` (who list).
Source: Cedar's `is_authorized_partial`, https://docs.rs/cedar-policy (feature `partial-eval`, experimental upstream: it is used
for what is shown, never for what is decided).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import cedarpy
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.modes import OBSERVE, mode_for
from sluicegate.processors.policy.cedar import Handle, entities_for, slice_for
from sluicegate.processors.releases.release import CompiledRelease

_FALSE = {"Value": False}


def may_ask(control: Control, release: CompiledRelease, agent: Agent) -> list[str]:
    """Names of tools, in the release's order. About 50 µs a tool."""
    modes = tuple((name, mode) for (scope, name), mode in control.modes.items() if scope == "policy")
    found: list[str] = []
    for name, tool in release.tools.items():
        cut = slice_for(release.book, agent.roles, name, modes, agent.agent_id)
        handle = cut.relaxed or cut.enforced
        resources = [way.tool.name for way in tool.route.ways] if tool.route is not None else [name]
        observed = mode_for(control, agent.agent_id, name) == OBSERVE
        if observed or any(_possible(handle, release, agent, name, r, tool.tool_class) for r in resources):
            found.append(name)
    return found


def _possible(
    handle: Handle, release: CompiledRelease, agent: Agent, tool: str, resource: str, tool_class: str
) -> bool:
    # Partial evaluation takes an entity it was not given for unknown: `action in [...]` would decide nothing.
    action = [{"uid": {"type": "Action", "id": tool}, "attrs": {}, "parents": []}]
    entities = entities_for(release.book, agent, resource, tool_class).with_added_json_str(json.dumps(action))
    request = {
        "principal": f"Agent::{json.dumps(agent.agent_id)}",
        "action": f"Action::{json.dumps(tool)}",
        "resource": f"Tool::{json.dumps(resource)}",
    }
    answer = cedarpy.is_authorized_partial(request, handle.parsed, entities)
    if answer.decision != cedarpy.Decision.NoDecision:
        return bool(answer.decision == cedarpy.Decision.Allow)
    # Without a permit among what is left, nothing that a call says could permit it.
    left = cast("dict[str, dict[str, object]]", answer.residuals)
    return any(one["effect"] == "permit" and not _never(one) for one in left.values())


def _never(residual: Mapping[str, object]) -> bool:
    """Whether what is left of a policy is false already."""
    return any(part.get("body") == _FALSE for part in cast("list[dict[str, object]]", residual["conditions"]))
