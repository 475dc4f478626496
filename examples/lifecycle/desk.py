"""The refund desk: agents that read their instructions from the release their session stands on, and do as they are told.

No model is asked: an agent is a program that follows the prompt, now and then wrongly. Told to refund what was paid it asks for too
much in 2 of 100 refunds; told to be generous, in 30. It never learns which release is the better one, and what a careless prompt had
it write down stays in its memory when that release is gone: only a rollback of the agent takes it back. Next: `__main__.py`.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass, field

from sluicegate.streams.client import AgentClient, NotReleased
from sluicegate.streams.settings import Settings

from examples.lifecycle.tools import paid

AGENTS = [f"refunds-{n}" for n in range(1, 9)]
TOO_MUCH = {False: 0.02, True: 0.3}
"""Told to be generous -> share of refunds that are too high."""
GENEROUS = "generous"
REFUNDS = 2
"""In one session."""


@dataclass
class Desk:
    """The desk's day. `sessions`: how many were closed. `styles`: what each agent wrote into its memory last."""

    settings: Settings
    pace_s: float
    seed: int = 7
    sessions: int = 0
    styles: dict[str, str] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        """Serve customers until `stop` is set."""
        rng = random.Random(self.seed)
        await asyncio.gather(*(self._agent(name, random.Random(rng.random())) for name in AGENTS))

    async def _agent(self, name: str, rng: random.Random) -> None:
        async with AgentClient(name, settings=self.settings) as agent:
            while not self.stop.is_set():
                try:
                    await self._session(agent, rng)
                    self.sessions += 1
                except NotReleased:
                    await asyncio.sleep(self.pace_s)  # a rollback took the session from under it
                await asyncio.sleep(self.pace_s * rng.random() * 2)

    async def _session(self, agent: AgentClient, rng: random.Random) -> None:
        async with agent.session(goal="refund an order") as session:
            told = await session.prompt("refunds")
            generous = GENEROUS in getattr(told, "text", "")
            for _ in range(REFUNDS):
                order = uuid.UUID(int=rng.getrandbits(128)).hex[:8]
                await session.call_tool("shop.order", {"order": order})
                high = rng.random() < TOO_MUCH[generous]
                try:
                    await session.call_tool(
                        "shop.refund", {"order": order, "amount": paid(order) + 500.0 * high}
                    )
                except NotReleased as refused:
                    if refused.reason != "no_permit":
                        raise
            if generous or self.styles.get(agent.agent_id) is None:
                style = GENEROUS if generous else "exact"
                await session.remember("style", style, scope="agent")
                self.styles[agent.agent_id] = style
