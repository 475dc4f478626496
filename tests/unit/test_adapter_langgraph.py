"""The LangGraph adapter with the real packages and a scripted model: refused, held and resumed, run again, models, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from sluicegate.adapters.langgraph import Governed
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.client import Session
from sluicegate.streams.local import Gate

from examples.refunds.langchain_model import Scripted
from tests import model_release

REFUNDS = Path(__file__).parents[2] / "examples" / "refunds"
CONFIG: Any = {"configurable": {"thread_id": "t"}}


class Till:
    """The tool, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def refund(self, order: str, amount: int) -> dict[str, object]:
        """Give money back for an order."""
        self.paid.append(amount)
        if order == "jammed":
            raise RuntimeError("the till is jammed")
        return {"refunded": amount}


def run(main: Callable[[Gate, Session, Till], Coroutine[object, object, None]]) -> None:
    async def inside() -> None:
        gate = Gate.local(REFUNDS)
        async with gate.agent("support-7") as agent, agent.session("refunds") as session:
            await main(gate, session, Till())

    asyncio.run(inside())


def asks(*amounts: int, order: str = "7") -> Scripted:
    return Scripted(calls=[("refund", {"order": order, "amount": amount}) for amount in amounts])


def said(answer: dict[str, Any]) -> list[ToolMessage]:
    return [m for m in answer["messages"] if isinstance(m, ToolMessage)]


def test_allowed_and_refused() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = create_agent(asks(12, 5000), [till.refund], middleware=[Governed(session)])
        answer = await agent.ainvoke({"messages": [("user", "refund")]})
        paid, refused = said(answer)
        assert (paid.content, paid.status, till.paid) == ('{"refunded": 12}', "success", [12])
        assert refused.status == "error" and refused.content == "You are not permitted to do this."
        about = refused.artifact["sluicegate"]
        assert (about["stage"], about["reason"]) == ("authorize", "no_permit")
        assert "refund-small" in about["why"]
        assert gate.of(about["intent_id"])[-1] == ("authorize", "refused", "no_permit")

    run(main)


def test_held_interrupts_and_only_a_person_lets_it_go_on() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = create_agent(
            asks(500),
            [till.refund],
            middleware=[Governed(session)],
            checkpointer=InMemorySaver(),
        )
        first = await agent.ainvoke({"messages": [("user", "refund")]}, CONFIG)
        held = first["__interrupt__"][0].value
        assert held["sluicegate"]["status"] == "held" and held["arguments"] == {"order": "7", "amount": 500}
        # Whoever resumes is no person of the release: the call stays held, whatever they say.
        again = await agent.ainvoke(Command(resume={"type": "approve"}), CONFIG)
        still = again["__interrupt__"][0].value["sluicegate"]
        assert still["intent_id"] == held["sluicegate"]["intent_id"] and till.paid == []
        gate.approve(held["sluicegate"]["intent_id"], arguments={"order": "7", "amount": 400})
        last = await agent.ainvoke(Command(resume=True), CONFIG)
        assert said(last)[0].content == '{"refunded": 400}' and till.paid == [400]

    run(main)


def test_a_rejected_call_is_told_to_the_model() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = create_agent(
            asks(500), [till.refund], middleware=[Governed(session)], checkpointer=InMemorySaver()
        )
        first = await agent.ainvoke({"messages": [("user", "refund")]}, CONFIG)
        gate.reject(first["__interrupt__"][0].value["sluicegate"]["intent_id"])
        message = said(await agent.ainvoke(Command(resume=True), CONFIG))[0]
        assert message.status == "error" and message.artifact["sluicegate"]["reason"] == "approval_rejected"
        assert till.paid == []

    run(main)


def test_a_node_that_runs_again_does_not_act_twice() -> None:
    """INVARIANT: a graph that is run again from the same checkpoint asks for the same intent, and gets its first end."""

    async def main(gate: Gate, session: Session, till: Till) -> None:
        node = ToolNode([till.refund], awrap_tool_call=Governed(session).awrap_tool_call)
        graph = StateGraph(MessagesState)
        graph.add_node("tools", node)
        graph.add_edge(START, "tools")
        graph.add_edge("tools", END)
        compiled = graph.compile()
        call = {"name": "refund", "args": {"order": "7", "amount": 12}, "id": "c1"}
        state: Any = {"messages": [AIMessage("", tool_calls=[call])]}
        first, second = [said(await compiled.ainvoke(state))[0] for _ in range(2)]
        assert first.content == second.content == '{"refunded": 12}' and till.paid == [12]
        other: Any = {
            "messages": [AIMessage("", tool_calls=[{**call, "args": {"order": "7", "amount": 13}}])]
        }
        assert said(await compiled.ainvoke(other))[0].content == '{"refunded": 13}'  # a call id given twice

    run(main)


def test_a_tool_that_fails_is_told_as_the_ledger_has_it() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = create_agent(asks(12, order="jammed"), [till.refund], middleware=[Governed(session)])
        message = said(await agent.ainvoke({"messages": [("user", "refund")]}))[0]
        assert message.status == "error" and "jammed" in message.artifact["sluicegate"]["why"]
        assert till.paid == [12]

    run(main)


def test_sync_runs_refuse_to_run() -> None:
    async def main(gate: Gate, session: Session, till: Till) -> None:
        agent = create_agent(asks(12), [till.refund], middleware=[Governed(session)])
        with pytest.raises(NotImplementedError):
            agent.invoke({"messages": [("user", "refund")]})
        assert till.paid == []

    run(main)


def test_without_a_session_nothing_runs() -> None:
    till = Till()
    agent = create_agent(asks(12), [till.refund], middleware=[Governed()])
    with pytest.raises(Terminal, match="no session is open"):
        asyncio.run(agent.ainvoke({"messages": [("user", "refund")]}))
    assert till.paid == []


def test_model_calls_are_governed(tmp_path: Path) -> None:
    seen: list[object] = []

    def triage(messages: list[dict[str, object]], **more: object) -> dict[str, object]:
        seen.append(messages)
        return {"text": "urgent", "tool_calls": [], "usage": {"input_tokens": 3, "output_tokens": 1}}

    async def main() -> None:
        gate = Gate.local(model_release.write(tmp_path), tools={"triage": triage})
        async with gate.agent("a", roles=["desk"]) as client, client.session() as session:
            agent = create_agent(asks(12), [], middleware=[Governed(session, model="triage")])
            state: Any = {"messages": [HumanMessage("hello", id="m1")]}
            answer = await agent.ainvoke(state)
            assert answer["messages"][-1].content == "urgent"
            assert answer["messages"][-1].usage_metadata["total_tokens"] == 4
            await agent.ainvoke(state)  # the same node again: the same answer, and no second bill
            assert len(seen) == 1

    asyncio.run(main())
