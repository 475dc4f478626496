"""The `model` adapter: chat completions of any OpenAI-compatible server, one request, one normalised answer.

The answer is {text, tool_calls, finish_reason, served_model, usage{input_tokens, output_tokens}}, with `logprobs` also
`confidence`. A dated model is a pin: another served model fails the call with `model_changed` and an alarm, and its text is
never shown. What the server refuses is told by its class, so that the ledger can decide what follows (`processors/models/attempts.py`).
Where the dispatch says so, the answer is shown while it is made (`model_stream.py`).
Never puts a key into an answer. Next: `model_contract.py`, `wire.py`, `retries.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol, cast

import orjson
from sluicegate.executors.adapter import Answer, Failed
from sluicegate.executors.egress import Egress, Lookup, system_lookup
from sluicegate.executors.http_template import BadTemplate
from sluicegate.executors.model_contract import ModelContract, compile_model, request_of
from sluicegate.executors.model_stream import Ask, answer_bytes, answer_streamed, read, refused
from sluicegate.executors.outlet import Outlet
from sluicegate.executors.retries import with_retries
from sluicegate.executors.secret_refs import NoSecret, fetch, filled
from sluicegate.executors.shown import Shown
from sluicegate.executors.wire import Wire, call_headers, names_from, plain_names
from sluicegate.processors.artifacts import limit_of
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.schemas.kinds import OPEN
from sluicegate.schemas.records import Dispatch

CONTRACTS = 1_024
"""Compiled executor objects kept."""


class Gates(Protocol):
    """Where the gate of a `gated` answer comes from."""

    async def gate(self, dispatch: Dispatch, limit_s: float) -> StreamGate | None:
        """The gate of this call; None when it cannot be made within the limit."""


class ModelAdapter:
    """Asks models over http. Make it inside the event loop that uses it."""

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, str],
        *,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
        outlet: Outlet | None = None,
        gates: Gates | None = None,
        stopped: Callable[[Dispatch], str] = lambda dispatch: "",
    ) -> None:
        self._environ = environ
        self._outlet, self._gates, self._stopped = outlet, gates, stopped
        plain = plain_names(names)
        self._contract = lru_cache(maxsize=CONTRACTS)(lambda executor: compile_model(executor, plain))
        self._wire = Wire(egress, lookup)
        self._log = logging.getLogger("sluicegate.executor")

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,
        outlet: Outlet | None = None,
        gates: Gates | None = None,
        stopped: Callable[[Dispatch], str] = lambda dispatch: "",
    ) -> ModelAdapter:
        """Read `SLUICEGATE_EGRESS` and `SLUICEGATE_TOOL_*`. Without an outlet nothing is streamed; `stopped`: what ends a stream."""
        egress, names = Egress.from_env(environ), names_from(environ)
        return cls(egress, names, environ=environ, outlet=outlet, gates=gates, stopped=stopped)

    async def close(self) -> None:
        """Close every connection."""
        await self._wire.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """One completion, asked for again only where `retries.py` allows it."""
        until = time.monotonic() + timeout_s
        try:
            contract: ModelContract = self._contract(dispatch.executor)
            arguments = cast("dict[str, object]", orjson.loads(dispatch.arguments))
            asked = request_of(contract, arguments)
            async with asyncio.timeout(timeout_s):
                secrets = [await fetch(contract.api_key, self._environ)] if contract.api_key else []
                headers, more = await filled(contract.headers, self._environ)
        except (BadTemplate, NoSecret) as error:
            return Failed("crashed", str(error), sent=False)
        except TimeoutError:
            return Failed("timeout", "the model's key could not be read in time", sent=False)
        headers |= {"Content-Type": "application/json"} | call_headers(dispatch)
        if secrets:
            headers["Authorization"] = f"Bearer {secrets[0]}"
        secrets += more
        shown = await self._shown(dispatch, secrets, until - time.monotonic())
        if shown is not None:
            asked = request_of(contract, arguments, stream=True)
            ask = Ask(dispatch, contract, headers, asked, secrets, until, lambda: self._stopped(dispatch))
            answer = await answer_streamed(self._wire, ask, shown)
        else:
            answer = await self._whole(Ask(dispatch, contract, headers, asked, secrets, until))
        if isinstance(answer, Failed) and answer.error_class == "model_changed":
            self._log.error("alarm: `%s`: %s", dispatch.tool, answer.error)
        return answer

    async def _shown(self, dispatch: Dispatch, secrets: list[str], limit_s: float) -> Shown | None:
        """Where the answer is shown while it is made; None when that was not asked for, or cannot be."""
        if not dispatch.stream or self._outlet is None:
            return None
        gate = None
        if dispatch.stream != OPEN:
            # INVARIANT: without its gate nothing of a gated answer is shown (tests/unit/test_model_stream.py).
            gate = await self._gates.gate(dispatch, limit_s) if self._gates is not None else None
            if gate is None:
                return None
        message = self._outlet.open(dispatch)
        return Shown(message, secrets, gate) if message is not None else None

    async def _whole(self, ask: Ask) -> Answer:
        contract, body = ask.contract, orjson.dumps(ask.asked)
        most = answer_bytes(limit_of(ask.dispatch.executor))
        answered = await with_retries(
            lambda left_s: self._wire.exchange(
                contract.target, ask.headers, body, limit=most, timeout_s=left_s
            ),
            retries=contract.retries,
            tool_class=ask.dispatch.tool_class,
            timeout_s=ask.until - time.monotonic(),
        )
        if isinstance(answered, Failed):
            return answered
        if not 200 <= answered.status < 300:
            return refused(answered, ask.secrets)
        return read(answered, ask)
