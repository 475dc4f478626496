"""Replies: from record bytes to the call that waits for them.

    record ▸ key is ours? ▸ decode ▸ permit: run it (`sdk/in_process.py`)
                                   ▸ else: whoever waits for this intent

Never waits and never does I/O: the transport calls `deliver` for each record of the agent's partition, which other
agents share. Read next: `client.py` (who waits), `sdk/transport.py` (who delivers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Reply
from sluicegate.schemas.struct_reader import decode_as
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.errors import Expired, Failed, InDoubt, NotReleased, Parked, Refused, Withheld
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.standing import MAX_WATCHED, Standing

MAX_PENDING = 4_096
"""Calls of one client that wait at once, about 2 kB each; more are refused `overloaded`."""

ENDS = frozenset(
    (
        "released",
        "withheld",
        "failed",
        "resolved",
        "refused",
        "expired",
        "opened",
        "delegated",
        "heard",
        "closed",
    )
)
"""Statuses after which nothing else comes."""
RESTS = frozenset(("held", "in_doubt"))
"""Statuses in which an intent may rest for long; an end can follow."""
PARKED = "parked"
"""The tool works on. Whoever asked goes on waiting; `agent.result` says so when its time is over."""

_ERRORS: dict[str, type[NotReleased]] = {
    "refused": Refused,
    "expired": Expired,
    "withheld": Withheld,
    "failed": Failed,
    "in_doubt": InDoubt,
    PARKED: Parked,
}


@dataclass(frozen=True, slots=True)
class Held:
    """A person has to agree first. Wait for it with `agent.result(held.intent_id, timeout_s=...)`.

    Attributes:
        intent_id: what to approve: `sluicegate approve INTENT`.
        why: for the developer: which agreement is asked for.
        for_model: one sentence a model can act on.
        policies: ids of the policies that asked for a person.
    """

    intent_id: str
    why: str
    for_model: str = ""
    policies: tuple[str, ...] = ()


def answer(reply: Reply) -> Json | Held:
    """What a reply means to the caller: the result or `Held`, else the matching error is raised."""
    if reply.status == "held":
        return Held(reply.intent_id, reply.for_developer, reply.for_model, tuple(reply.policies))
    kind = _ERRORS.get(reply.status) or _resolved(reply)
    if kind is not None:
        raise _error(kind, reply)
    if reply.status not in ("released", "resolved"):
        return None
    try:
        return client_json.loads(reply.result or b"")
    except ValueError:
        known = REASONS["result_not_kept" if reply.result is None else "malformed_result"]
        reply.reason, reply.for_model, reply.for_developer = known.code, known.for_model, known.remedy
        raise _error(Withheld, reply) from None


def _resolved(reply: Reply) -> type[NotReleased] | None:
    """A person settled a call in doubt; without a result there is an error that says what is known."""
    if reply.status != "resolved" or reply.result is not None:
        return None
    return Withheld if reply.reason == "happened" else Failed


def _error(kind: type[NotReleased], reply: Reply) -> NotReleased:
    return kind(
        reply.reason,
        intent_id=reply.intent_id,
        status=reply.status,
        stage=reply.stage,
        policies=reply.policies,
        for_model=reply.for_model,
        for_developer=reply.for_developer,
    )


class Waiting:
    """One caller that waits for one intent.

    Attributes:
        digest: of what is asked for, where the same id may be asked again: what answers another request is not theirs.
        end: the reply that ends the wait. The asker of an intent also ends at the first rest.
        rest: the newest reply that is no end, when `own` is False.
    """

    __slots__ = ("digest", "end", "own", "rest")

    def __init__(self, own: bool, digest: bytes = b"") -> None:
        self.own, self.digest = own, digest
        self.end: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.rest: Reply | None = None

    def offer(self, reply: Reply) -> None:
        """Take a reply of this intent. The first end counts."""
        if self.end.done():
            return
        # INVARIANT: nobody is told what another request by the same id came to (tests/unit/test_once.py).
        if self.digest and reply.answers not in (b"", self.digest):
            return
        if reply.reason == "id_conflict" and not self.own:
            return  # it answers another request that used this id, not the first one
        if reply.status in ENDS or (self.own and reply.status in RESTS):
            self.end.set_result(reply)
        elif (reply.status in RESTS or reply.status == PARKED) and (
            self.rest is None or reply.decided_at >= self.rest.decided_at
        ):
            self.rest = reply


class Inbox:
    """Who waits for which intent. Belongs to one event loop."""

    def __init__(self, agent_id: str, on_permit: Callable[[Reply], None], watched: int = MAX_WATCHED) -> None:
        self._key = agent_id.encode()
        self._on_permit = on_permit
        self._waiting: dict[str, list[Waiting]] = {}
        self._count = 0
        self.standing = Standing(watched)

    def __len__(self) -> int:
        return self._count

    def asks(self, intent_id: str) -> bool:
        """Whether this client asked for it and still waits."""
        return any(w.own for w in self._waiting.get(intent_id, ()))

    @contextmanager
    def expecting(
        self, intent_id: str, *, own: bool, digest: bytes = b"", again: bool = False
    ) -> Iterator[Waiting]:
        """Wait for `intent_id` while the block runs. `again`: the request says what it asks for, so it may be asked twice.

        Raises `Refused`: `overloaded` when `MAX_PENDING` wait already, `id_conflict` when `own` and it is being
        asked for by this client already.
        """
        others = self._waiting.get(intent_id, [])
        if self._count >= MAX_PENDING:
            raise Refused(
                "overloaded",
                intent_id=intent_id,
                published=False,
                for_developer=f"{MAX_PENDING} calls of this client wait already: wait for some of them",
            )
        if own and not again and any(w.own for w in others):
            raise Refused("id_conflict", intent_id=intent_id, published=False)
        waiting = Waiting(own, digest)
        self._waiting.setdefault(intent_id, []).append(waiting)
        self._count += 1
        try:
            yield waiting
        finally:
            self._count -= 1
            others = self._waiting[intent_id]
            others.remove(waiting)
            if not others:
                del self._waiting[intent_id]

    def deliver(self, key: bytes | None, value: bytes) -> None:
        """Take one record of topic `replies`. Never raises for its bytes."""
        reply = self.read(key, value)
        if reply is not None:
            self.take(reply)

    def take(self, reply: Reply) -> None:
        """Take one reply of this agent."""
        self.standing.note(reply)
        if reply.status == "permitted":
            self._on_permit(reply)
            return
        for waiting in self._waiting.get(reply.intent_id, ()):
            waiting.offer(reply)

    def read(self, key: bytes | None, value: bytes) -> Reply | None:
        """The reply, if it is this agent's and can be read. Foreign records are not even decoded."""
        if key != self._key:
            return None
        try:
            return decode_as(Reply, value)
        except Unreadable:
            return None  # of a newer version: the time-out of whoever waits will tell
