"""LangChain and LangGraph: the calls of an agent go through the gate.

    agent = create_agent(model, tools, middleware=[Governed(session)])         # langchain
    node = ToolNode(tools, awrap_tool_call=Governed(session).awrap_tool_call)  # a graph of your own

A refusal is a tool message the model reads. A held call interrupts the graph; `Command(resume=...)` looks again: the agreement
itself comes from a person (`sluicegate approve`, the gateway), never from whoever resumes. A node that runs again asks for the
same intent and gets its end. With `model=` model calls are governed, too. Async only: `ainvoke`, `astream`.
Tools that the provider runs itself never come here. Needs `sluicegate[langgraph]`. Next: `tools.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, ToolCallRequest
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, tool_call
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command, interrupt
from sluicegate.adapters.tools import Calls, ToolFailed, as_json, as_text, details, for_model
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.kinds import MODEL_CALL
from sluicegate.streams.sdk.call_once import CallsOnce
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.in_session import in_session
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S

__all__ = ["Governed", "in_session"]

SETTINGS = ("max_tokens", "temperature", "top_p", "seed", "stop")
"""Of a request's model settings: passed on where they are given."""


class Governed(AgentMiddleware):
    """Middleware: every tool call of the agent is an intent, and with `model` every model call.

    Args:
        session, prefix, names, timeout_s: see `tools.Calls`.
        model: a route or model contract of the release, such as `triage`; the agent's own model is then never called.
    """

    def __init__(
        self, session: CallsOnce | None = None, *, prefix: str = "", names: Mapping[str, str] | None = None, model: str = "",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:  # fmt: skip
        super().__init__()
        self._calls = Calls(session, prefix=prefix, names=names, timeout_s=timeout_s)
        self._model = model

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[object]]],
    ) -> ToolMessage:
        """One tool call."""
        call = request.tool_call

        async def run(arguments: dict[str, Json]) -> object:
            decided = cast(ToolCall, {**call, "args": arguments})
            return _result(await handler(request.override(tool_call=decided)))

        try:
            answer = await self._calls.ask(call["id"] or "", call["name"], call["args"], run)
            while isinstance(answer, Held):
                interrupt({"sluicegate": details(answer), "tool": call["name"], "arguments": call["args"]})
                answer = await self._calls.ask(call["id"] or "", call["name"], call["args"], run)
        except NotReleased as error:
            return _message(call, for_model(error), details(error))
        return _message(call, as_text(answer))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse | AIMessage:
        """One model call. Raises `NotReleased` when there is no answer: without a model there is no agent."""
        if not self._model:
            return await handler(request)
        if request.response_format is not None:
            raise Terminal("a governed model takes no response_format yet: ask for JSON in the prompt")
        asked = _asked(request)
        told = "\n".join(str(m.id or "") for m in request.messages)
        answer = await self._calls.ask(f"model\n{told}", self._model, asked, None, MODEL_CALL)
        while isinstance(answer, Held):
            interrupt({"sluicegate": details(answer), "model": self._model})
            answer = await self._calls.ask(f"model\n{told}", self._model, asked, None, MODEL_CALL)
        return _said(cast("dict[str, Json]", answer))


def _result(message: ToolMessage | Command[object]) -> Json:
    """What the tool said, for the receipt."""
    if not isinstance(message, ToolMessage):
        raise ToolFailed("a tool that returns a `Command` cannot be governed: return its result")
    content: str | Sequence[object] = message.content
    if message.status == "error":
        raise ToolFailed(as_text(cast(Json, content)))
    return as_json(content) if isinstance(content, str) else cast(Json, content)


def _message(call: ToolCall, text: str, about: dict[str, Json] | None = None) -> ToolMessage:
    return ToolMessage(
        text, tool_call_id=call["id"], name=call["name"], status="success" if about is None else "error",
        artifact=None if about is None else {"sluicegate": about},
    )  # fmt: skip


def _asked(request: ModelRequest) -> dict[str, Json]:
    """The arguments of a model call."""
    messages: list[AnyMessage] = list(request.messages)
    if request.system_message is not None:
        messages.insert(0, request.system_message)
    asked: dict[str, Json] = {"messages": cast(Json, convert_to_openai_messages(messages))}
    if request.tools:
        asked["tools"] = [cast(Json, convert_to_openai_tool(tool)) for tool in request.tools]
    if request.tool_choice is not None:
        asked["tool_choice"] = cast(Json, request.tool_choice)
    return asked | {name: request.model_settings[name] for name in SETTINGS if name in request.model_settings}


def _said(answer: dict[str, Json]) -> AIMessage:
    """A released model result as LangChain's message."""
    calls = cast("list[dict[str, Json]]", answer.get("tool_calls") or [])
    usage = cast("dict[str, int]", answer.get("usage") or {})
    given, made = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    return AIMessage(
        str(answer.get("text") or ""),
        tool_calls=[
            tool_call(name=str(c["name"]), args=cast("dict[str, object]", c["arguments"]), id=str(c["id"])) for c in calls
        ],
        usage_metadata=UsageMetadata(input_tokens=given, output_tokens=made, total_tokens=given + made),
        response_metadata={"model_name": answer.get("served_model") or ""},
    )  # fmt: skip
