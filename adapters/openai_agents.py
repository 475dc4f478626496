"""OpenAI Agents SDK: the function tools of an agent, and of those it hands off to, go through the gate.

    result = await Runner.run(governed(agent), "refund order 7")
    run_config = RunConfig(model_provider=GovernedModels(session))     # model calls, too: names are routes of the release

A refusal is the tool's output, for the model. A held call is an interruption of the run; `state.approve(item)` and a new run look
again: the agreement itself comes from a person of Sluicegate (`held` has the ids), `state.reject(item)` only gives up waiting.
Tools that run at the provider, MCP servers and computer or shell tools cannot be governed: such an agent is refused.
Needs `sluicegate[openai-agents]`. Next: `tools.py`, `openai_shape.py`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar, cast

from agents import Agent, FunctionTool, Model, ModelProvider, OpenAIChatCompletionsModel, RunContextWrapper
from agents.items import ToolApprovalItem
from agents.result import RunResult, RunResultStreaming
from agents.tool_context import ToolContext
from sluicegate.adapters.openai_shape import openai_client
from sluicegate.adapters.tools import HELD_FOR_MODEL, Calls, as_text, for_model
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.sdk.call_once import CallsOnce
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.in_session import in_session
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S

__all__ = ["GovernedModels", "governed", "held", "in_session"]

MAX_ANSWERS = 1_000
"""Answers that the runner has not fetched yet, of one tool; a few kB each."""

T = TypeVar("T")


def governed(
    agent: Agent[T], session: CallsOnce | None = None, *, prefix: str = "", names: Mapping[str, str] | None = None,
    timeout_s: float = CALL_TIMEOUT_S,
) -> Agent[T]:  # fmt: skip
    """A copy of the agent whose function tools, and those of its hand-offs, are intents. Arguments: see `tools.Calls`.

    Raises `Terminal` for what would run without being asked: hosted tools, MCP servers, hand-offs that are not plain agents.
    """
    calls = Calls(session, prefix=prefix, names=names, timeout_s=timeout_s)
    return _copy(agent, calls, {})


def _copy(agent: Agent[T], calls: Calls, made: dict[int, Agent[T]]) -> Agent[T]:
    if id(agent) in made:
        return made[id(agent)]
    if agent.mcp_servers:
        raise Terminal(
            f"the MCP servers of agent `{agent.name}` would be called past the gate: put their tools in the release"
        )
    tools = []
    for tool in agent.tools:
        if not isinstance(tool, FunctionTool):
            raise Terminal(
                f"the tool `{tool.name}` of agent `{agent.name}` would run past the gate: take it out"
            )
        tools.append(_Tool(tool, calls).tool)
    copy = made[id(agent)] = agent.clone(tools=tools, handoffs=[])
    for target in agent.handoffs:
        if not isinstance(target, Agent):
            raise Terminal(
                f"a hand-off of agent `{agent.name}` is no plain agent: name the agent itself in `handoffs`"
            )
        copy.handoffs.append(_copy(target, calls, made))
    return copy


class _Tool:
    """One function tool: asked when the runner wants to know whether a person has to agree, answered when it invokes it."""

    def __init__(self, tool: FunctionTool, calls: Calls) -> None:
        self._calls = calls
        # Its own words for errors would make a failure look like a result: the receipt must say what happened.
        self._raw = replace(tool, _failure_error_function=None, _use_default_failure_error_function=False)
        self._answers: OrderedDict[str, str] = OrderedDict()
        self.tool = FunctionTool(
            tool.name, tool.description, tool.params_json_schema, self._invoke, tool.strict_json_schema, tool.is_enabled,
            tool.tool_input_guardrails, tool.tool_output_guardrails, needs_approval=self._needs_a_person,
        )  # fmt: skip

    async def _needs_a_person(
        self, context: RunContextWrapper[object], arguments: dict[str, object], call_id: str
    ) -> bool:
        answer = await self._ask(context, call_id, cast("dict[str, Json]", arguments))
        if answer is None:
            return True
        self._answers[call_id] = answer
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        return False

    async def _invoke(self, context: ToolContext[object], text: str) -> str:
        if context.tool_call_id in self._answers:
            return self._answers.pop(context.tool_call_id)
        try:
            arguments = json.loads(text or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            return "The arguments are no JSON object: call the tool again with one."
        answer = await self._ask(context, context.tool_call_id, arguments)
        return HELD_FOR_MODEL if answer is None else answer

    async def _ask(
        self, context: RunContextWrapper[object], call_id: str, arguments: dict[str, Json]
    ) -> str | None:
        """What the model is told; None while a person has to agree."""

        async def run(decided: dict[str, Json]) -> object:
            text = json.dumps(decided, ensure_ascii=False)
            inner = ToolContext.from_agent_context(
                context, call_id, tool_name=self._raw.name, tool_arguments=text
            )
            return await self._raw.on_invoke_tool(inner, text)

        try:
            answer = await self._calls.ask(call_id, self._raw.name, arguments, run)
        except NotReleased as error:
            return for_model(error)
        return None if isinstance(answer, Held) else as_text(answer)


def held(
    result: RunResult | RunResultStreaming, session: CallsOnce | None = None, *, prefix: str = ""
) -> dict[str, ToolApprovalItem]:
    """The held calls of an interrupted run: intent id, as `sluicegate approve` takes it -> the run's item."""
    calls = Calls(session, prefix=prefix)
    found = {}
    for item in result.interruptions:
        arguments = json.loads(item.arguments or "{}")
        found[calls.intent_id(item.call_id or "", item.name or "", arguments)] = item
    return found


class GovernedModels(ModelProvider):
    """Models by the names of the release's routes and contracts; chat completions through the session."""

    def __init__(self, session: CallsOnce | None = None, default: str = "") -> None:
        self._client = openai_client(session)
        self._default = default

    def get_model(self, model_name: str | None) -> Model:
        """The model of that name. Raises `Terminal` without one."""
        name = model_name or self._default
        if not name:
            raise Terminal('no model is named: say which route of the release it is, `Agent(model="triage")`')
        return OpenAIChatCompletionsModel(name, self._client)
