"""What happens in a session, as it happens: server-sent events, one for each reply, that a client can take up again.

    GET /v1/sessions/{id}/events         Last-Event-ID: PARTITION-OFFSET of the last one seen

What is kept (one day) is told first from there on, then what comes. A client that reads too slowly is cut off and comes back; one
whose key or agent was stopped is cut off, too, at the next event or beat.
INVARIANT: only replies of the key's own agent, and of this session (tests/integration/test_gateway.py).
Never decides, never keeps. Next: `hub.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

import orjson
from aiohttp import web
from sluicegate.gateway.access import stands
from sluicegate.gateway.context import asked_by, gate_of
from sluicegate.gateway.problems import problem
from sluicegate.processors.api_keys import AGENT
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Reply
from sluicegate.streams.asking import valid_id

MAX_STREAMS = 5_000
"""Open at a time in one process, about 20 kB each: 100 MB."""
MAX_QUEUED = 256
"""Events that wait for one client, 64 kB of result each at the most."""
BEAT_S = 15.0
"""A comment when nothing happens, so that proxies keep the connection and a dead one is found."""
_PLACE = re.compile(r"(\d{1,9})-(\d{1,18})")


def add(app: web.Application) -> None:
    """Add the route."""
    app.add_routes([web.get("/v1/sessions/{session_id}/events", _events)])


async def _events(request: web.Request) -> web.StreamResponse:
    gate, caller = gate_of(request), asked_by(request, AGENT)
    session_id, agent_id = valid_id(request.match_info["session_id"]), caller.agent.agent_id
    if len(gate.streams) >= MAX_STREAMS:
        raise problem(503, "overloaded", f"{MAX_STREAMS} event streams are open here: try another gateway")
    partition = gate.hub.place_of(agent_id).partition
    after = _after(request, partition)
    queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(MAX_QUEUED)

    def may() -> bool:
        return stands(caller, gate.control, gate.clock())

    def end() -> None:
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(None)

    def offer(_: int, offset: int, value: bytes) -> None:
        if queue.full():
            end()  # it comes back with Last-Event-ID, and misses nothing
        else:
            queue.put_nowait((offset, value))

    stop = gate.hub.watch(agent_id, offer)
    gate.streams.add(end)
    gate.under_way -= 1  # an open stream is no request that a stop waits for
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    try:
        await response.prepare(request)
        await response.write(b": open\n\n")
        last = -1
        if after is not None:
            async with contextlib.aclosing(gate.hub.kept(agent_id, after)) as kept:
                async for offset, value in kept:
                    if not may():
                        break
                    last = offset
                    await _write(response, partition, offset, value, session_id)
        await _follow(response, queue, partition, last, session_id, may)
    except (ConnectionResetError, asyncio.CancelledError):
        pass  # the client went away: nothing depends on it
    finally:
        stop()
        gate.streams.discard(end)
        gate.under_way += 1
    with contextlib.suppress(ConnectionResetError):
        await response.write_eof()
    return response


async def _follow(
    response: web.StreamResponse,
    queue: asyncio.Queue[tuple[int, bytes] | None],
    partition: int,
    last: int,
    session_id: str,
    may: Callable[[], bool],
) -> None:
    while True:
        found: tuple[int, bytes] | None = (-1, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                found = await queue.get()
        # INVARIANT: a key that was revoked hears nothing more (tests/unit/test_gateway_access.py).
        if found is None or not may():
            return
        if not found[1]:
            await response.write(b": still here\n\n")
            continue
        offset, value = found
        if offset > last:
            await _write(response, partition, offset, value, session_id)


async def _write(
    response: web.StreamResponse, partition: int, offset: int, value: bytes, session_id: str
) -> None:
    try:
        reply = codec.decode_as(Reply, value)
    except Unreadable:
        return  # of a newer version
    if reply.session_id == session_id:
        await response.write(
            b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (partition, offset, reply.status.encode(), shown(reply))
        )


def shown(reply: Reply) -> bytes:
    """A reply as one line of JSON."""
    value = {
        "intent_id": reply.intent_id, "session_id": reply.session_id, "status": reply.status, "stage": reply.stage,
        "reason": reply.reason, "policies": reply.policies, "decided_at": reply.decided_at,
        "for_model": reply.for_model, "for_developer": reply.for_developer,
        "result": orjson.Fragment(reply.result) if reply.result else None,
    }  # fmt: skip
    return orjson.dumps(value)


def _after(request: web.Request, partition: int) -> int | None:
    """The offset after which to begin; None: with what comes. Raises a problem for an id that is none of this agent's."""
    given = request.headers.get("Last-Event-ID", "")
    if not given:
        return None
    found = _PLACE.fullmatch(given)
    if found is None or int(found[1]) != partition:
        raise problem(
            400, "bad_request", f"`{given[:40]}` is no event of this agent: send the id of the last event"
        )
    return int(found[2])
