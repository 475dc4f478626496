"""A refund agent on LangGraph, as it was before. `diff ungoverned.py governed.py` shows what governing it takes."""

import asyncio
import sys

from langchain.agents import create_agent

from examples.refunds.langchain_model import Scripted


def get_order(order: str) -> dict[str, object]:
    """Read an order."""
    return {"order": order, "paid": 5000}


def refund(order: str, amount: int) -> dict[str, object]:
    """Give money back for an order."""
    print(f"the till pays {amount} for order {order}")
    return {"refunded": amount}


async def main(amount: int) -> None:
    """Refund an order."""
    model = Scripted(calls=[("get_order", {"order": "7"}), ("refund", {"order": "7", "amount": amount})])
    agent = create_agent(model, [get_order, refund])
    answer = await agent.ainvoke({"messages": [("user", f"refund {amount} of order 7")]})
    print("agent:", answer["messages"][-1].content)


asyncio.run(main(int(sys.argv[1])))
