"""The pydantic-ai adapter with the real package and its function model: refused, deferred and resumed, edits, failures, models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult
from sluicegate.adapters.pydantic_ai import Governed, governed_model
from sluicegate.streams.client import Session
from sluicegate.streams.local import Gate

from examples.refunds.pydantic_model import scripted
from tests import model_release

REFUNDS = Path(__file__).parents[2] / "examples" / "refunds"


class Paid(BaseModel):
    """A tool's result that is no JSON by itself."""

    refunded: int


class Till:
    """The tool, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def refund(self, order: str, amount: int) -> Paid:
        """Give money back for an order."""
        self.paid.append(amount)
        if order == "jammed":
            raise RuntimeError("the till is jammed")
        return Paid(refunded=amount)


def run(main: Callable[[Gate, Session, Till], Coroutine[object, object, None]]) -> None:
    async def inside() -> None:
        gate = Gate.local(REFUNDS)
        async with gate.agent("support-7") as agent, agent.session("refunds") as session:
            await main(gate, session, Till())

    asyncio.run(inside())


def asks(*amounts: int, order: str = "7") -> Model:
    return scripted(*[("refund", {"order": order, "amount": amount}) for amount in amounts])


def returns(result: AgentRunResult[object]) -> list[ToolReturnPart]:
    return [p for m in result.all_messages() for p in m.parts if isinstance(p, ToolReturnPart)]


def test_allowed_and_refused() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = Agent(asks(12, 5000), tools=[till.refund], capabilities=[Governed(session)])
        paid, refused = returns(await agent.run("refund"))
        assert paid.content == {"refunded": 12} and till.paid == [12]
        assert (refused.outcome, refused.content) == ("failed", "You are not permitted to do this.")

    run(main)


def test_held_is_deferred_and_only_a_person_lets_it_go_on() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = Agent(
            asks(500),
            tools=[till.refund],
            capabilities=[Governed(session)],
            output_type=[str, DeferredToolRequests],
        )
        first = await agent.run("refund")
        assert isinstance(first.output, DeferredToolRequests)
        (call,) = first.output.approvals
        about = first.output.metadata[call.tool_call_id]["sluicegate"]
        yes = DeferredToolResults(approvals={call.tool_call_id: True})
        again = await agent.run(message_history=first.all_messages(), deferred_tool_results=yes)
        assert isinstance(again.output, DeferredToolRequests) and till.paid == []
        gate.approve(about["intent_id"], arguments={"order": "7", "amount": 400})
        last = await agent.run(message_history=again.all_messages(), deferred_tool_results=yes)
        assert returns(last)[-1].content == {"refunded": 400} and till.paid == [400]

    run(main)


def test_a_tool_that_fails_is_told_to_the_model() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = Agent(asks(12, order="jammed"), tools=[till.refund], capabilities=[Governed(session)])
        (part,) = returns(await agent.run("refund"))
        assert part.outcome == "failed" and till.paid == [12]

    run(main)


def test_models_by_the_names_of_the_release(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate.local(
            model_release.write(tmp_path), tools={"triage": lambda messages, **more: {"text": "fine"}}
        )
        async with gate.agent("a", roles=["desk"]) as client, client.session() as session:
            agent = Agent(governed_model("triage", session))
            assert (await agent.run("hello")).output == "fine"

    asyncio.run(main())
