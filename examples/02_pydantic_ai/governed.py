"""A refund agent on pydantic-ai, as it was before. `diff ungoverned.py governed.py` shows what governing it takes."""

import asyncio
import sys

from pydantic_ai import Agent
from sluicegate.adapters.pydantic_ai import Governed, in_session

from examples.refunds.pydantic_model import scripted


def get_order(order: str) -> dict[str, object]:
    """Read an order."""
    return {"order": order, "paid": 5000}


def refund(order: str, amount: int) -> dict[str, object]:
    """Give money back for an order."""
    print(f"the till pays {amount} for order {order}")
    return {"refunded": amount}


@in_session("support-7", "refunds")
async def main(amount: int) -> None:
    """Refund an order."""
    model = scripted(("get_order", {"order": "7"}), ("refund", {"order": "7", "amount": amount}))
    agent = Agent(model, tools=[get_order, refund], capabilities=[Governed()])
    result = await agent.run(f"refund {amount} of order 7")
    print("agent:", result.output)


asyncio.run(main(int(sys.argv[1])))
