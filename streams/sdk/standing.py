"""What an agent is told of its session's release: which one it stands on, and prompts read out of it.

Every reply says under which release it was decided; the SDK keeps the newest for each open session. Never asks for anything.
Next: `sdk/replies.py` (who notes it), `sdk/session.py` (who shows it).
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.schemas.records import Reply


@dataclass(frozen=True, slots=True)
class Release:
    """The release that the session's newest reply was decided under. What counts is the digest; the rest is for people."""

    digest: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt as it was read: its text, rendered.

    Attributes:
        digest: of the prompt's file: the same text has the same one in any release.
        release: digest of the release it was read from.
    """

    text: str
    name: str
    digest: str
    release: str


MAX_WATCHED = 10_000
"""Open sessions of one client, about 300 bytes each: 3 MB. Of more the oldest are forgotten, and what they stand on is not known
until they are joined again."""


class Standing:
    """The open sessions of one client, at most so many, and what each stands on. A gateway asks for none: it joins sessions of many
    agents and never closes them."""

    def __init__(self, most: int = MAX_WATCHED) -> None:
        self._most = most
        self._found: dict[str, Release | None] = {}

    def watch(self, session_id: str) -> None:
        """Begin to note replies of a session."""
        if not self._most:
            return
        if session_id not in self._found and len(self._found) >= self._most:
            del self._found[next(iter(self._found))]
        self._found.setdefault(session_id, None)

    def forget(self, session_id: str) -> None:
        """The session closed."""
        self._found.pop(session_id, None)

    def of(self, session_id: str) -> Release | None:
        """What a session stands on; None before its first reply."""
        return self._found.get(session_id)

    def note(self, reply: Reply) -> None:
        """A reply came."""
        if reply.release and reply.session_id in self._found:
            known = self._found[reply.session_id]
            if known is None or known.digest != reply.release:
                self._found[reply.session_id] = Release(
                    reply.release, reply.release_name, reply.release_version
                )
