"""The OpenAI Agents adapter with the real SDK and a scripted model: refused, held and resumed, failures, hand-offs, models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    RunConfig,
    Runner,
    WebSearchTool,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from agents.items import ToolCallOutputItem
from agents.result import RunResult
from sluicegate.adapters.openai_agents import GovernedModels, governed, held
from sluicegate.adapters.openai_shape import openai_client
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.client import Session
from sluicegate.streams.local import Gate

from examples.refunds.agents_model import scripted
from tests import model_release

REFUNDS = Path(__file__).parents[2] / "examples" / "refunds"
set_tracing_disabled(True)


class Till:
    """The tool, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def tool(self) -> Any:
        @function_tool
        def refund(order: str, amount: int) -> dict[str, object]:
            """Give money back for an order."""
            self.paid.append(amount)
            if order == "jammed":
                raise RuntimeError("the till is jammed")
            return {"refunded": amount}

        return refund


def run(main: Callable[[Gate, Session, Till], Coroutine[object, object, None]]) -> None:
    async def inside() -> None:
        gate = Gate.local(REFUNDS)
        async with gate.agent("support-7") as agent, agent.session("refunds") as session:
            await main(gate, session, Till())

    asyncio.run(inside())


def asks(*amounts: int, order: str = "7") -> Any:
    return scripted(*[("refund", {"order": order, "amount": amount}) for amount in amounts])


def outputs(result: RunResult) -> list[object]:
    return [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]


def test_allowed_and_refused() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = Agent(name="refunds", model=asks(12, 5000), tools=[till.tool()])
        result = await Runner.run(governed(agent, session), "refund")
        assert outputs(result) == ['{"refunded": 12}', "You are not permitted to do this."]
        assert (
            till.paid == [12] and [t.on_invoke_tool for t in agent.tools] != []
        )  # the agent itself is as it was

    run(main)


def test_held_interrupts_and_only_a_person_lets_it_go_on() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = governed(Agent(name="refunds", model=asks(500, 600), tools=[till.tool()]), session)
        result = await Runner.run(agent, "refund")
        (intent_id, item), *_ = held(result, session).items()
        assert gate.of(intent_id)[-1][1] == "held" and till.paid == []
        gate.approve(intent_id, arguments={"order": "7", "amount": 400})
        state = result.to_state()
        state.approve(item)
        result = await Runner.run(agent, state)
        assert outputs(result)[0] == '{"refunded": 400}' and till.paid == [400]
        # The run's own approval alone moves nothing.
        (intent_id, item), *_ = held(result, session).items()
        state = result.to_state()
        state.approve(item)
        result = await Runner.run(agent, state)
        assert "person has to agree" in str(outputs(result)[-1]) and till.paid == [400]
        assert gate.of(intent_id)[-1][1] in ("held", "noted")

    run(main)


def test_a_failure_is_a_failure_on_the_ledger() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = Agent(name="refunds", model=asks(12, order="jammed"), tools=[till.tool()])
        await Runner.run(governed(agent, session), "refund")
        assert till.paid == [12] and {o.status for o in gate.events} & {"failed", "in_doubt"}

    run(main)


def test_agents_that_it_hands_off_to_are_governed_too_even_in_a_circle() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        desk: Any = Agent(name="desk", model=asks(5000), tools=[till.tool()])
        front: Any = Agent(
            name="front", model=scripted(("transfer_to_desk", {})), handoffs=[desk], tools=[till.tool()]
        )
        desk.handoffs.append(front)
        result = await Runner.run(governed(front, session), "refund")
        assert outputs(result) == ["You are not permitted to do this."] and till.paid == []

    run(main)


def test_what_would_run_past_the_gate_is_refused() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        inner: Any = Agent(name="inner")
        with pytest.raises(Terminal, match="past the gate"):
            governed(Agent(name="a", tools=[WebSearchTool()]), session)
        with pytest.raises(Terminal, match="no plain agent"):
            governed(Agent(name="a", handoffs=[handoff(inner)]), session)
        with pytest.raises(Terminal, match="MCP servers"):
            governed(Agent(name="a", mcp_servers=[object()]), session)  # type: ignore[list-item]

    run(main)


def test_models_by_the_names_of_the_release(tmp_path: Path) -> None:
    answers: list[dict[str, object]] = [
        {"text": "", "tool_calls": [{"id": "c1", "name": "look", "arguments": {"at": "till"}}], "usage": {}},
        {"text": "it is fine", "tool_calls": [], "usage": {"input_tokens": 3, "output_tokens": 2}},
    ]

    @function_tool
    def look(at: str) -> str:
        """Look."""
        return f"{at} is there"

    async def main() -> None:
        gate = Gate.local(
            model_release.write(tmp_path), tools={"triage": lambda messages, **more: answers.pop(0)}
        )
        async with gate.agent("a", roles=["desk"]) as client, client.session() as session:
            agent = Agent(name="a", model="triage", tools=[look])
            result = await Runner.run(
                agent, "hello", run_config=RunConfig(model_provider=GovernedModels(session))
            )
            assert result.final_output == "it is fine" and outputs(result) == ["till is there"]
            answers.append({"text": "again", "tool_calls": []})
            stream = await openai_client(session).chat.completions.create(
                model="triage", messages=[{"role": "user", "content": "x"}], stream=True
            )
            said = [c.choices[0].delta.content async for c in stream if c.choices]
            assert said[0] == "again"
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await openai_client(session).chat.completions.create(
                    model="triage", messages=[], max_tokens=2000
                )
            assert refused.value.code == "forbidden"

    asyncio.run(main())
