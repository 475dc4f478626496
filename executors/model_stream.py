"""A model's answer, read whole or part by part; of a streamed one every part is shown as far as it may be.

    first part within `first_token_ms`, each next one within `idle_ms`, all of it within the call's time
    a stream that ends before its `finish_reason`, or whose connection breaks, is a `server_error`
    a server that answers a stream with a whole completion is read as such

A pinned model's text is shown only once the server named that model. What is quarantined meanwhile is read no further: whoever
waits gets `quarantined`, and what had been reserved for the attempt is spent, since nobody tells what it used. Never repeats a request that began to answer: what
follows a stream that broke off, the ledger decides. Next: `shown.py`, `model_chunks.py`, `sse.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace

import aiohttp
import orjson
from sluicegate.executors.adapter import ERROR_CHARS, Answer, Failed, Finished
from sluicegate.executors.model_answer import REFUSALS, normalised, refusal_kind
from sluicegate.executors.model_chunks import Added, Chunks
from sluicegate.executors.model_contract import ModelContract
from sluicegate.executors.retries import retry_after_s, with_retries
from sluicegate.executors.secret_refs import redact
from sluicegate.executors.shown import Shown
from sluicegate.executors.sse import Events, TooLong
from sluicegate.executors.wire import Answered, Wire, answered, refusal_text
from sluicegate.processors.artifacts import limit_of
from sluicegate.processors.control.quarantine import REASON as QUARANTINED
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES

ANSWER_BYTES = 262_144
"""What is read of an answer: 64 kB of result, of which JSON may write each byte as `\\u00xx`, and what is around it."""
STREAM_BYTES = 16 * 1024 * 1024
"""What is read of a stream: 64 kB of answer in parts of one byte, with 250 bytes of JSON around each."""
EVENT_STREAM = "text/event-stream"
LOOK_EVERY_S = 0.5
"""How often a stream that runs is held against control: a tenth of the 5 s in which a quarantine has its effect."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `until`: on the monotonic clock."""

    dispatch: Dispatch
    contract: ModelContract
    headers: Mapping[str, str]
    asked: Mapping[str, object]
    secrets: list[str]
    until: float
    stopped: Callable[[], str] = str
    """Why it must not go on, as of now; an empty text when nothing stops it."""


async def answer_streamed(wire: Wire, ask: Ask, shown: Shown) -> Answer:
    """The answer; what was shown of it is told with it, whatever it is."""
    try:
        answer = await _unless_stopped(_asked(wire, ask, shown), ask)
        streamed = await shown.close(whole=isinstance(answer, Finished))
    except BaseException:
        shown.abandon()
        raise
    return replace(answer, streamed=streamed) if isinstance(answer, Finished | Failed) else answer


async def _unless_stopped(asking: Coroutine[None, None, Answer], ask: Ask) -> Answer:
    """The answer, or that a quarantine ended it."""
    # INVARIANT: what is quarantined is shown no further (tests/unit/test_model_stream.py::test_a_quarantine_ends_a_stream).
    task = asyncio.create_task(asking)
    try:
        while not (await asyncio.wait([task], timeout=LOOK_EVERY_S))[0]:
            if stopped := ask.stopped():
                return Failed(QUARANTINED, f"{stopped}: it was stopped while it answered")
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _asked(wire: Wire, ask: Ask, shown: Shown) -> Answer:
    begun: list[aiohttp.ClientResponse] = []
    body, contract = orjson.dumps(ask.asked), ask.contract
    first_until = ask.until
    if contract.first_token_ms:
        first_until = min(first_until, time.monotonic() + contract.first_token_ms / 1_000)

    async def once(left_s: float) -> Answered | Failed:
        limit_s = min(left_s, first_until - time.monotonic())
        found = await wire.begin(contract.target, ask.headers, body, timeout_s=limit_s)
        if isinstance(found, Answered | Failed):
            return found
        begun.append(found)
        return Answered(found.status, found.headers, found.content_type, b"", False)

    opened = await with_retries(
        once,
        retries=contract.retries,
        tool_class=ask.dispatch.tool_class,
        timeout_s=first_until - time.monotonic(),
    )
    if isinstance(opened, Failed):
        return opened
    if not begun:
        return refused(opened, ask.secrets)
    async with begun[0] as response:
        if response.content_type == EVENT_STREAM:
            return await _Reading(ask, shown, first_until).run(
                response
            )  # left unread, it closes the connection
        return await _unstreamed(response, ask, shown)


async def _unstreamed(response: aiohttp.ClientResponse, ask: Ask, shown: Shown) -> Answer:
    """A server that knows no streams."""
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + ask.until - time.monotonic()):
            found = await answered(response, ANSWER_BYTES)
    except TimeoutError:
        return Failed("timeout", "the model did not end its answer in time")
    except (aiohttp.ClientError, OSError, ValueError):
        return Failed("server_error", "the connection broke in the middle of the answer")
    answer = read(found, ask)
    if isinstance(answer, Finished):
        said = orjson.loads(answer.result)
        shown.begin(said["served_model"])
        shown.add(Added(said["text"]))
        for index, call in enumerate(said["tool_calls"]):
            shown.add(Added(orjson.dumps(call["arguments"]).decode(), index, call["id"], call["name"]))
        shown.finish(answer.result)
    return answer


class _Reading:
    """One event stream, from its first byte to the answer."""

    def __init__(self, ask: Ask, shown: Shown, first_until: float) -> None:
        self._ask, self._shown = ask, shown
        self._by = first_until
        self._first = True
        self._chunks = Chunks(ask.secrets)
        self._unnamed: list[Added] = []

    async def run(self, response: aiohttp.ClientResponse) -> Answer:
        """Read it to its end."""
        events, chunks, size = Events(), self._chunks, 0
        while not chunks.over:
            part = await self._part(response)
            if isinstance(part, Failed):
                if chunks.finished:
                    break  # the answer is there; only its usage is not
                return part
            if not part:
                break
            size += len(part)
            if size > STREAM_BYTES:
                return Failed("result_too_large", f"the stream has more than {STREAM_BYTES} bytes")
            try:
                found = events.feed(part)
            except TooLong:
                return Failed("malformed_result", "an event of the stream never ends")
            for data in found:
                wrong = self._take(data)
                if wrong is not None:
                    return wrong
        if not chunks.finished:
            return Failed("server_error", "the stream broke off before the answer ended")
        answer = finished(chunks.completion(), self._ask)
        if isinstance(answer, Finished):
            self._shown.finish(answer.result)
        return answer

    async def _part(self, response: aiohttp.ClientResponse) -> bytes | Failed:
        try:
            async with asyncio.timeout(min(self._by, self._ask.until) - time.monotonic()):
                return await response.content.readany()
        except TimeoutError:
            when = "its first part" if self._first else "the next part of its answer"
            return Failed("timeout", f"the model did not send {when} in time")
        except (aiohttp.ClientError, OSError, ValueError):
            return Failed("server_error", "the connection broke in the middle of the answer")

    def _take(self, data: bytes) -> Failed | None:
        chunks, pinned = self._chunks, self._ask.contract.pinned
        added = chunks.take(data)
        if isinstance(added, Failed):
            return added
        # INVARIANT: what another model than the pinned one said is never shown
        # (tests/unit/test_model_stream.py::test_another_model_than_the_pinned_one).
        if pinned and chunks.model and chunks.model != pinned:
            return _another(pinned, chunks.model)
        if added or chunks.finished:
            self._first = False
        if not self._first:
            self._by = time.monotonic() + self._ask.contract.idle_ms / 1_000
        self._unnamed += added
        if self._unnamed and (chunks.model or not pinned):
            self._shown.begin(chunks.model)
            for one in self._unnamed:
                self._shown.add(one)
            self._unnamed = []
        return None


def refused(found: Answered, secrets: list[str]) -> Failed:
    """What the server says no to."""
    kind = refusal_kind(found.status, found.body)
    text = f"{kind} {refusal_text(found, secrets)}"
    wait_ms = int(retry_after_s(found) * 1_000)
    return Failed(REFUSALS.get(kind, "refused_by_tool"), text[: 2 * ERROR_CHARS], retry_after_ms=wait_ms)


def answer_bytes(most: int) -> int:
    """What is read of a whole answer, by what its result may have; of a large one JSON may write half the bytes twice."""
    return ANSWER_BYTES if most <= MAX_RESULT_BYTES else ANSWER_BYTES + 2 * most


def read(found: Answered, ask: Ask) -> Answer:
    """A whole answer."""
    if not found.whole:
        most = answer_bytes(limit_of(ask.dispatch.executor))
        return Failed("result_too_large", f"the model's answer has more than {most} bytes")
    return finished(redact(found.body, ask.secrets), ask)


def finished(body: bytes, ask: Ask) -> Answer:
    """A completion's bytes as a result."""
    answer = normalised(body, ask.asked, limit_of(ask.dispatch.executor))
    if isinstance(answer, Failed):
        return answer
    served, pinned = str(answer["served_model"]), ask.contract.pinned
    # INVARIANT: what another model than the pinned one said is never shown
    # (tests/unit/test_model_adapter.py::test_another_model_than_the_pinned_one).
    if pinned and served != pinned:
        return _another(pinned, served)
    return Finished(orjson.dumps(answer))


def _another(pinned: str, served: str) -> Failed:
    said = f"the contract pins `{pinned}`, the server answered with `{served[:100] or 'none named'}`"
    return Failed("model_changed", said)
