"""May it: the AuthZEN decision API over the same policies, for those who only want to ask.

    POST /access/v1/evaluation      {subject: {type, id}, action: {name: TOOL}, resource: {type, id}, context: {arguments, ...}}
    POST /access/v1/evaluations     {evaluations: [...]}, what they lack stands beside them; options.evaluations_semantic: where to stop

What a worker would say to such a call in a session of its own, under the control and release of this moment; nothing is
recorded and nothing happens. `context`: `arguments`, `said`, `goal`, `task`, `on_behalf_of`. A call that people have to agree to is
no: `context.status` of the answer is `hold`. Source: OpenID AuthZEN Authorization API 1.0. Next: `processors/releases/rehearsal.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from sluicegate.gateway.access import Caller
from sluicegate.gateway.context import Gate, asked_by, body_of, gate_of
from sluicegate.gateway.doors import said
from sluicegate.gateway.problems import MAX_SHOWN_CHARS, problem
from sluicegate.processors.control.api_keys import AGENT
from sluicegate.processors.releases.rehearsal import ask
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.json import Json

MAX_EVALUATIONS = 100
"""In one request: about 0.5 ms each, 50 ms of the event loop."""
SUBJECTS = ("agent", "")
STOPS: Mapping[str, bool | None] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
"""`evaluations_semantic` -> the decision after which nothing more is asked."""

Body = Mapping[str, Json]


def add(app: web.Application) -> None:
    """Add the routes."""
    app.add_routes([web.post("/access/v1/evaluation", _one), web.post("/access/v1/evaluations", _many)])


async def _one(request: web.Request) -> web.Response:
    gate, caller = gate_of(request), await asked_by(request, AGENT)
    return said(_evaluate(gate, caller, await body_of(request)))


async def _many(request: web.Request) -> web.Response:
    gate, caller, body = gate_of(request), await asked_by(request, AGENT), await body_of(request)
    rows = body.get("evaluations")
    if not isinstance(rows, list) or not rows:
        return said(_evaluate(gate, caller, body))
    if len(rows) > MAX_EVALUATIONS:
        raise problem(400, "too_large", f"at most {MAX_EVALUATIONS} evaluations in one request")
    common: dict[str, Json] = {
        name: body[name] for name in ("subject", "action", "resource", "context") if name in body
    }
    semantic = _object(body.get("options", {}), "options").get("evaluations_semantic", "execute_all")
    if not isinstance(semantic, str) or semantic not in STOPS:
        raise problem(400, "bad_request", f"`evaluations_semantic` is one of {', '.join(STOPS)}")
    found: list[dict[str, object]] = []
    for row in rows:
        found.append(_evaluate(gate, caller, {**common, **_object(row, "evaluations")}))
        if found[-1]["decision"] is STOPS[semantic]:
            break
    return said({"evaluations": found})


def _evaluate(gate: Gate, caller: Caller, body: Body) -> dict[str, object]:
    subject, action, resource, context = (
        _object(body.get(name, {}), name) for name in ("subject", "action", "resource", "context")
    )
    if (
        subject.get("type", "") not in SUBJECTS
        or subject.get("id", caller.agent.agent_id) != caller.agent.agent_id
    ):
        raise problem(403, "other_agent", f"the key asks for agent `{caller.agent.agent_id}` only")
    tool = action.get("name")
    if not isinstance(tool, str) or not tool:
        raise problem(400, "bad_request", "`action.name` must be the name of a tool")
    if resource.get("type") == "tool" and resource.get("id", tool) != tool:
        # An answer about one tool must not be read as one about the other.
        given = str(resource["id"])[:MAX_SHOWN_CHARS]
        raise problem(
            400,
            "bad_request",
            f"`resource.id` is `{given}`: `action.name` is the tool, name it in both or leave `resource` out",
        )
    lines = context.get("said", [])
    verdict = ask(
        gate.release, caller.agent, tool, client_json.dumps(_object(context.get("arguments", {}), "arguments")),
        control=gate.control, said=[str(line) for line in lines] if isinstance(lines, list) else [str(lines)],
        goal=str(context.get("goal", "")), on_behalf_of=str(context.get("on_behalf_of", "")),
        task=_object(context["task"], "task") if "task" in context else None,
    )  # fmt: skip
    return {
        "decision": verdict.status == "permit",
        "context": {
            "status": verdict.status, "stage": verdict.stage, "reason": verdict.reason, "policies": list(verdict.policies),
            "reason_admin": {"en": verdict.for_developer}, "reason_user": {"en": verdict.for_model},
            "release": gate.release.digest, "control_head": gate.control.head,
        },
    }  # fmt: skip


def _object(value: Json, name: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise problem(400, "bad_request", f"`{name}` must be an object")
    return value
