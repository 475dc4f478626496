"""Observed calls: what agents asked for and what became of it, read off a ledger.

One `Observation` an intent, given out when it has ended or the ledger has. What agents asked before anybody permitted it
counts as well: a shadowed agent's calls are what first contracts and policies are made of.
Pure; content is opened by the caller's key. Next: `policy/suggest.py` (policies), `releases/first_contracts.py` (contracts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import orjson
from sluicegate.processors import lifecycle
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.labels import INTEGRITY, RANK
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.kinds import CALL_KINDS

Json = object
Opener = Callable[[str, bytes, bytes], bytes | None]

MAX_OPEN = 100_000
"""Intents of one partition followed to their end at a time, about 2 kB each; the oldest are given out as they are."""
MAX_SESSIONS = 100_000
"""Sessions in which somebody spoke, remembered at a time."""


@dataclass(slots=True)
class Observation:
    """One call that was asked for.

    Attributes:
        ended: the intent's last status; `dispatched` and the like when the ledger ends before it.
        reason: of a refusal.
        observed: policies and rules that would have decided otherwise, in observe mode.
        user_spoke: whether a channel had reported words of the user before.
        worst: the worst label of the protected arguments; None when nothing was grounded.
    """

    intent_id: str
    agent: Agent
    tool: str
    arguments: dict[str, Json]
    decided_at: int
    ended: str
    reason: str = ""
    policies: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    user_spoke: bool = False
    worst: str | None = None

    @property
    def executed(self) -> bool:
        """Whether it was permitted: it was offered for execution, whatever came of that."""
        return self.ended not in ("refused", "held", "routed", "permitted", "validated")


class Collector:
    """One partition's ledger records in order, to observations. `erased` counts intents whose content does not open."""

    def __init__(
        self, opener: Opener, agents: Mapping[str, Agent], take: Callable[[Observation], None]
    ) -> None:
        self._open, self._agents, self._take = opener, agents, take
        self._going: dict[tuple[str, str], Observation] = {}
        self._spoken: dict[tuple[str, str], None] = {}
        self.erased = 0

    def add(self, header: r.Header, facts: object, sealed: bytes | None) -> None:
        """One ledger record."""
        key = (header.agent_id, header.intent_id)
        if header.status == "heard":
            self._spoken[header.agent_id, header.session_id] = None
            if len(self._spoken) > MAX_SESSIONS:
                del self._spoken[next(iter(self._spoken))]
        elif header.status == "closed":
            self._spoken.pop((header.agent_id, header.session_id), None)
        elif isinstance(facts, r.IntentFacts) and facts.kind in CALL_KINDS and facts.remembered:
            self._begin(key, header, facts, sealed)
        elif key in self._going and header.status != lifecycle.ATTACHED:
            self._go_on(key, header, facts)

    def finish(self) -> None:
        """Give out what has not ended."""
        for observation in self._going.values():
            self._take(observation)
        self._going.clear()

    def _begin(self, key: tuple[str, str], h: r.Header, facts: r.IntentFacts, sealed: bytes | None) -> None:
        arguments = self._arguments(h, sealed)
        if arguments is None:
            return
        agent = self._agents.get(h.agent_id) or Agent(h.agent_id, h.tenant, "", ())
        spoke = (h.agent_id, h.session_id) in self._spoken
        seen = Observation(
            h.intent_id, agent, facts.tool, arguments, h.decided_at, h.status, h.reason, user_spoke=spoke
        )
        if lifecycle.is_terminal(h.status):
            self._take(seen)
            return
        self._going[key] = seen
        if len(self._going) > MAX_OPEN:
            self._take(self._going.pop(next(iter(self._going))))

    def _go_on(self, key: tuple[str, str], h: r.Header, facts: object) -> None:
        seen = self._going[key]
        seen.ended, seen.reason = h.status, h.reason
        seen.policies = h.policies or seen.policies
        if isinstance(facts, r.StageFacts):
            seen.observed += facts.observed
            if facts.grounded_labels:
                ranks = [RANK.get(label, len(INTEGRITY) - 1) for label in facts.grounded_labels]
                seen.worst = INTEGRITY[max(ranks)]
        if lifecycle.is_terminal(h.status):
            self._take(self._going.pop(key))

    def _arguments(self, h: r.Header, sealed: bytes | None) -> dict[str, Json] | None:
        """The arguments an intent's own bytes hold; None when they are erased or no JSON object."""
        try:
            value = None if sealed is None else self._open(h.subject, h.event_id, sealed)
            if value is None:
                self.erased += 1
                return None
            record = codec.decode(value)
            if isinstance(record, r.Envelope):
                record = codec.decode(record.payload)
            found = orjson.loads(record.arguments) if isinstance(record, r.Intent) else None
        except orjson.JSONDecodeError:
            return None  # what was asked for was no call
        except SluicegateError:
            self.erased += 1  # another key sealed it
            return None
        return cast("dict[str, Json]", found) if isinstance(found, dict) else None
