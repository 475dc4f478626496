"""The plain doors: sessions, what the user said, intents, and how they ended.

    POST   /v1/sessions                     open one: {goal, task, on_behalf_of, on_behalf_token, subject, session_id}
    POST   /v1/sessions/{id}/messages       the user said: {text}
    DELETE /v1/sessions/{id}                close it
    POST   /v1/intents                      {session_id, tool | model, arguments, intent_id, timeout_s, wait}
    GET    /v1/intents/{id}                 how it ended, also after a restart of anybody: ?wait_s=
    GET    /healthz, /openapi.json

A result is 200, a held call 202, everything else a problem (`problems.py`). Never decides. Next: `events.py`.
"""

from __future__ import annotations

import uuid

import orjson
from aiohttp import web
from sluicegate.gateway import openapi
from sluicegate.gateway.context import asked_by, asker_of, body_of, gate_of, seconds_in, session_of, text_in
from sluicegate.gateway.problems import JSON, problem
from sluicegate.gateway.repeats import once
from sluicegate.processors.control.api_keys import AGENT, CHANNEL
from sluicegate.schemas.kinds import MODEL_CALL, TOOL_CALL
from sluicegate.streams.sdk.asking import valid_id
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import BEGIN_S


def add(app: web.Application) -> None:
    """Add the routes."""
    app.add_routes(
        [
            web.post("/v1/sessions", _open),
            web.post("/v1/sessions/{session_id}/messages", _said),
            web.delete("/v1/sessions/{session_id}", _close),
            web.post("/v1/intents", _ask),
            web.get("/v1/intents/{intent_id}", _result),
            web.get("/healthz", _health),
            web.get("/openapi.json", _document),
        ]
    )


def said(value: object, status: int = 200, **headers: str) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(value), content_type=JSON, headers=headers)


def outcome(intent_id: str, answer: Json | Held) -> web.Response:
    """What an intent came to: its result, or that it waits for a person."""
    if isinstance(answer, Held):
        waiting = {
            "intent_id": intent_id, "status": "held", "policies": list(answer.policies), "for_developer": answer.why,
            "for_model": answer.for_model,
        }  # fmt: skip
        return said(waiting, 202, Location=f"/v1/intents/{intent_id}")
    return said({"intent_id": intent_id, "status": "released", "result": answer})


async def _open(request: web.Request) -> web.Response:
    caller, body = await asked_by(request, AGENT), await body_of(request)
    named = {name: text_in(body, name) for name in ("on_behalf_of", "on_behalf_token", "subject")}
    if any(named.values()):
        caller.needs(CHANNEL)
    task = body.get("task")
    if task is not None and not isinstance(task, dict):
        raise problem(400, "bad_request", "`task` must be an object")
    step = once(request, "session", body)
    session_id = text_in(body, "session_id") or (step.ident if step.request else uuid.uuid4().hex)
    session = await session_of(
        gate_of(request), caller, session_id, goal=text_in(body, "goal"), on_behalf_of=named["on_behalf_of"],
        subject=named["subject"], token=named["on_behalf_token"], new=True, once=step, task=task,
    )  # fmt: skip
    return said({"session_id": session.session_id, "agent_id": caller.agent.agent_id}, 201)


async def _said(request: web.Request) -> web.Response:
    caller, body = await asked_by(request, CHANNEL), await body_of(request)
    session_id, text = request.match_info["session_id"], text_in(body, "text", needed=True)
    step = once(request, "message", {"text": text, "session_id": session_id})
    session = await session_of(gate_of(request), caller, session_id, speaks=True)
    await session.user_said(text, once=step)
    return said({"session_id": session.session_id, "status": "heard"})


async def _close(request: web.Request) -> web.Response:
    caller = await asked_by(request, AGENT)
    session = await session_of(gate_of(request), caller, request.match_info["session_id"])
    await session.close()
    return said({"session_id": session.session_id, "status": "closed"})


async def _ask(request: web.Request) -> web.Response:
    caller, body = await asked_by(request, AGENT), await body_of(request)
    agent = text_in(body, "agent_id")
    if agent and agent != caller.agent.agent_id:
        raise problem(
            403, "other_agent", f"the key is of agent `{caller.agent.agent_id}`, not of `{agent[:80]}`"
        )
    tool, model = text_in(body, "tool"), text_in(body, "model")
    if bool(tool) == bool(model):
        raise problem(400, "bad_request", "name one: `tool` or `model`")
    arguments = body.get("arguments", {})
    if not isinstance(arguments, dict):
        raise problem(400, "bad_request", "`arguments` must be an object")
    wait = body.get("wait", True)
    step = once(request, "intent", body, text_in(body, "intent_id"))
    intent_id = step.ident
    session_id = valid_id(text_in(body, "session_id", needed=True))
    asker = await asker_of(gate_of(request), caller)
    if wait is False:
        begin_s = seconds_in(body.get("timeout_s"), BEGIN_S)
        await asker.submit(session_id, tool or model, arguments, begin_s, intent_id, begin_s, step.request)
        return said({"intent_id": intent_id, "status": "published"}, 202, Location=f"/v1/intents/{intent_id}")
    answer = await asker.call_tool(
        session_id, tool or model, arguments, seconds_in(body.get("timeout_s")), intent_id,
        request.headers.get("traceparent", "")[:100], None, MODEL_CALL if model else TOOL_CALL,
        step.request,
    )  # fmt: skip
    return outcome(intent_id, answer)


async def _result(request: web.Request) -> web.Response:
    caller = await asked_by(request, AGENT)
    intent_id = valid_id(request.match_info["intent_id"])
    asker = await asker_of(gate_of(request), caller)
    return outcome(intent_id, await asker.result(intent_id, seconds_in(request.query.get("wait_s"), 1.0)))


async def _health(request: web.Request) -> web.Response:
    gate = gate_of(request)
    wrong = "it stops" if gate.closing else "kafka does not answer" if gate.hub.stuck else ""
    wrong = wrong or ("control cannot be confirmed" if gate.control_log.stale else "")
    return said({"alive": not wrong, "problem": wrong}, 503 if wrong else 200)


async def _document(request: web.Request) -> web.Response:
    return said(openapi.document(gate_of(request).settings.env))
