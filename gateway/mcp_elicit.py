"""A held call of MCP asked of the person at the client: elicitation, in the stream that answers the call.

Only where the client declares it, and where a person's token stands beside the key (`people.py`): whoever is asked is that person, their
word is a review like any other, and the ledger decides what it counts. An agent's client without a person is told `pending`.
The question is known to the process that asked it; an answer that comes to another gateway is lost, and the call stays pending.
Never decides, never approves for anybody. Next: `mcp.py`, `approvals.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import orjson
from aiohttp import web
from sluicegate.gateway.approvals import HELD, came_of
from sluicegate.gateway.context import Gate
from sluicegate.gateway.people import TOKEN, Reviewer, reviewer_of
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Review
from sluicegate.streams.inspect.pending import Pending
from sluicegate.streams.sdk.json import Json

LIMIT_S = 300.0
"""For the person to answer."""
BEAT_S = 15.0
FOLLOW_S = 30.0
MAX_QUESTIONS = 1_000
"""Open at a time in one process, about 5 kB each."""
MAX_SHOWN_CHARS = 4_000
"""Of the arguments in a question; a longer call is not asked in this way, since it cannot be shown whole."""
ASKING = "mcp-e-"
"""How the session of a client that declares elicitation begins: any gateway sees it by the name."""

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "decision": {
            "type": "string",
            "title": "Decision",
            "enum": ["approve", "reject", "later"],
            "default": "later",
        },
        "why": {"type": "string", "title": "Why", "maxLength": 500},
    },
    "required": ["decision"],
}

Answer = tuple[str, Mapping[str, Json]]
"""Who answered, and what."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a person said, and what became of it: `approved`, `rejected`, or anything else, in which case it stays pending."""

    word: str
    why: str = ""


class Questions:
    """Those that wait for an answer."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def one(self, agent_id: str, session_id: str, ident: str) -> Iterator[asyncio.Future[Answer]]:
        """Wait for an answer while the block runs."""
        name = (agent_id, session_id, ident)
        self._open[name] = asyncio.get_running_loop().create_future()
        try:
            yield self._open[name]
        finally:
            del self._open[name]

    def answered(
        self, agent_id: str, session_id: str, ident: str, who: str, result: Mapping[str, Json]
    ) -> None:
        """The client says what its person answered; to a question that nobody asked here nothing happens."""
        # INVARIANT: only the agent and the session that were asked answer (tests/unit/test_gateway_elicit.py).
        waiting = self._open.get((agent_id, session_id, ident))
        if waiting is not None and not waiting.done():
            waiting.set_result((who, result))


QUESTIONS: web.AppKey[Questions] = web.AppKey("questions", Questions)


def declares(params: Mapping[str, Json]) -> bool:
    """Whether a client that begins can ask its person, by a form."""
    can = params.get("capabilities")
    found = can.get("elicitation") if isinstance(can, dict) else None
    return isinstance(found, dict) and (not found or "form" in found)


def may_ask(request: web.Request, session_id: str) -> bool:
    """Whether this call can be asked of a person."""
    streams = "text/event-stream" in request.headers.get("Accept", "")
    room = len(request.app[QUESTIONS]) < MAX_QUESTIONS
    return session_id.startswith(ASKING) and streams and room and TOKEN in request.headers


async def take(request: web.Request, agent_id: str, session_id: str, body: Mapping[str, Json]) -> None:
    """A response of the client. Raises a problem when no person stands behind it."""
    result = body.get("result")
    if not isinstance(result, dict) or TOKEN not in request.headers:
        return
    who = (await reviewer_of(request)).person.person_id
    request.app[QUESTIONS].answered(agent_id, session_id, str(body.get("id")), who, result)


async def ask(request: web.Request, response: web.StreamResponse, gate: Gate, agent_id: str, session_id: str, intent_id: str) -> Word:  # fmt: skip
    """Ask the person at the client about a held call, and send their word. Never raises for what the client says."""
    try:
        reviewer = await reviewer_of(request)
        held = request.app[HELD]
        found = [
            e
            for e, _ in await held.named(intent_id)
            if e.agent_id == agent_id and reviewer.sees(e.tenant, tuple(e.reviewers))
        ]
        if not found:
            return Word("pending")
        shown = await held.show(found[0], session=False)
    except (SluicegateError, web.HTTPException):
        return Word("pending")
    if not shown.exact or len(shown.arguments) > MAX_SHOWN_CHARS:
        return Word("pending")
    ident = f"ask-{uuid.uuid4().hex}"
    with request.app[QUESTIONS].one(agent_id, session_id, ident) as waiting:
        params = {"mode": "form", "message": question(shown), "requestedSchema": SCHEMA}
        await event(
            response, {"jsonrpc": "2.0", "id": ident, "method": "elicitation/create", "params": params}
        )
        answer = await _answer(response, waiting)
    if answer is None or answer[0] != reviewer.person.person_id:
        return Word("pending")
    return await _said(request, reviewer, shown, answer[1])


def question(shown: Pending) -> str:
    """What the person is asked: the exact bytes, nothing that a model summed up."""
    e = shown.entry
    return (
        f"{e.agent_id} asks for {e.tool} ({e.tool_class}): {shown.why}. Arguments, exactly: {shown.arguments.decode('utf-8', 'replace')} "
        f"Digest {e.action_digest.hex()}. Agreed so far: {len(e.approvals)} of {e.quorum}."
    )


async def _answer(response: web.StreamResponse, waiting: asyncio.Future[Answer]) -> Answer | None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, _ = await asyncio.wait([waiting], timeout=BEAT_S)
        if done:
            return waiting.result()
        await response.write(b": a person is asked\n\n")
    return None


async def _said(request: web.Request, reviewer: Reviewer, shown: Pending, result: Mapping[str, Json]) -> Word:
    content = result.get("content")
    chosen = content if isinstance(content, dict) and result.get("action") == "accept" else {}
    decision, why = chosen.get("decision"), str(chosen.get("why") or "")[:500]
    if decision not in ("approve", "reject"):
        return Word("pending")
    e = shown.entry
    review = Review(
        uuid.uuid4().hex, e.agent_id, e.intent_id, str(decision), e.action_digest, reviewer.person.person_id,
        time.time_ns() // 1000, why or "asked at the client", e.hold_release,
    )  # fmt: skip
    try:
        _, told = came_of(review, await request.app[HELD].send(review, FOLLOW_S))
    except SluicegateError:
        return Word("pending")
    return Word(str(told["word"]), str(cast("dict[str, object]", told.get("error") or {}).get("code", "")))


async def event(response: web.StreamResponse, message: Mapping[str, object]) -> None:
    """One JSON-RPC message in a stream."""
    await response.write(b"event: message\ndata: " + orjson.dumps(message) + b"\n\n")
