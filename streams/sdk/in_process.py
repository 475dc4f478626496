"""Local functions as tools: permit ▸ run here ▸ receipt ▸ the released reply (DESIGN §5.4, `in_process`).

A function runs at most once for a permit, with the arguments that were decided on, not with those that were passed.
It is never run for a permit that this client did not ask for, that came too late, or whose caller has gone: then
the receipt says that nothing was sent. Once begun it runs to its end, so that its receipt tells the truth even
when the caller stops waiting. Never decides. Read next: `client.py`, `processors/receipts.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.records import Receipt, Reply
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.json import Json

PERMIT_LIMIT_S = 5.0
"""A permit older than this is not begun: the ledger may have given the call up. As long as an executor's lease."""
MAX_ERRANDS = 8_192
"""Intents this client asked for and may still have to run, about 450 bytes each and the context of whoever asked; the oldest are forgotten first."""
MAX_ERROR_CHARS = 500
"""Of an exception's text in a receipt."""

EXECUTOR = "agent"

log = logging.getLogger("sluicegate.client")


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class LocalFunction:
    """A Python function whose parameters are a tool's arguments, by name."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        self._function = function
        self._signature = inspect.signature(function)
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise Terminal(
                    f"`*{parameter.name}` of `{self.name}` has no names to govern: give it named parameters"
                )

    def arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Json]:
        """The call as the arguments object a policy sees.

        Defaults are part of it, so that nothing runs with a value nobody decided on; a default of None counts as
        not given. Raises `TypeError` as the function itself would.
        """
        bound = self._signature.bind(*args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        found: dict[str, object] = {}
        for name, value in bound.arguments.items():
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                found.update(value)
            elif name in given or value is not None:
                found[name] = value
        return cast("dict[str, Json]", found)

    async def __call__(self, arguments: dict[str, Json]) -> object:
        """Run it, a sync function in a thread. Raises `TypeError` when it does not take these arguments."""
        bound = self._signature.bind_partial()
        rest = dict(arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.arguments[name], rest = rest, {}
            elif name in rest:
                bound.arguments[name] = rest.pop(name)
        if rest:
            raise TypeError(f"`{self.name}` takes no argument `{next(iter(rest))}`")
        if inspect.iscoroutinefunction(self._function):
            return await cast("Awaitable[object]", self._function(*bound.args, **bound.kwargs))
        result = await asyncio.to_thread(_in_thread, self._function, bound)
        return await result if inspect.isawaitable(result) else result


def _in_thread(function: Callable[..., object], bound: inspect.BoundArguments) -> object:
    try:
        return function(*bound.args, **bound.kwargs)
    except StopIteration as error:  # a future cannot hold it: whoever waits would wait for ever
        raise RuntimeError(f"StopIteration: {error}") from error


@dataclass(slots=True)
class Errand:
    """One intent this client asked for, and what to run when it is permitted.

    Attributes:
        wanted: set to False when the caller has gone: a permit that still comes is answered `failed`.
        error: what the function raised, for the caller's traceback.
    """

    tool: str
    session_id: str
    function: LocalFunction | None
    wanted: bool = True
    error: Exception | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


@dataclass(slots=True)
class _End:
    """How a call ended: the varying part of its receipt."""

    kind: str
    result: bytes | None = None
    error_class: str = ""
    error: str = ""
    sent: bool = True


Errands = OrderedDict[tuple[str, str], Errand]
"""(agent, intent) -> its errand."""


class Runner:
    """Runs what this client asked for and was permitted. Belongs to one event loop.

    Args:
        errands: those of several clients, where `MAX_ERRANDS` bounds all of them together.
    """

    def __init__(
        self, agent_id: str, publish: Callable[[Receipt], Awaitable[None]], errands: Errands | None = None
    ) -> None:
        self._agent_id = agent_id
        self._publish = publish
        self._errands: Errands = OrderedDict() if errands is None else errands
        self._tasks: set[asyncio.Task[None]] = set()

    def own(self, intent_id: str, errand: Errand) -> None:
        """Call before publishing: a permit for this intent may now be run here."""
        self._errands[self._agent_id, intent_id] = errand
        while len(self._errands) > MAX_ERRANDS:
            self._errands.popitem(last=False)

    def forget(self, intent_id: str) -> None:
        """The intent ended."""
        self._errands.pop((self._agent_id, intent_id), None)

    def permit(self, reply: Reply) -> None:
        """A permit came: run the function and publish its receipt, in the background."""
        # INVARIANT: one run of an intent in this process (tests/unit/test_client_local.py::test_a_permit_runs_once).
        errand = self._errands.pop((self._agent_id, reply.intent_id), None)
        if errand is None:
            log.info(
                "a permit for `%s`, which this client does not wait to run, is left alone", reply.intent_id
            )
            return
        task = asyncio.get_running_loop().create_task(
            self._run(reply, errand), name=f"in-process `{reply.intent_id}`", context=errand.context
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, limit_s: float) -> None:
        """Let running functions end, for `limit_s`; then cancel them: without a receipt they are in doubt."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit_s)
        for task in late:
            log.warning("%s still ran when the client closed: the call is in doubt", task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=limit_s)

    async def _run(self, reply: Reply, errand: Errand) -> None:
        started_at = now_us()
        end = await self._end(reply, errand)
        receipt = Receipt(
            reply.event_id, reply.intent_id, self._agent_id, errand.session_id, end.kind, reply.attempt, EXECUTOR,
            started_at, now_us(), end.result, end.error_class, end.error, end.sent,
        )  # fmt: skip
        try:
            await self._publish(receipt)
        except SluicegateError as error:
            log.warning("the receipt of `%s` was not published: %s", reply.intent_id, error)

    async def _end(self, reply: Reply, errand: Errand) -> _End:
        late_s = (now_us() - reply.decided_at) / 1e6
        if not errand.wanted:
            return _not_begun("timeout", "the caller gave up before the call began")
        if late_s > PERMIT_LIMIT_S:
            return _not_begun("timeout", f"the permit was {late_s:.1f} s old: check the clocks and the load")
        if errand.function is None:
            return _not_begun("unreachable", f"no local function is registered for `{errand.tool}`")
        try:
            arguments = cast("dict[str, Json]", client_json.loads(reply.arguments or b""))
        except ValueError:
            return _not_begun("crashed", "the permit has no arguments that can be read")
        try:
            value = await errand.function(arguments)
        except Exception as error:
            errand.error = error
            return _End(
                "failed",
                error_class="timeout" if isinstance(error, TimeoutError) else "crashed",
                error=_text(error),
            )
        try:
            result = client_json.dumps(value)
        except ValueError as error:
            return _End("failed", error_class="malformed_result", error=_text(error))
        if len(result) > MAX_RESULT_BYTES:
            return _End("failed", error_class="result_too_large", error=f"the result has {len(result)} bytes")
        return _End("finished", result)


def _not_begun(error_class: str, error: str) -> _End:
    return _End("failed", error_class=error_class, error=error, sent=False)


def _text(error: Exception) -> str:
    """A text Avro can hold: no lone surrogates."""
    text = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    return text.encode("utf-8", "replace").decode()
