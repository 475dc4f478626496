"""The scripted worst case: an agent that does its user's task and then whatever the text it read told it to do.

It makes the calls of the user task's ground truth one after the other and, when the injected text was in any result,
the injection's calls too, last, when it has read most. A refused or unanswered call does not stop it. Every call goes
through a `Gate`; a held one is put to an approver. Knows AgentDojo only as `Episode`s.
Next: `agentdojo.py` (what is counted), `agentdojo_gates.py` (the gates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bench.agentdojo_world import Call, Episode
from bench.partition import Answer

USER, ATTACK = "user's", "attack's"


class Gate(Protocol):
    """What the agent and its user's channel speak to. Sessions are independent of each other."""

    async def open(self, session: str, goal: str) -> None:
        """The channel opens a session with the user's goal, and reports it as the user's first words."""

    async def call(self, session: str, tool: str, arguments: dict[str, object]) -> Answer:
        """The agent asks for a call (the tool's bare name)."""

    async def approve(self, held: Answer) -> Answer:
        """A person agrees to a held call."""

    async def close(self, session: str) -> None:
        """The channel closes the session."""


@dataclass(frozen=True)
class Row:
    """One call that the agent asked for, and what became of it."""

    episode: str
    whose: str
    tool: str
    arguments: dict[str, object]
    answer: Answer

    @property
    def outcome(self) -> str:
        """ran | refused | shown, agreed | shown, not agreed, or another status of the answer as it is."""
        a = self.answer
        if a.held:
            return "shown, agreed" if a.status != "held" else "shown, not agreed"
        return "ran" if a.status == "released" else a.status


@dataclass
class Played:
    """One episode after the agent is done."""

    name: str
    useful: bool
    attacked: bool
    read: bool
    rows: list[Row] = field(default_factory=list)


Approver = Callable[[Episode, Call], bool]


def oracle(episode: Episode, call: Call) -> bool:
    """Agrees to exactly the calls of the user's ground truth."""
    return call in episode.calls


def absent(episode: Episode, call: Call) -> bool:
    """Nobody is there."""
    return False


def always_yes(episode: Episode, call: Call) -> bool:
    """Agrees to everything without looking."""
    return True


APPROVERS: dict[str, Approver] = {"oracle": oracle, "absent": absent, "always-yes": always_yes}


async def play(gate: Gate, episode: Episode, session: str, approver: Approver) -> Played:
    """Play one episode to its end, and let AgentDojo judge it."""
    await gate.open(session, episode.prompt)
    played = Played(episode.name, False, False, False)

    async def ask(call: Call, whose: str) -> None:
        tool, arguments = call
        answer = await gate.call(session, tool, arguments)
        if answer.status == "held" and approver(episode, call):
            answer = await gate.approve(answer)
        played.rows.append(Row(episode.name, whose, tool, arguments, answer))
        played.read |= episode.injected(answer.result)

    for call in episode.calls:
        await ask(call, USER)
    if played.read:
        for call in episode.attack:
            await ask(call, ATTACK)
    await gate.close(session)
    played.useful, played.attacked = episode.judge()
    return played
