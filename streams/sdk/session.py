"""A conversation with the gate: the session in which an agent asks, and functions governed in it.

Never holds a connection of its own; made by `AgentClient.session`. Read next: `client.py`, `sdk/asking.py`.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import ParamSpec, cast

from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.kinds import MODEL_CALL, TOOL_CALL
from sluicegate.schemas.records import Intent, Message, Reply
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.asking import Asker, refused, valid_id
from sluicegate.streams.sdk.assembly import Part
from sluicegate.streams.sdk.call_once import call_once
from sluicegate.streams.sdk.errors import Unanswered
from sluicegate.streams.sdk.in_process import LocalFunction, now_us
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.memory import Memory
from sluicegate.streams.sdk.once import NEW, Once
from sluicegate.streams.sdk.replies import Held, answer
from sluicegate.streams.sdk.standing import PromptText, Release
from sluicegate.streams.sdk.stream import stream
from sluicegate.streams.sdk.transport import InProcess

CALL_TIMEOUT_S = 30.0
PROMPT_READ = "prompt.read"
"""The tool by which prompts are read (`processors/releases/prompts.py`)."""
BEGIN_S = 300.0
"""How long a submitted call may wait for an executor; as the ledger's own `DEFAULT_DEADLINE_US`."""
CLOSE_LIMIT_S = 2.0
"""For closing a session."""

P = ParamSpec("P")

log = logging.getLogger("sluicegate.client")

_open: ContextVar[tuple[Session, ...]] = ContextVar("sluicegate_open_sessions", default=())
"""The sessions around the running code, the innermost last."""


class Session(Memory):
    """One conversation, open inside `async with`.

    Attributes:
        session_id: as on the ledger.
        goal: what it is for.
        task: the same in the fields that the release declares, as it was said when it opened; None: nothing was said here.
        channel: whether it is the channel that speaks: `messages` instead of `intents`.
    """

    def __init__(
        self,
        asker: Asker,
        *,
        session_id: str,
        goal: str,
        on_behalf_of: str,
        subject: str,
        channel: bool,
        timeout_s: float,
        token: str = "",
        joined: bool = False,
        task: Mapping[str, Json] | None = None,
    ) -> None:
        self.session_id = valid_id(session_id)
        self.goal = goal
        self.task = None if task is None else dict(task)
        self.channel = channel
        self._asker = asker
        self._for = (on_behalf_of, subject, token)
        self._timeout_s = timeout_s
        self._is_open = False
        self._joined = joined

    async def __aenter__(self) -> Session:
        """`open`, and the innermost session of the code in the block."""
        await self.open()
        _open.set((*_open.get(), self))
        return self

    async def open(self, once: Once = NEW) -> None:
        """Open it, unless it is open already and was joined. Raises `Refused`."""
        standing = self._asker.inbox.standing
        standing.watch(self.session_id)
        if not self._joined:
            try:
                answer(await self._say("session.open", self._timeout_s, once=once))
            except BaseException as error:
                standing.forget(self.session_id)
                if isinstance(error, Unanswered):  # it may still open: then it is closed
                    await self._asker.hand_over(*self._step("session.close"), CLOSE_LIMIT_S)
                raise
        self._is_open = True

    async def __aexit__(self, *exc: object) -> None:
        """Close it, for at most `CLOSE_LIMIT_S`. Never raises for a gate that is away."""
        # Not `reset(token)`: the block may end in another context than it began in.
        _open.set(tuple(s for s in _open.get() if s is not self))
        try:
            await self.close()
        except SluicegateError as error:
            log.info("session `%s` was not closed, it ends by itself after a day: %s", self.session_id, error)

    @property
    def in_process(self) -> bool:
        """Whether a gate of this process decides (`Gate.local`), which no command reaches."""
        return isinstance(self._asker.transport, InProcess)

    @property
    def release(self) -> Release | None:
        """The release this session stands on: digest, name and version, as the newest reply had it.

        A rollback, a pin, a canary's end or `deploy --now` may move an open session; the next reply tells. None while it is not
        open, and in a session that was joined, before its first reply.
        """
        return self._asker.inbox.standing.of(self.session_id)

    async def prompt(
        self, name: str, *, timeout_s: float = CALL_TIMEOUT_S, **variables: str | int
    ) -> PromptText | Held:
        """A prompt of the session's release, rendered: `(await session.prompt("triage", plan="gold")).text`.

        For agents that speak to a model of their own; `call_model(prompt=...)` needs no text here. The release needs a
        permit that names `Action::"prompt.read"` (docs/models.md). Recorded, with the prompt's digest; raises as `call_tool`.
        """
        asked: dict[str, Json] = {"prompt": name}
        if variables:
            asked["variables"] = dict(variables)
        done = await self._call(PROMPT_READ, asked, timeout_s)
        if isinstance(done, Held):
            return done
        found = cast("dict[str, str]", done)
        return PromptText(found["text"], found["prompt"], found["digest"], found["release"])

    async def call_tool(
        self,
        tool: str,
        arguments: Mapping[str, Json],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        intent_id: str | None = None,
        traceparent: str = "",
    ) -> Json | Held:
        """Ask for one call, and wait for its end.

        Args:
            tool: the contract's name.
            arguments: a JSON object.
            timeout_s: for everything; also the intent's deadline, so that nothing is taken up after nobody waits.
            intent_id: default: a random one. An id is for one request; `agent.result(id)` tells how it ended.
            traceparent: W3C trace context.

        Returns:
            The released result, or `Held` when a person has to agree first.

        Raises:
            Refused: it is not allowed, or nobody could be asked; the subclasses say more.
            Failed: the tool failed.
            InDoubt: nobody knows whether it happened.
        """
        return await self._call(tool, arguments, timeout_s, intent_id, traceparent)

    async def call_once(
        self, name: str, arguments: Mapping[str, Json], *, intent_id: str, run: LocalFunction | None = None,
        kind: str = TOOL_CALL, timeout_s: float = CALL_TIMEOUT_S,
    ) -> Json | Held:  # fmt: skip
        """As `call_tool`, and a second time for the same id it tells how the first one ended (`sdk/call_once.py`). `run`: in process."""
        self._must_be_open("call", intent_id)
        return await call_once(self._asker, self.session_id, name, arguments, intent_id, run, kind, timeout_s)

    async def submit(
        self,
        tool: str,
        arguments: Mapping[str, Json],
        *,
        begin_s: float = BEGIN_S,
        intent_id: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> str:
        """Ask for one call and return at once: its intent id, for `agent.result(id)`, now or after a restart.

        Args:
            begin_s: nothing begins later than this; work that has begun takes as long as its contract lets it.
            timeout_s: for Kafka to have it.

        Raises:
            Refused: it was not published; `Unanswered` when nobody knows. That the gate refuses it, `result` tells.
        """
        self._must_be_open("submit", intent_id)
        return await self._asker.submit(self.session_id, tool, arguments, begin_s, intent_id, timeout_s)

    async def hand_on(
        self,
        agent_id: str,
        *,
        goal: str = "",
        roles: Sequence[str] | None = None,
        max_calls: int | None = None,
        session_id: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> str:
        """Open a session for another agent, with at most what this one may do; returns its id, for `AgentClient.join`.

        Args:
            agent_id: of the same tenant.
            goal: what for; the other agent is told.
            roles: of those this agent has here; default: all of them.
            max_calls: taken from this session's own, where it has a bound; default: 100, or what is left.
            session_id: default: a random one.
            timeout_s: for everything. `Refused` when it is refused, or not answered in time.
        """
        self._must_be_open("hand on")
        intent_id, session = uuid.uuid4().hex, session_id or uuid.uuid4().hex
        terms: dict[str, Json] = {"agent": agent_id, "session": session}
        if roles is not None:
            terms["roles"] = list(roles)
        if max_calls is not None:
            terms["max_calls"] = max_calls
        intent = Intent(
            intent_id, self._asker.agent_id, self.session_id, "handoff", "", client_json.dumps(terms), now_us(), goal=goal
        )  # fmt: skip
        answer(await self._asker.ask("intents", intent, intent_id, timeout_s))
        return session

    async def call_model(
        self,
        alias: str,
        messages: Sequence[Mapping[str, Json]] = (),
        *,
        prompt: str = "",
        variables: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        intent_id: str | None = None,
        traceparent: str = "",
        **options: Json,
    ) -> Json | Held:
        """Ask a model, and wait for its answer.

        Args:
            alias: a route's name, such as `triage`, or a contract's; which model that is, the release says.
            messages: as in OpenAI's chat completions.
            prompt, variables: what the model is told, by name out of the release; it comes before the messages.
            timeout_s, intent_id, traceparent: as for `call_tool`.
            options: further arguments that the contract takes: `max_tokens`, `tools`, `response_format`, ...

        Returns:
            {text, tool_calls, finish_reason, served_model, usage{input_tokens, output_tokens}}, or `Held`.

        Raises:
            As `call_tool`; `Withheld` with the reason `model_changed` when another model answered than the pinned one.
        """
        arguments = self._told(messages, prompt, variables, options)
        return await self._call(alias, arguments, timeout_s, intent_id, traceparent, kind=MODEL_CALL)

    @staticmethod
    def _told(
        messages: Sequence[Mapping[str, Json]], prompt: str, variables: Mapping[str, str | int] | None,
        options: Mapping[str, Json],
    ) -> dict[str, Json]:  # fmt: skip
        """The arguments of a model call."""
        said: list[Json] = [dict(message) for message in messages]
        arguments: dict[str, Json] = {"messages": said, **options}
        if prompt:
            arguments |= {"prompt": prompt, "variables": dict(variables or {})}
        return arguments

    def stream_model(
        self,
        alias: str,
        messages: Sequence[Mapping[str, Json]] = (),
        *,
        prompt: str = "",
        variables: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        intent_id: str | None = None,
        traceparent: str = "",
        **options: Json,
    ) -> AsyncIterator[Part]:
        """Ask a model, and read its answer as it comes, as far as the contract's `stream` lets it.

            async for part in session.stream_model("triage", messages):
                match part:
                    case Started(replaces=old): ...     # a message begins; what `old` showed is void
                    case Text(text=more): ...
                    case ToolCall(index=n, name=name, arguments=more): ...
                    case Ended(result=answer): ...      # as `call_model` returns it

        Arguments are those of `call_model`. What is shown before `Ended` is not released yet: where an exception comes in its
        place (`Withheld`, `Failed`, ...; as `call_tool`), it never was. Leave early with `aclose()`, or by ending the task.
        """
        arguments = self._told(messages, prompt, variables, options)
        self._must_be_open("stream", intent_id)
        return stream(self._asker, self.session_id, alias, arguments, timeout_s, intent_id, traceparent)

    async def user_said(self, text: str, *, timeout_s: float = CALL_TIMEOUT_S, once: Once = NEW) -> None:
        """Report the user's own words. Raises `Refused`, and `Terminal` without `channel`."""
        if not self.channel:
            raise Terminal("only a channel can report what a user said: pass channel=True to AgentClient")
        answer(await self._say("session.user_said", timeout_s, text, once))

    async def close(self) -> None:
        """Close it now; again does nothing. Raises `Refused` when nobody confirms within `CLOSE_LIMIT_S`."""
        if self._is_open:
            self._is_open = False
            try:
                answer(await self._say("session.close", CLOSE_LIMIT_S))
            finally:
                self._asker.inbox.standing.forget(self.session_id)

    async def _call(
        self,
        tool: str,
        arguments: Mapping[str, Json],
        timeout_s: float,
        intent_id: str | None = None,
        traceparent: str = "",
        function: LocalFunction | None = None,
        kind: str = TOOL_CALL,
    ) -> Json | Held:
        self._must_be_open("call", intent_id)
        return await self._asker.call_tool(
            self.session_id, tool, arguments, timeout_s, intent_id, traceparent, function, kind
        )

    def _must_be_open(self, do: str, intent_id: str | None = None) -> None:
        """Raises `Refused` outside of the block."""
        if not self._is_open:
            detail = f"session `{self.session_id}` is not open: {do} inside `async with agent.session(...)`"
            raise refused("unknown_session", intent_id or "", detail)

    async def _say(self, kind: str, timeout_s: float, text: str = "", once: Once = NEW) -> Reply:
        return await self._asker.ask(*self._step(kind, text, once), timeout_s)

    def _step(self, kind: str, text: str = "", once: Once = NEW) -> tuple[str, Intent | Message, str]:
        """Topic, record and id of a step of the conversation."""
        step_id, agent_id, now = once.ident or uuid.uuid4().hex, self._asker.agent_id, now_us()
        opening = kind == "session.open"
        goal, task = (self.goal, self.task) if opening else ("", None)
        if not self.channel:
            raw = b"{}" if task is None else client_json.dumps({"task": task})
            intent = Intent(
                step_id, agent_id, self.session_id, kind, "", raw, now, goal=goal, request=once.request
            )
            return "intents", intent, step_id
        on_behalf_of, subject, token = self._for if opening else ("", "", "")
        message = Message(
            step_id, agent_id, self.session_id, kind, now, goal, on_behalf_of, subject, text, on_behalf_token=token,
            request=once.request, task="" if task is None else client_json.dumps(task).decode(),
        )  # fmt: skip
        return "messages", message, step_id


def governed(
    session: Session, tool: str, *, timeout_s: float = CALL_TIMEOUT_S
) -> Callable[[Callable[P, object]], Callable[P, Awaitable[Json | Held]]]:
    """As `AgentClient.governed`, for one session: `send = governed(session, "send_money")(bank.send)`."""

    def decorate(function: Callable[P, object]) -> Callable[P, Awaitable[Json | Held]]:
        return wrap(function, LocalFunction(function), lambda: session, tool, timeout_s)

    return decorate


def wrap(
    function: Callable[P, object],
    local: LocalFunction,
    where: Callable[[], Session],
    tool: str,
    timeout_s: float,
) -> Callable[P, Awaitable[Json | Held]]:
    """`function` as a call through the gate, in the session that `where` names at the time."""

    @functools.wraps(function)
    async def ask(*args: P.args, **kwargs: P.kwargs) -> Json | Held:
        return await where()._call(tool, local.arguments(args, kwargs), timeout_s, function=local)

    return ask


def session_around(asker: Asker | None, agent_id: str) -> Session:
    """The innermost open session of this connection around the running code; raises `Terminal` without one."""
    for session in reversed(_open.get()):
        if session._asker is asker:
            return session
    raise Terminal(f"no session of `{agent_id}` is open here: call it inside `async with agent.session(...)`")
