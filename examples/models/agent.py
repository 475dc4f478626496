"""An agent that triages mail: one session, one question a second, until it is stopped. It knows no model and no prompt's text.

sluicegate agents register mail-1 --role mail
python examples/models/agent.py mail-1 60
"""

from __future__ import annotations

import asyncio
import sys
import time

from sluicegate.streams.client import AgentClient, NotReleased

EVERY_S = 1.0


async def main(agent_id: str, for_s: float) -> None:
    """Ask until the time is over."""
    until = time.monotonic() + for_s
    async with AgentClient(agent_id) as agent, agent.session("triage the mail") as session:
        while time.monotonic() < until:
            try:
                await session.call_model("triage", prompt="triage", variables={"team": "night"})
            except NotReleased as refused:
                print(f"no: {refused}")
            await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
