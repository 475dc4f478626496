"""A model call as OpenAI's doors make it: whose session, which id, how long; and its answer, whole or in parts.

It stands in the session that the header `x-sluicegate-session` names, else in one that the calls of this key share for a while.
Never calls a model itself. Next: `openai.py` (chat completions), `responses.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from sluicegate.gateway.access import Caller
from sluicegate.gateway.context import Gate, asker_of, gate_of, seconds_in, session_of
from sluicegate.gateway.openai_shapes import INTENT, SESSION
from sluicegate.gateway.repeats import once
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.may_ask import may_ask
from sluicegate.schemas.kinds import MODEL, MODEL_CALL
from sluicegate.streams.archive import artifacts
from sluicegate.streams.sdk.asking import Asker, valid_id
from sluicegate.streams.sdk.assembly import Part
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.once import Once
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.stream import stream
from sluicegate.streams.settings import Settings

SHARED_S = 900
"""How long calls without a session of their own share one. An agent's new session begins with all that the agent ever saw,
so sharing washes nothing and taints nothing more."""
TIMEOUT_S = 120.0
TIMEOUT = "x-sluicegate-timeout"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One model call that a client asks for.

    Attributes:
        alias: the route or contract.
        headers: of its answer, whatever that is.
    """

    alias: str
    session_id: str
    step: Once
    headers: Mapping[str, str]
    _asker: Asker
    _arguments: Mapping[str, Json]
    _timeout_s: float
    _trace: str
    _settings: Settings

    async def answer(self) -> dict[str, Json] | Held:
        """The whole answer. Raises `NotReleased`."""
        answer = await self._asker.call_tool(
            self.session_id, self.alias, self._arguments, self._timeout_s, self.step.ident, self._trace, None, MODEL_CALL,
            self.step.request,
        )  # fmt: skip
        return answer if isinstance(answer, Held) else cast("dict[str, Json]", await self._opened(answer))

    async def _opened(self, answer: Json) -> Json:
        """The answer, fetched where it was too large for a reply: OpenAI's clients know no references."""
        return await artifacts.opened(self._settings, answer)

    def parts(self) -> AsyncGenerator[Part, None]:
        """The answer as it comes. Raises `NotReleased`."""
        return stream(
            self._asker, self.session_id, self.alias, self._arguments, self._timeout_s, self.step.ident, self._trace,
            self.step.request, self._opened,
        )  # fmt: skip


async def begin(
    request: web.Request, caller: Caller, door: str, alias: str, body: Mapping[str, Json], arguments: Mapping[str, Json]
) -> ModelCall:  # fmt: skip
    """What a request of this door asks for. Raises a problem, or `NotReleased` where no session can be opened."""
    gate = gate_of(request)
    step = once(request, door, body, request.headers.get(INTENT, ""))
    session_id = valid_id(request.headers.get(SESSION, "") or await _shared(gate, caller))
    return ModelCall(
        alias, session_id, step, {INTENT: valid_id(step.ident), SESSION: session_id}, await asker_of(gate, caller), arguments,
        seconds_in(request.headers.get(TIMEOUT), TIMEOUT_S), request.headers.get("traceparent", "")[:100],
        gate.settings,
    )  # fmt: skip


def models(gate: Gate, agent: Agent) -> list[str]:
    """Routes and model contracts of the deployed release that this agent may ask for at all."""
    release = gate.release
    # INVARIANT: what an agent may never ask is not listed to it (tests/unit/test_may_ask.py).
    return [
        name for name in may_ask(gate.control, release, agent) if release.tools[name].executor_kind == MODEL
    ]


async def _shared(gate: Gate, caller: Caller) -> str:
    """The session that this key's model calls share; opened by whoever comes first, in any gateway."""
    session_id = f"gateway-{caller.key.key_id}-{int(time.time()) // SHARED_S}"
    if gate.opened.get(caller.key.key_id) == session_id:
        return session_id
    try:
        await session_of(gate, caller, session_id, goal="model calls", new=True)
    except NotReleased as error:
        if error.reason != "id_conflict":  # another gateway was first
            raise
    gate.remember(caller.key.key_id, session_id)
    return session_id
