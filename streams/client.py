"""The agent SDK: ask the gate to call a tool, get the result or the reason why not.

    async with AgentClient("support-7") as agent, agent.session("refund order 7") as session:
        result = await session.call_tool("send_money", {"to": "DE02 1203", "amount": 12})

A refusal is an exception (`sdk/errors.py`), an approval that is still open a `Held`. Every await is bounded: with
Kafka or the workers away a call raises `Refused` (`unavailable`) within its time-out. It never calls a tool on its
own: a local function (`governed`) runs only under a permit. Nothing retries: an intent is asked once.
Read next: `sdk/session.py`, `sdk/errors.py`, `sdk/in_process.py` (local functions), `sdk/asking.py`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import ParamSpec, cast

import orjson
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.archive import artifacts
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.lanes.content_store import keeper
from sluicegate.streams.sdk.asking import MAX_ID_CHARS, Asker, Key, is_id, unavailable
from sluicegate.streams.sdk.assembly import Ended, Started, Text, ToolCall
from sluicegate.streams.sdk.errors import (
    Expired,
    Failed,
    InDoubt,
    NotReleased,
    Parked,
    Refused,
    Unanswered,
    Withheld,
)
from sluicegate.streams.sdk.in_process import LocalFunction
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S, Session, governed, session_around, wrap
from sluicegate.streams.sdk.standing import PromptText, Release
from sluicegate.streams.sdk.transport import KafkaTransport, Transport
from sluicegate.streams.settings import Settings

__all__ = [
    "AgentClient", "Ended", "Expired", "Failed", "Held", "InDoubt", "Json", "NotReleased", "Parked", "PromptText", "Refused", "Release", "Session", "Started", "Text",
    "ToolCall", "Unanswered", "Withheld", "governed",
]  # fmt: skip

CONNECT_TIMEOUT_S = 10.0
FUNCTIONS_LIMIT_S = 2.0
"""How long local functions that still run may go on when the client closes."""

P = ParamSpec("P")


def _opened(key: Key | Path | None) -> Key | None:
    """A key, read from its file where it is one."""
    if isinstance(key, Path):
        found = key_files.load(key)
        return found.kid, found.secret
    return key


class AgentClient:
    """One agent's connection to the gate, for one event loop; any number of calls at once.

    Args:
        agent_id: who asks. Register it first: `sluicegate agents register AGENT --role ROLE`.
        settings: where Kafka is; None = the environment, else the embedded broker of `sluicegate up`.
        key: signs what the agent says, where the environment is in signed mode: the path of a file that
            `sluicegate keys new` made, or key id and the 32 bytes of an Ed25519 private key.
        channel: this process also speaks for the channel: it says for whom a session is and what the user said.
            True, or in signed mode the channel's key (as `key`), which an agent alone must not have.
        connect_timeout_s: for `async with`.
        transport: instead of Kafka, for tests.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        settings: Settings | None = None,
        key: Key | Path | None = None,
        channel: bool | Key | Path = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        if not is_id(agent_id):
            raise Terminal(
                f"the agent id `{agent_id[:80]}` is not 1 to {MAX_ID_CHARS} printable characters: change it"
            )
        if key is not None and channel is True:
            raise Terminal(
                "an agent that signs needs a channel that signs: pass channel=(key id, private key)"
            )
        self.agent_id = agent_id
        self._settings = settings
        self._key = _opened(key)
        self._channel = channel if isinstance(channel, bool) else _opened(channel)
        self._connect_timeout_s = connect_timeout_s
        self._transport = transport
        self._asker: Asker | None = None
        self._functions: dict[str, LocalFunction] = {}

    async def __aenter__(self) -> AgentClient:
        """Connect. Raises `Refused` (`unavailable`) when Kafka does not answer, `Terminal` when nothing runs here."""
        settings = self._settings or Settings.from_env()
        transport = self._transport
        keep = keeper(settings) if transport is None else None
        if transport is None:
            settings = attach(settings)
            transport = KafkaTransport(settings, self.agent_id)
        channel_key = self._channel if isinstance(self._channel, tuple) else None
        asker = Asker(
            self.agent_id, settings.env, transport, self._key, channel_key, self._functions, keep=keep
        )
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await transport.start(asker.inbox.deliver)
        except BaseException as error:
            await transport.stop()
            if isinstance(error, TimeoutError | Retryable):
                what = (
                    f"kafka at `{settings.kafka}` was not reached, in at most {self._connect_timeout_s:g} s"
                )
                raise unavailable(what, "", error) from error
            raise
        self._asker = asker
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Give local functions `FUNCTIONS_LIMIT_S` to end, then disconnect. Never raises for a Kafka that is away."""
        asker = self._connected()
        try:
            await asker.runner.close(FUNCTIONS_LIMIT_S)
        finally:
            self._asker = None
            await asker.transport.stop()

    def session(
        self,
        goal: str = "",
        *,
        on_behalf_of: str = "",
        subject: str = "",
        on_behalf_token: str = "",
        session_id: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        task: Mapping[str, Json] | None = None,
    ) -> Session:
        """A conversation, opened by `async with` and closed at its end.

        Args:
            goal: what it is for, in the agent's words; policies and people read it.
            on_behalf_of: the person or service the agent acts for; only with `channel`, else `Terminal`.
            on_behalf_token: a JWT of a registered issuer, whose subject is `on_behalf_of`; only with `channel`.
            subject: whose key encrypts what is said; default `on_behalf_of`, else the agent; only with `channel`.
            session_id: default: a random one.
            timeout_s: for opening. `Refused` when it is refused, or not answered in time.
            task: what it is for, in the fields that the release declares. To policies it is `context.task` only where a channel
                says it, else `context.own_task` (docs/policies.md).
        """
        channel = self._channel is not False
        if not channel and (on_behalf_of or subject or on_behalf_token):
            raise Terminal("only a channel can say for whom a session is: pass channel=True to AgentClient")
        return Session(
            self._connected(),
            session_id=uuid.uuid4().hex if session_id is None else session_id,
            goal=goal,
            on_behalf_of=on_behalf_of,
            subject=subject,
            token=on_behalf_token,
            channel=channel,
            timeout_s=timeout_s,
            task=task,
        )

    def join(self, session_id: str) -> Session:
        """A session that another agent handed to this one (`Session.hand_on`), used and closed by `async with`."""
        return Session(
            self._connected(), session_id=session_id, goal="", on_behalf_of="", subject="", channel=False,
            timeout_s=CALL_TIMEOUT_S, joined=True,
        )  # fmt: skip

    def governed(
        self, tool: str, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Callable[[Callable[P, object]], Callable[P, Awaitable[Json | Held]]]:
        """Decorator: from now on this function runs only under a permit for `tool`.

        The tool's contract says `"executor": {"kind": "in_process"}`. Calling the function asks the gate in the
        innermost open session of this agent, and answers and raises as `Session.call_tool`, which runs it too. Its
        parameters are the tool's arguments by name; it gets those that were decided on. Sync functions run in a
        thread. `Terminal`: for `*args`, for a second function of the same tool, for a call outside a session.
        """

        def decorate(function: Callable[P, object]) -> Callable[P, Awaitable[Json | Held]]:
            if tool in self._functions:
                raise Terminal(f"tool `{tool}` has a local function already: use `governed(session, tool)`")
            local = self._functions[tool] = LocalFunction(function)
            return wrap(function, local, lambda: session_around(self._asker, self.agent_id), tool, timeout_s)

        return decorate

    async def artifact(self, result: Json) -> Json:
        """The content of a result that is a reference, `{"artifact": {...}}`: fetched from the artifact store, and checked.

        The store is the folder that `SLUICEGATE_ARTIFACTS` names, as the executors have it. Raises `Retryable` when it is not
        there, `Terminal` when it is not what the reference says, or the result is none.
        """
        settings = self._settings or Settings.from_env()
        return cast(Json, orjson.loads(await artifacts.fetch(artifacts.store_of(settings), result)))

    async def result(self, intent_id: str, timeout_s: float = CALL_TIMEOUT_S) -> Json | Held:
        """How an intent ended: after a restart, an `Unanswered`, a `Held` or an `InDoubt`.

        Reads the replies that are kept (one day), then waits for new ones until `timeout_s`. Answers and raises as
        `Session.call_tool`: `Held`, `InDoubt` or `Parked` when it still is so after `timeout_s`, `Unanswered` when nothing
        is known. It asks for nothing new, and runs a local function only if this client asked for the intent itself.
        """
        return await self._connected().result(intent_id, timeout_s)

    def _connected(self) -> Asker:
        if self._asker is None:
            raise Terminal(
                f"the client of `{self.agent_id}` is not connected: use `async with AgentClient(...)`"
            )
        return self._asker
