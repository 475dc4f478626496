"""What becomes of a record that is copied to another topic or environment: the same bytes, or the same request anew.

    verbatim   into a topic of your own: key and bytes as they are
    anew       into `intents`, `messages` or `reviews` of another environment: ids made from the copy's name and the old ones,
               so that a review still names its intent and a second copy is a duplicate there; asked now. A signature does
               not cover them any more, so they come unsigned, and a signed environment refuses them

Headers say `replay_of`, the place of the original. Ledgers, control, dispatches and what else has one writer are never a
target: a copied dispatch would be executed. Pure. Next: `streams/replay/copying.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.topics import BY_NAME

REPLAY_OF: Final = "replay_of"
ANEW: Final = ("intents", "messages", "reviews")
Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Copied:
    """What is written."""

    key: bytes | None
    value: bytes
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Target:
    """Where copies go. `anew`: they are requests of that environment; `name` is what their ids are made from."""

    env: str
    topic: str
    name: str
    anew: bool

    @property
    def full(self) -> str:
        """Its name in Kafka."""
        return f"{self.env}.{self.topic}"


def refusal(env: str, topic: str, target_env: str, target_topic: str) -> str:
    """Why records of a topic may not be copied there, or nothing."""
    if (env, topic) == (target_env, target_topic):
        return f"`{topic}` cannot be copied into itself, name another topic with --into"
    if target_topic not in BY_NAME:
        return ""
    if target_env == env:
        return f"what is copied into `{target_topic}` of the same environment would be decided or executed there once more, use a topic of your own or another environment with --into-env"
    if target_topic not in ANEW:
        return f"`{target_topic}` has one writer, its own environment: copy into {', '.join(ANEW)} or a topic of your own"
    if topic != target_topic:
        return f"`{target_topic}` takes no records of `{topic}`, copy like into like"
    return ""


def copied(
    key: bytes | None, value: bytes, headers: Sequence[Header], origin: str, target: Target, now: int
) -> Copied:
    """One record on its way. Raises `Unreadable` for one that cannot be asked anew."""
    made = anew(value, target, now) if target.anew else value
    ident = hashlib.sha256(f"{target.name}\0{origin}".encode()).hexdigest()[:32]
    kept = [(k, v) for k, v in headers if k not in (REPLAY_OF, "ce_id")]
    return Copied(key, made, [*kept, ("ce_id", ident.encode()), (REPLAY_OF, origin.encode())])


def new_id(name: str, agent: str, old: str) -> str:
    """An id that whoever copies under this name finds again."""
    return "r-" + hashlib.sha256(f"{name}\0{agent}\0{old}".encode()).hexdigest()[:24]


IDS: Final[dict[type, tuple[str, str]]] = {
    r.Intent: ("intent_id", "session_id"),
    r.Message: ("message_id", "session_id"),
    r.Review: ("review_id", "intent_id"),
}
"""What is asked anew, and which of its ids are made anew."""


def anew(value: bytes, target: Target, now: int) -> bytes:
    """The request with ids of the copy's, asked now."""
    record = codec.decode(value)
    if isinstance(record, r.Envelope):
        record = codec.decode(record.payload)
    if not isinstance(record, r.Intent | r.Message | r.Review):
        raise Unreadable("malformed_record", f"a `{type(record).__name__.lower()}` is not asked anew")
    changed: dict[str, Any] = {
        name: new_id(target.name, record.agent_id, getattr(record, name)) for name in IDS[type(record)]
    }
    if isinstance(record, r.Intent) and record.deadline_at is not None:
        changed["deadline_at"] = now + max(0, record.deadline_at - record.issued_at)
    return codec.encode(replace(record, issued_at=now, **changed))
