"""Which records a replay is about: agent, tool, session, release, reason. All that are named have to fit.

A ledger input is chosen when any of its outcomes fits; later inputs of an intent (a claim, a receipt, an approval) name no
tool, so the intents that asked for it are remembered while they are read. On other topics a record is looked at by itself:
what it does not say (a message has no tool) does not fit. Pure. Next: `streams/replay/replay.py`, `streams/replay/copying.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sluicegate.processors.replay.recorded import Event
from sluicegate.schemas import records as r

MAX_REMEMBERED = 2_000_000
"""Intents that asked for the tool, about 150 bytes each: 300 MB. Of more the oldest are forgotten: their later inputs are
left out."""


@dataclass(slots=True)
class Selection:
    """Empty texts ask nothing."""

    agent: str = ""
    tool: str = ""
    session: str = ""
    release: str = ""
    reason: str = ""
    _asked: dict[tuple[str, str], None] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not any(self.as_dict().values())

    @property
    def nothing(self) -> str:
        """What is said of a window in which no input fits."""
        asked = " and ".join(f"{name} `{value[:80]}`" for name, value in self.as_dict().items() if value)
        return f"no input of the window is of {asked}" if asked else "no input is in the window"

    def as_dict(self) -> dict[str, str]:
        """What was asked, for a position file."""
        return {name: getattr(self, name) for name in ("agent", "tool", "session", "release", "reason")}

    def holds(self, group: Sequence[Event]) -> bool:
        """Whether an input of the ledger, given by its outcomes, is chosen."""
        if self.everything:
            return True
        chosen = False
        for event in group:  # all of them: each may be remembered
            chosen |= self._event(event.header, event.facts)
        return chosen

    def _event(self, h: r.Header, facts: object) -> bool:
        of_tool = not self.tool or self._of_tool((h.agent_id, h.intent_id), facts)
        return of_tool and self._fits(h.agent_id, h.session_id, h.release) and self.reason in ("", h.reason)

    def _fits(self, agent: str, session: str, release: str) -> bool:
        return (
            self.agent in ("", agent)
            and self.session in ("", session)
            and (not self.release or (bool(release) and release.removeprefix("sha256:").startswith(self.release.removeprefix("sha256:"))))
        )  # fmt: skip

    def _of_tool(self, key: tuple[str, str], facts: object) -> bool:
        if isinstance(facts, r.IntentFacts) and facts.tool == self.tool:
            self._asked[key] = None
            if len(self._asked) > MAX_REMEMBERED:
                del self._asked[next(iter(self._asked))]
        return key in self._asked

    def record(self, record: object, header: r.Header | None = None, facts: object = None) -> bool:
        """Whether a record of any topic is chosen; of the ledger its header and facts are given, too."""
        if self.everything:
            return True
        if header is not None:
            return self._event(header, facts)
        agent, session = _text(record, "agent_id"), _text(record, "session_id")
        return (
            self._fits(agent, session, _text(record, "release"))
            and self.reason in ("", _text(record, "reason"))
            and self.tool in ("", _text(record, "tool"))
        )


def _text(record: object, name: str) -> str:
    value = getattr(record, name, "")
    return value if isinstance(value, str) else ""
