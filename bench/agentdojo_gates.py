"""The gates of the AgentDojo bench: none at all, and one ledger partition in memory.

Both run AgentDojo's tools in this process. The real stack is `agentdojo_stack.py`. Next: `partition.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.agentdojo_world import Episode, ToolFailed
from bench.partition import Answer, Partition, ToolError

RELEASES = Path(__file__).parent / "releases"


@dataclass
class World:
    """Which episode belongs to which session. The tools know nothing else."""

    episodes: dict[str, Episode] = field(default_factory=dict)

    def run(self, session: str, tool: str, arguments: dict[str, object]) -> object:
        """Run `suite.tool` in a session's environment. Raises `ToolFailed`."""
        return self.episodes[session].run(tool.split(".", 1)[1], arguments)


class OpenGate:
    """No gate: every call runs."""

    def __init__(self, world: World, suite: str) -> None:
        self._world, self._suite = world, suite

    async def open(self, session: str, goal: str) -> None:
        """Nothing to do."""

    async def call(self, session: str, tool: str, arguments: dict[str, object]) -> Answer:
        """Run it."""
        answer = Answer(session, "", f"{self._suite}.{tool}", arguments, "released")
        try:
            answer.result = self._world.run(session, answer.tool, arguments)
        except ToolFailed as error:
            answer.status, answer.detail = "failed", str(error)
        return answer

    async def approve(self, held: Answer) -> Answer:
        """Never asked."""
        return held

    async def close(self, session: str) -> None:
        """Nothing to do."""


class MemoryGate:
    """One partition under the suite's release."""

    def __init__(self, world: World, suite: str) -> None:
        self._world, self._suite = world, suite
        self._agent = f"agentdojo-{suite}-0"
        self._partition = Partition(RELEASES / suite, [self._agent], suite, self._run)

    async def open(self, session: str, goal: str) -> None:
        """Open it and report the user's words."""
        self._partition.open(session, self._agent, goal)
        self._partition.say(session, goal)

    async def call(self, session: str, tool: str, arguments: dict[str, object]) -> Answer:
        """Decide it, and run it if it is permitted."""
        return self._partition.call(session, f"{self._suite}.{tool}", arguments)

    async def approve(self, held: Answer) -> Answer:
        """A person's approval."""
        return self._partition.approve(held)

    async def close(self, session: str) -> None:
        """Close the session."""
        self._partition.close(session)

    def _run(self, session: str, tool: str, arguments: dict[str, object]) -> object:
        try:
            return self._world.run(session, tool, arguments)
        except ToolFailed as error:
            raise ToolError(str(error)) from error
