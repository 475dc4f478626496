"""A refund agent on the OpenAI Agents SDK, as it was before. `diff ungoverned.py governed.py` shows what governing it takes."""

import asyncio
import sys

from agents import Agent, Runner, function_tool, set_tracing_disabled
from sluicegate.adapters.openai_agents import governed, in_session

from examples.refunds.agents_model import scripted


@function_tool
def get_order(order: str) -> dict[str, object]:
    """Read an order."""
    return {"order": order, "paid": 5000}


@function_tool
def refund(order: str, amount: int) -> dict[str, object]:
    """Give money back for an order."""
    print(f"the till pays {amount} for order {order}")
    return {"refunded": amount}


@in_session("support-7", "refunds")
async def main(amount: int) -> None:
    """Refund an order."""
    model = scripted(("get_order", {"order": "7"}), ("refund", {"order": "7", "amount": amount}))
    agent = Agent(name="refunds", model=model, tools=[get_order, refund])
    result = await Runner.run(governed(agent), f"refund {amount} of order 7")
    print("tools:", [item.output for item in result.new_items if item.type == "tool_call_output_item"])


set_tracing_disabled(True)  # traces would go to OpenAI
asyncio.run(main(int(sys.argv[1])))
