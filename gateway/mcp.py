"""An MCP server (streamable HTTP): the tools an agent may ask for, called through the stages.

    POST   /mcp        JSON-RPC: initialize, ping, tools/list, tools/call
    DELETE /mcp        ends the session

`initialize` opens a governed session, whose name is the `Mcp-Session-Id`; any gateway serves it. The list has what Cedar's partial
evaluation leaves open for this agent; a call is decided when it is made. A refusal is a tool error whose text is for the model. A held
call answers `pending` with its id, and the tool `sluicegate_result` tells how it ended; or the person at the client is asked
(`mcp_elicit.py`). It begins no stream of its own: GET is 405, as the specification allows.
Source: Model Context Protocol 2025-06-18, transports. Never decides. Next: `processors/policy/may_ask.py`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Mapping
from typing import cast

import orjson
from aiohttp import web
from sluicegate.gateway import mcp_elicit
from sluicegate.gateway.access import Caller
from sluicegate.gateway.context import Gate, asked_by, asker_of, body_of, gate_of, session_of
from sluicegate.gateway.problems import JSON, problem
from sluicegate.processors.control.api_keys import AGENT
from sluicegate.processors.policy.may_ask import may_ask
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.kinds import MODEL
from sluicegate.streams.sdk.asking import valid_id
from sluicegate.streams.sdk.errors import NotReleased, Parked, Unanswered
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

PROTOCOLS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Newest first; a client that asks for another is answered the second, and may leave."""
SPOKEN = "MCP-Protocol-Version"
BEFORE = ("initialize", "server/discover")
"""Methods that are asked before a version is agreed on."""
SESSION = "Mcp-Session-Id"
PAGE = 200
"""Tools of one answer."""
RESULT_TOOL = "sluicegate_result"
CURSOR = re.compile(r"[0-9]{1,9}")
LOOPBACK = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
"""Origins of pages on this machine."""
CALL_LIMIT_S = 60.0
INTENT, HELD = "ai.sluicegate/intent", "ai.sluicegate/held"
"""Names in `_meta`."""
RESULT_WAIT_S = 20.0
_METHOD, _PARAMS = -32_601, -32_602

RESULT_DESCRIPTOR: dict[str, object] = {
    "name": RESULT_TOOL,
    "description": "How a call ended that was pending: it waited for a person, or the tool was still working on it.",
    "inputSchema": {
        "type": "object",
        "properties": {"intent_id": {"type": "string", "description": "as the pending call named it"}},
        "required": ["intent_id"],
        "additionalProperties": False,
    },
    "annotations": {"readOnlyHint": True},
}

Params = dict[str, Json]


class _Wrong(Terminal):
    """The protocol's own error, answered in its shape at once."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def add(app: web.Application) -> None:
    """Add the routes."""
    app[mcp_elicit.QUESTIONS] = mcp_elicit.Questions()
    app.add_routes([web.post("/mcp", _take), web.delete("/mcp", _end)])


async def _take(request: web.Request) -> web.StreamResponse:
    caller, body = await asked_by(request, AGENT), await body_of(request)
    _same_origin(request)
    method, ident = body.get("method"), body.get("id")
    if method not in BEFORE:
        _agreed(request)
    if method is None and ident is not None and ("result" in body or "error" in body):
        await mcp_elicit.take(request, caller.agent.agent_id, request.headers.get(SESSION, ""), body)
        return web.Response(status=202)
    if not isinstance(method, str) or body.get("jsonrpc") != "2.0":
        raise problem(400, "bad_request", "send one JSON-RPC 2.0 message")
    if ident is None:
        return web.Response(status=202)  # a notification
    params = body.get("params") or {}
    headers: dict[str, str] = {}
    try:
        if not isinstance(params, dict):
            raise _Wrong(_PARAMS, "`params` must be an object")
        if method == "tools/call":
            return await _called(request, caller, ident, params)
        result = await _answer(request, caller, method, params, headers)
    except _Wrong as error:
        return _rpc({"id": ident, "error": {"code": error.code, "message": str(error)}}, headers)
    return _rpc({"id": ident, "result": result}, headers)


def _agreed(request: web.Request) -> None:
    """Raise a problem for a version that `initialize` never answered: the specification asks for 400."""
    version = request.headers.get(SPOKEN)
    if version is not None and version not in PROTOCOLS:
        raise problem(
            400,
            "bad_request",
            f"`{SPOKEN}: {version[:40]}` is not one of {', '.join(PROTOCOLS)}: initialize anew",
        )


def _rpc(value: dict[str, object], headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps({"jsonrpc": "2.0", **value}), content_type=JSON, headers=headers)


def _same_origin(request: web.Request) -> None:
    """A page of a browser must not reach a gateway on its machine (DNS rebinding): the specification asks for this.

    That the page's host is the request's says nothing: whoever rebinds a name controls both.
    """
    origin = request.headers.get("Origin")
    if origin is None or origin in gate_of(request).origins:
        return
    # INVARIANT: a page of another host does not ask, whatever name it came by (tests/unit/test_gateway_mcp.py).
    if not (LOOPBACK.fullmatch(origin) and origin.partition("://")[2] == request.host):
        raise problem(
            403,
            "forbidden",
            f"origin `{origin[:80]}` may not ask here: list it in SLUICEGATE_GATEWAY_ORIGINS",
        )


async def _answer(
    request: web.Request, caller: Caller, method: str, params: Params, headers: dict[str, str]
) -> dict[str, object]:
    gate = gate_of(request)
    if method == "initialize":
        return await _begin(gate, caller, params, headers)
    if method == "ping":
        return {}
    if method == "tools/list":
        return await _list(gate, caller, params)
    raise _Wrong(_METHOD, f"`{method[:80]}` is not served here")


async def _begin(gate: Gate, caller: Caller, params: Params, headers: dict[str, str]) -> dict[str, object]:
    client = params.get("clientInfo")
    name = str(client.get("name", ""))[:100] if isinstance(client, dict) else ""
    begins = mcp_elicit.ASKING if mcp_elicit.declares(params) else "mcp-"
    session = await session_of(
        gate, caller, f"{begins}{uuid.uuid4().hex}", goal=f"mcp client {name}".strip(), new=True
    )
    headers[SESSION] = session.session_id
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in PROTOCOLS else PROTOCOLS[1],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "sluicegate", "title": f"Sluicegate, environment {gate.settings.env}", "version": gate.release.version},
        "instructions": "Every call is decided by policies. A refusal says what to do; do not repeat a refused call unchanged. "
        f"A call that is pending waits for a person: ask `{RESULT_TOOL}` for its end.",
    }  # fmt: skip


async def _list(gate: Gate, caller: Caller, params: Params) -> dict[str, object]:
    release = gate.release
    contracts = await gate.contracts(release.digest)
    names = [
        n for n in may_ask(gate.control, release, caller.agent) if release.tools[n].executor_kind != MODEL
    ]
    cursor = params.get("cursor", "0")
    if not isinstance(cursor, str) or not CURSOR.fullmatch(cursor):
        raise _Wrong(_PARAMS, "`cursor` is none of ours")
    start = int(cursor)
    tools = [
        _described(contracts[n], release.tools[n].tool_class)
        for n in names[start : start + PAGE]
        if n in contracts
    ]
    more = {"nextCursor": str(start + PAGE)} if start + PAGE < len(names) else {}
    return {"tools": [*tools, *([RESULT_DESCRIPTOR] if not more else [])], **more}


def _described(contract: Params, tool_class: str) -> dict[str, object]:
    """A contract as MCP has it. Its `outputSchema` is left out: a pending call answers in another shape."""
    shown: dict[str, object] = {
        k: contract[k] for k in ("name", "title", "description", "inputSchema") if k in contract
    }
    shown["annotations"] = {
        "readOnlyHint": tool_class == "read_only",
        "destructiveHint": tool_class == "irreversible",
        "idempotentHint": tool_class in ("read_only", "idempotent"),
    }
    return shown


async def _called(request: web.Request, caller: Caller, ident: Json, params: Params) -> web.StreamResponse:
    """Answer a call; where it is held and there is a person to ask, by a stream in which they are asked."""
    gate, session_id = gate_of(request), request.headers.get(SESSION, "")
    result = await _call(request, gate, caller, params)
    meta = cast("dict[str, object]", result["_meta"])
    if HELD not in meta or not mcp_elicit.may_ask(request, session_id):
        return _rpc({"id": ident, "result": result}, {})
    intent_id = str(meta[INTENT])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    word = await mcp_elicit.ask(request, response, gate, caller.agent.agent_id, session_id, intent_id)
    if word.word != "pending":
        asker = await asker_of(gate, caller)
        result = await _told(
            intent_id, asker.result(intent_id, CALL_LIMIT_S if word.word == "approved" else 1.0)
        )
    await mcp_elicit.event(response, {"jsonrpc": "2.0", "id": ident, "result": result})
    await response.write_eof()
    return response


async def _call(request: web.Request, gate: Gate, caller: Caller, params: Params) -> dict[str, object]:
    name, arguments = params.get("name"), params.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise _Wrong(_PARAMS, "`name` must be a text and `arguments` an object")
    if name == RESULT_TOOL:
        intent_id = str(arguments.get("intent_id", ""))
        asker = await asker_of(gate, caller)
        return await _told(intent_id, asker.result(valid_id(intent_id), RESULT_WAIT_S), asked=False)
    session_id = request.headers.get(SESSION, "")
    if not session_id:
        raise problem(400, "bad_request", f"send the `{SESSION}` that `initialize` answered")
    intent_id = uuid.uuid4().hex
    session = await session_of(gate, caller, session_id)
    trace = request.headers.get("traceparent", "")[:100]
    return await _told(
        intent_id,
        session.call_tool(name, arguments, timeout_s=CALL_LIMIT_S, intent_id=intent_id, traceparent=trace),
    )


async def _told(intent_id: str, asking: Awaitable[Json | Held], *, asked: bool = True) -> dict[str, object]:
    """A result, a pending call, or a refusal, as the result of a tool. `asked`: it is known that there is such a call."""
    meta = {INTENT: intent_id}
    try:
        answer = await asking
    except NotReleased as error:
        # INVARIANT: an id that nobody asked is not told to be pending (tests/unit/test_gateway_mcp.py).
        if isinstance(error, Parked) or (asked and isinstance(error, Unanswered)):
            return _pending(intent_id, error.for_model or "It is not done yet.", meta)
        if error.reason == "unknown_session":
            raise problem(404, "unknown_session", "the session ended: initialize again") from error
        about = {
            "status": error.status,
            "reason": error.reason,
            "stage": error.stage,
            "policies": list(error.policies),
        }
        return {
            "content": [{"type": "text", "text": error.for_model or str(error)}], "isError": True,
            "_meta": {**meta, "ai.sluicegate/refusal": about, "ai.sluicegate/developer": error.for_developer},
        }  # fmt: skip
    if isinstance(answer, Held):
        return _pending(intent_id, answer.for_model or "A person has to agree first.", {**meta, HELD: True})
    text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
    content: dict[str, object] = {
        "content": [{"type": "text", "text": text}],
        "isError": False,
        "_meta": meta,
    }
    if isinstance(answer, dict):
        content["structuredContent"] = answer
    return content


def _pending(intent_id: str, said: str, meta: Mapping[str, object]) -> dict[str, object]:
    text = f"{said} Pending: ask `{RESULT_TOOL}` with intent_id `{intent_id}`."
    return {
        "content": [{"type": "text", "text": text}], "isError": False,
        "structuredContent": {"status": "pending", "intent_id": intent_id}, "_meta": meta,
    }  # fmt: skip


async def _end(request: web.Request) -> web.Response:
    caller = await asked_by(request, AGENT)
    session_id = request.headers.get(SESSION, "")
    if session_id:
        session = await session_of(gate_of(request), caller, valid_id(session_id))
        await session.close()
    return web.Response(status=204)
