"""Agents of each framework, with a scripted model: three refunds, of which the gate allows one, refuses one and holds one.

first, go_on = await LANGGRAPH(session, till)       # what the tools said so far and the held intent
last = await go_on()                                # looked at again, once a person has agreed
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import agents
import pydantic_ai
from agents.items import ToolCallOutputItem
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic_ai import DeferredToolRequests, DeferredToolResults
from pydantic_ai.messages import ToolReturnPart
from sluicegate.adapters import langgraph, openai_agents
from sluicegate.adapters import pydantic_ai as for_pydantic_ai
from sluicegate.streams.sdk.call_once import CallsOnce

from examples.refunds import agents_model, langchain_model, pydantic_model

CALLS: list[tuple[str, dict[str, object]]] = [
    ("refund", {"order": "7", "amount": amount}) for amount in (12, 5000, 500)
]
agents.set_tracing_disabled(True)

Said = tuple[list[str], str]
"""What the tools said, and the intent that is held."""
Run = Callable[[CallsOnce, "Till"], Awaitable[tuple[Said, Callable[[], Awaitable[list[str]]]]]]


class Till:
    """The tool, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def refund(self, order: str, amount: int) -> dict[str, object]:
        """Give money back for an order."""
        self.paid.append(amount)
        return {"refunded": amount}


async def on_langgraph(session: CallsOnce, till: Till) -> tuple[Said, Callable[[], Awaitable[list[str]]]]:
    agent = create_agent(
        langchain_model.Scripted(calls=CALLS), [till.refund], middleware=[langgraph.Governed(session)],
        checkpointer=InMemorySaver(),
    )  # fmt: skip
    config: Any = {"configurable": {"thread_id": "t"}}

    def said(answer: dict[str, Any]) -> list[str]:
        return [str(m.content) for m in answer["messages"] if isinstance(m, ToolMessage)]

    async def go_on() -> list[str]:
        return said(await agent.ainvoke(Command(resume=True), config))

    first = await agent.ainvoke({"messages": [("user", "refund")]}, config)
    return (said(first), first["__interrupt__"][0].value["sluicegate"]["intent_id"]), go_on


async def on_openai_agents(session: CallsOnce, till: Till) -> tuple[Said, Callable[[], Awaitable[list[str]]]]:
    plain = agents.Agent(
        name="refunds", model=agents_model.scripted(*CALLS), tools=[agents.function_tool(till.refund)]
    )
    agent = openai_agents.governed(plain, session)

    def said(result: agents.RunResult) -> list[str]:
        return [str(item.output) for item in result.new_items if isinstance(item, ToolCallOutputItem)]

    first = await agents.Runner.run(agent, "refund")
    [(intent_id, item)] = openai_agents.held(first, session).items()

    async def go_on() -> list[str]:
        state = first.to_state()
        state.approve(item)
        return said(await agents.Runner.run(agent, state))

    return (said(first), intent_id), go_on


async def on_pydantic_ai(session: CallsOnce, till: Till) -> tuple[Said, Callable[[], Awaitable[list[str]]]]:
    agent = pydantic_ai.Agent(
        pydantic_model.scripted(*CALLS), tools=[till.refund], capabilities=[for_pydantic_ai.Governed(session)],
        output_type=[str, DeferredToolRequests],
    )  # fmt: skip

    def said(result: Any) -> list[str]:
        parts = [p for m in result.all_messages() for p in m.parts if isinstance(p, ToolReturnPart)]
        return [p.model_response_str() for p in parts]

    first: Any = await agent.run("refund")
    [(call_id, about)] = first.output.metadata.items()

    async def go_on() -> list[str]:
        yes = DeferredToolResults(approvals={call_id: True})
        return said(await agent.run(message_history=first.all_messages(), deferred_tool_results=yes))

    return (said(first), about["sluicegate"]["intent_id"]), go_on


RUNS: dict[str, Run] = {
    "langgraph": on_langgraph,
    "openai-agents": on_openai_agents,
    "pydantic-ai": on_pydantic_ai,
}
