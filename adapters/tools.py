"""What the adapters of agent frameworks share: a framework's tool call as an intent, and the answer in the model's words.

    call of a framework ▸ intent id from session, call id, tool, arguments ▸ `session.call_once` ▸ result | Held | NotReleased

A tool's own function runs only where the contract's executor is `in_process`, under a permit and with the arguments that were
decided on; else an executor makes the call and the function never runs. Never repeats a call, never approves one.
Next: `langgraph.py`, `openai_agents.py`, `pydantic_ai.py`, `streams/sdk/call_once.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from sluicegate.schemas.kinds import TOOL_CALL
from sluicegate.streams.sdk.call_once import CallsOnce, intent_id_of
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.in_process import LocalFunction
from sluicegate.streams.sdk.in_session import current
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S, Session

Run = Callable[[dict[str, Json]], Awaitable[object]]
"""Runs the framework's tool with these arguments."""

log = logging.getLogger("sluicegate.adapters")

HELD_FOR_MODEL = "A person has to agree to this first. It did not happen yet: do not ask for it again."


class ToolFailed(Exception):
    """The framework's tool said that it failed: so the receipt says so, too."""


class Calls:
    """A session, and how a framework's tool names become contracts.

    Args:
        session: open; what is asked stands in it. Default: the one of `in_session` around the running code.
        prefix: put before a tool's name, e.g. `shop.`: `refund` becomes the contract `shop.refund`.
        names: tool name -> contract, where the prefix is not it.
        timeout_s: for one call.
    """

    def __init__(
        self, session: CallsOnce | None = None, *, prefix: str = "", names: Mapping[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._session = session
        self._prefix, self._names, self._timeout_s = prefix, dict(names or {}), timeout_s

    async def ask(
        self, call_id: str, tool: str, arguments: Mapping[str, Json], run: Run | None, kind: str = TOOL_CALL
    ) -> Json | Held:
        """Ask for a framework's call; asked again, it tells how the first one ended. Raises `NotReleased`.

        The model is told in its own words; the developer finds the reason in the log.
        """
        session = self._session or current()
        name = tool if kind != TOOL_CALL else self._contract(tool)
        intent_id = intent_id_of(session.session_id, call_id, name, arguments)
        local = None if run is None else LocalFunction(_by_name(run))
        try:
            answer = await session.call_once(
                name, arguments, intent_id=intent_id, run=local, kind=kind, timeout_s=self._timeout_s
            )
        except NotReleased as error:
            log.warning(
                "%s: %s at %s (`%s`): %s",
                name, error.status, error.stage, error.reason, error.for_developer or error.for_model,
            )  # fmt: skip
            raise
        if isinstance(answer, Held):
            log.warning("%s: held, %s: %s", name, _to_agree(session, answer.intent_id), answer.why)
        return answer

    def intent_id(self, call_id: str, tool: str, arguments: Mapping[str, Json]) -> str:
        """The intent of a framework's call, for `sluicegate approve` and `explain`."""
        session = self._session or current()
        return intent_id_of(session.session_id, call_id, self._contract(tool), arguments)

    def _contract(self, tool: str) -> str:
        return self._names.get(tool, self._prefix + tool)


def _to_agree(session: CallsOnce, intent_id: str) -> str:
    """What a person does who agrees: a gate in this process is asked in its program, any other one by the command."""
    if isinstance(session, Session) and session.in_process:
        return f'gate.approve("{intent_id}") where `gate` was made by Gate.local (docs/local.md)'
    return f"sluicegate approve {intent_id}"


def _by_name(run: Run) -> Callable[..., Awaitable[object]]:
    async def function(**arguments: Json) -> object:
        return await run(arguments)

    return function


def as_text(value: Json) -> str:
    """A released result as a model reads it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_json(text: str) -> Json:
    """What a framework made a text of, as it was: policies and labels see fields instead of one string."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return cast(Json, value) if isinstance(value, dict | list) else text


def for_model(error: NotReleased) -> str:
    """A refusal or failure, for the model."""
    return error.for_model or str(error)


def details(answer: NotReleased | Held) -> dict[str, Json]:
    """The same for the program: what a log, a person or a test asks for."""
    if isinstance(answer, Held):
        return {
            "status": "held", "intent_id": answer.intent_id, "policies": list(answer.policies), "why": answer.why,
        }  # fmt: skip
    return {
        "status": answer.status, "intent_id": answer.intent_id, "policies": list(answer.policies), "why": answer.for_developer,
        "stage": answer.stage, "reason": answer.reason,
    }  # fmt: skip
