"""pydantic-ai: the tools of an agent go through the gate.

    agent = Agent(model, tools=[...], capabilities=[Governed()])
    agent = Agent(governed_model("triage"), ...)                       # model calls, too: a route of the release

A refusal is a failed tool call, for the model. A held call is a deferred one that requires approval: with `DeferredToolRequests` among the
agent's output types the run ends with it, `metadata` has the intent's id, and a run with `DeferredToolResults(approvals=...)` looks
again: the agreement itself comes from a person of Sluicegate. Tools that run at the provider never come here.
Needs `sluicegate[pydantic-ai]`. Next: `tools.py`, `openai_shape.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pydantic_ai.models
from pydantic_ai import ApprovalRequired, RunContext, ToolFailed
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import to_jsonable_python
from sluicegate.adapters.tools import Calls, details, for_model
from sluicegate.streams.sdk.call_once import CallsOnce
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.in_session import in_session
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S

__all__ = ["Governed", "governed_model", "in_session"]


class Governed(AbstractCapability[Any]):
    """Every function tool and toolset of the agent is governed. Arguments: see `tools.Calls`."""

    def __init__(
        self, session: CallsOnce | None = None, *, prefix: str = "", names: Mapping[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._calls = Calls(session, prefix=prefix, names=names, timeout_s=timeout_s)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Around all that the agent can call."""
        return GovernedToolset(toolset, self._calls)


@dataclass
class GovernedToolset(WrapperToolset[Any]):
    """One toolset, governed; for `toolsets=[...]` of an agent whose other tools are not."""

    calls: Calls

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> object:
        """One call."""

        async def run(decided: dict[str, Json]) -> object:
            arguments = tool.args_validator.validate_python(decided)
            return to_jsonable_python(
                await super(GovernedToolset, self).call_tool(name, arguments, ctx, tool)
            )

        asked = cast("dict[str, Json]", to_jsonable_python(tool_args))
        try:
            answer = await self.calls.ask(ctx.tool_call_id or "", name, asked, run)
        except NotReleased as error:
            raise ToolFailed(for_model(error)) from error
        if isinstance(answer, Held):
            raise ApprovalRequired(metadata={"sluicegate": details(answer)})
        return answer


def governed_model(
    alias: str, session: CallsOnce | None = None, *, timeout_s: float = CALL_TIMEOUT_S
) -> pydantic_ai.models.Model:
    """A model by the name of a route or contract of the release, asked through the session. Needs the package `openai`."""
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from sluicegate.adapters.openai_shape import openai_client

    return OpenAIChatModel(
        alias, provider=OpenAIProvider(openai_client=openai_client(session, timeout_s=timeout_s))
    )
