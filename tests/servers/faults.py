"""Faults by address, and the journal of what really happened.

    http://host/<fault>/...       fault = a comma-separated text such as `status=503,retry_after=1,times=2`

A fault meets the first `times` requests of an idempotency key (all of them by default); after that the server behaves. So
one server serves every fault, a test says in the contract's url what will happen, and the same keys meet the same faults.
With `keyed` the tool honours the key: whatever happens to the answers, it acts once for a key.
The journal counts requests and effects by key; an effect is what the tool did, whatever it answered.
Never chooses by chance. Next: `tool_server.py`, `model_server.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

KINDS = (
    "ok", "status", "slow", "wrong_json", "cut", "huge", "never", "twice",
    "acts_then_drops", "acts_late", "error_after_acting",
)  # fmt: skip
STREAM_KINDS = ("cut_after", "ends_after", "stall_after", "error_after", "no_usage", "no_end", "whole")
"""Of streamed answers: `cut_after=3` breaks the connection after three parts, `ends_after` ends the answer there, `stall_after` says nothing more, `error_after` says
that something failed; without usage; without the end's marker; not streamed though asked to."""
HUGE_BYTES = 2 * 1024**3
CHUNK = b"x" * 65_536


@dataclass(frozen=True)
class Fault:
    """What happens to a request.

    Attributes:
        wait_s: before the first byte (`slow`), or before acting (`acts_late`).
        retry_after: the header's text, with `status`.
        times: how many requests of a key it meets.
        keyed: whether the tool acts once for a key, however often it is asked.
        parts: after how many parts of a stream it happens.
        gap_s: between two parts of a stream.
    """

    kind: str = "ok"
    status: int = 500
    retry_after: str = ""
    wait_s: float = 1.0
    times: int = 1_000_000
    code: str = ""
    keyed: bool = False
    parts: int = 0
    gap_s: float = 0.0

    @classmethod
    def read(cls, text: str) -> Fault:
        """Read a path segment. Raises `ValueError`."""
        values: dict[str, str] = {}
        kind = "ok"
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name in KINDS + STREAM_KINDS:
                kind = name
            values[name] = value
        if (
            unknown := set(values)
            - set(KINDS + STREAM_KINDS)
            - {"retry_after", "times", "wait_s", "code", "keyed", "gap_s"}
        ):
            raise ValueError(f"no fault is named {sorted(unknown)}")
        return cls(
            kind,
            int(values.get("status") or 500),
            values.get("retry_after", ""),
            float(values.get("wait_s") or 1.0),
            int(values.get("times") or 1_000_000),
            values.get("code", ""),
            "keyed" in values,
            int(values.get(kind) or 0) if kind.endswith("_after") else 0,
            float(values.get("gap_s") or 0.0),
        )


@dataclass
class Journal:
    """What reached the server, by idempotency key. `path`: also a line of JSON for each effect, for other processes."""

    requests: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    bodies: MutableSequence[object] = field(default_factory=list)
    headers: MutableSequence[dict[str, str]] = field(default_factory=list)
    paths: MutableSequence[str] = field(default_factory=list)
    sent_bytes: int = 0
    path: Path | None = None

    def act(self, key: str, *, once: bool = False) -> None:
        """The effect itself; `once`: unless there was one for this key."""
        if once and self.effects[key]:
            return
        self.effects[key] += 1
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "count": self.effects[key]}) + "\n")


Answer = Callable[[web.Request, object], Awaitable[object]]
"""What the server says when nothing goes wrong: request and parsed body -> JSON."""


Parts = Callable[[object, object], list[object]]
"""An answer and the body that asked for it -> the parts of its stream."""


class FaultyServer:
    """An aiohttp application that answers by `answer`, through the fault that the address names."""

    def __init__(self, answer: Answer, *, journal: Journal | None = None, parts: Parts | None = None) -> None:
        self.journal = journal or Journal()
        self._answer, self._parts = answer, parts
        self.app = web.Application(client_max_size=2**20)
        self.app.router.add_get("/journal", self._told)
        self.app.router.add_get("/effects/{key}", self._looked_up)
        self.app.router.add_route("*", "/{fault}/{tail:.*}", self._serve)

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response({"requests": self.journal.requests, "effects": self.journal.effects})

    async def _looked_up(self, request: web.Request) -> web.Response:
        """What became of a key: how a queryable tool is asked. No request of that key."""
        effects = self.journal.effects.get(request.match_info["key"], 0)
        return web.json_response({"effects": effects}, status=200 if effects else 404)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        key = request.headers.get("Idempotency-Key", "")
        journal = self.journal
        journal.requests[key] += 1
        journal.bodies.append(json.loads(raw) if raw else None)
        journal.headers.append(dict(request.headers))
        journal.paths.append(request.path_qs)
        try:
            fault = Fault.read(request.match_info["fault"])
        except ValueError as error:
            return web.Response(status=404, text=str(error))
        if journal.requests[key] > fault.times:
            fault = Fault(keyed=fault.keyed)
        return await self._meet(fault, request, key)

    async def _meet(self, fault: Fault, request: web.Request, key: str) -> web.StreamResponse:
        journal, kind = self.journal, fault.kind
        if kind == "status":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            error = {"error": {"message": "as ordered", "code": fault.code}}
            return web.json_response(error, status=fault.status, headers=headers)
        if kind == "never":
            await asyncio.Event().wait()
        if kind in ("slow", "acts_late"):
            # Shielded: a client that goes away does not stop a tool that has begun.
            await asyncio.shield(asyncio.create_task(self._later(fault, key)))
        else:
            journal.act(key, once=fault.keyed)
        assert request.transport is not None
        if kind == "acts_then_drops":
            request.transport.close()
            return web.Response()
        if kind == "error_after_acting":
            return web.Response(status=500, text="it was done, and then something broke")
        if kind == "wrong_json":
            return web.Response(text='{"id": 1, "choices": [', content_type="application/json")
        if kind == "huge":
            return await self._huge(request)
        answer, asked = await self._answer(request, journal.bodies[-1]), journal.bodies[-1]
        if self._parts is not None and isinstance(asked, dict) and asked.get("stream") and kind != "whole":
            return await self._streamed(fault, request, self._parts(answer, asked))
        body = json.dumps(answer).encode()
        if kind == "cut":
            response = web.StreamResponse(headers={"Content-Length": str(2 * len(body) + 10)})
            await response.prepare(request)
            await response.write(body)
            request.transport.close()
            return response
        if kind == "twice":
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            request.transport.write((head.encode() + body) * 2)
            await asyncio.sleep(0.05)
            request.transport.close()
            return web.Response()
        return web.Response(body=body, content_type="application/json")

    async def _streamed(self, fault: Fault, request: web.Request, parts: list[object]) -> web.StreamResponse:
        """Server-sent events, one a part."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        assert request.transport is not None
        for at, part in enumerate(parts):
            if fault.kind.endswith("_after") and at >= fault.parts:
                if fault.kind == "stall_after":
                    await asyncio.Event().wait()
                if fault.kind == "error_after":
                    error = {"error": {"message": "as ordered", "code": fault.code}}
                    await response.write(b"data: " + json.dumps(error).encode() + b"\n\n")
                    return response
                if fault.kind == "cut_after":
                    request.transport.close()
                return response
            if fault.kind == "no_usage" and isinstance(part, dict) and part.get("usage"):
                continue
            await response.write(b"data: " + json.dumps(part).encode() + b"\n\n")
            await asyncio.sleep(fault.gap_s)
        if fault.kind != "no_end":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _later(self, fault: Fault, key: str) -> None:
        await asyncio.sleep(fault.wait_s)
        self.journal.act(key, once=fault.keyed)

    async def _huge(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(HUGE_BYTES)})
        await response.prepare(request)
        for _ in range(HUGE_BYTES // len(CHUNK)):
            await response.write(CHUNK)
            self.journal.sent_bytes += len(CHUNK)
        return response
