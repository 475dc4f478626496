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
from collections import deque
from collections.abc import Callable

import orjson
from aiohttp import web
from sluicegate.gateway.access import stands
from sluicegate.gateway.context import Gate, asked_by, gate_of, leave
from sluicegate.gateway.hub import read
from sluicegate.gateway.openai_shapes import EVENTS
from sluicegate.gateway.problems import problem
from sluicegate.processors.control.api_keys import AGENT
from sluicegate.schemas.records import Reply
from sluicegate.streams.sdk.asking import valid_id

MAX_STREAMS = 5_000
"""Open at a time in one process, about 20 kB each: 100 MB."""
MAX_STREAMS_OF_KEY = 1_000
"""Of these for one key: five busy ones do not shut out the others."""
MAX_QUEUED = 256
"""Events that wait for one client."""
MAX_QUEUED_BYTES = 1_048_576
"""Of their results; a result has 64 kB at the most."""
MAX_WAITING_BYTES = 256 * 1_048_576
"""Of the results that wait for all clients of one process."""
MAX_BEHIND = 1_000_000
"""Records of the agent's partition that came since the last event a client saw: about 5 s of reading for it."""
BEAT_S = 15.0
"""A comment when nothing happens, so that proxies keep the connection and a dead one is found."""
_PLACE = re.compile(r"(\d{1,9})-(\d{1,18})")


def add(app: web.Application) -> None:
    """Add the route."""
    app.add_routes([web.get("/v1/sessions/{session_id}/events", _events)])


class Stream:
    """What waits for one client."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._queue: deque[tuple[int, Reply, int]] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self.over = False

    def offer(self, offset: int, reply: Reply) -> None:
        """An event; where the client is too slow for it, the stream ends: it comes back with Last-Event-ID, and misses nothing."""
        size = len(reply.result or b"")
        full = len(self._queue) >= MAX_QUEUED or self._bytes + size > MAX_QUEUED_BYTES
        if full or self._gate.waiting_bytes + size > MAX_WAITING_BYTES:
            self.end()
        elif not self.over:
            self._queue.append((offset, reply, size))
            self._bytes += size
            self._gate.waiting_bytes += size
            self._ready.set()

    def end(self) -> None:
        """Nothing more: what waited is left."""
        self._gate.waiting_bytes -= self._bytes
        self._bytes = 0
        self._queue.clear()
        self.over = True
        self._ready.set()

    async def next(self) -> tuple[int, Reply] | None:
        """The next event; None after `BEAT_S` without one, and at the end."""
        if not self._queue and not self.over:
            self._ready.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._ready.wait()
        if not self._queue:
            return None
        offset, reply, size = self._queue.popleft()
        self._bytes -= size
        self._gate.waiting_bytes -= size
        return offset, reply


async def _events(request: web.Request) -> web.StreamResponse:
    gate, caller = gate_of(request), await asked_by(request, AGENT)
    session_id, agent_id, key_id = (
        valid_id(request.match_info["session_id"]),
        caller.agent.agent_id,
        caller.key.key_id,
    )
    _room(gate, key_id)
    partition = gate.hub.place_of(agent_id).partition
    after = _after(request, partition)
    stream = Stream(gate)

    def may() -> bool:
        return stands(caller, gate.control, gate.clock())

    stop = gate.hub.watch(agent_id, session_id, stream.offer)
    gate.streams.add(stream.end)
    gate.streams_of[key_id] += 1
    leave(request)  # an open stream is no request that a stop waits for
    response = web.StreamResponse(headers=EVENTS)
    try:
        if after is not None and await gate.hub.behind(agent_id, after) > MAX_BEHIND:
            raise problem(
                410,
                "too_far_behind",
                "that event is too long ago: begin anew, and GET the ends of your intents",
            )
        await response.prepare(request)
        await response.write(b": open\n\n")
        last = -1 if after is None else after
        if after is not None:
            last = await _catch_up(gate, response, agent_id, partition, after, session_id, may)
        await _follow(response, stream, partition, last, may)
    except (ConnectionResetError, asyncio.CancelledError):
        pass  # the client went away: nothing depends on it
    finally:
        stop()
        stream.end()
        gate.streams.discard(stream.end)
        gate.streams_of[key_id] -= 1
        if not gate.streams_of[key_id]:
            del gate.streams_of[key_id]
    with contextlib.suppress(ConnectionResetError):
        await response.write_eof()
    return response


def _room(gate: Gate, key_id: str) -> None:
    # INVARIANT: one key does not take the streams of all (tests/unit/test_gateway_events.py).
    if gate.streams_of[key_id] >= MAX_STREAMS_OF_KEY:
        raise problem(429, "too_many_streams", f"{MAX_STREAMS_OF_KEY} event streams of this key are open here", {"Retry-After": "15"})  # fmt: skip
    if len(gate.streams) >= MAX_STREAMS:
        raise problem(503, "overloaded", f"{MAX_STREAMS} event streams are open here: try another gateway", {"Retry-After": "15"})  # fmt: skip


async def _catch_up(
    gate: Gate, response: web.StreamResponse, agent_id: str, partition: int, after: int, session_id: str,
    may: Callable[[], bool],
) -> int:  # fmt: skip
    """What is kept behind `after`, told; the offset up to where."""
    while may():
        page = await gate.hub.kept(agent_id, after)
        for record in page.records:
            reply = read(record.value)
            if reply is not None and reply.session_id == session_id:
                await response.write(_event(partition, record.offset, reply))
        after = max(after, page.next - 1)
        if page.done:
            break
    return after


async def _follow(
    response: web.StreamResponse, stream: Stream, partition: int, last: int, may: Callable[[], bool]
) -> None:
    while True:
        found = await stream.next()
        # INVARIANT: a key that was revoked hears nothing more (tests/unit/test_gateway_access.py).
        if stream.over or not may():
            return
        if found is None:
            await response.write(b": still here\n\n")
        elif found[0] > last:
            await response.write(_event(partition, *found))


def _event(partition: int, offset: int, reply: Reply) -> bytes:
    return b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (
        partition,
        offset,
        reply.status.encode(),
        shown(reply),
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
