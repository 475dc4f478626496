"""Who touched an asset: a fold over ledger records that gives the same rows from Kafka and from ClickHouse.

A source may leave out records that neither name the asset, nor are of an intent that did before, nor open a session
(`needle` says what a record that names it has in its facts). Rows come in ledger order, partition by partition, those of an earlier
generation of the log first: a session that was opened before a repartition is the same after.
Pure; reads headers and facts only, so an erasure changes nothing. Next: `replay/account.py` (what an asset is),
`streams/inspect/access.py` (the sources).
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.processors import lifecycle
from sluicegate.processors.replay.account import CELL, DIGEST, EVENT, KINDS, asked_anew, touches
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

MAX_ROWS = 100_000
"""Of one question, about 500 bytes each: 50 MB."""
Key = tuple[str, str]


@dataclass(slots=True)
class Access:
    """One touch. `state`: where the intent stands now; `on_behalf_of`: of the session, as it was opened; `generation`: of the log."""

    at: int
    partition: int
    seq: int
    tenant: str
    agent_id: str
    session_id: str
    on_behalf_of: str
    intent_id: str
    asset: str
    how: str
    about: str
    status: str
    release: str
    event: str
    state: str = ""
    generation: int = 0


def asset_of(text: str) -> str:
    """The asset that a text names. A bare name is a tool's. Raises `Terminal`."""
    kind = next((k for k in KINDS if text.startswith(k)), "")
    name = text.removeprefix(kind)
    if not name:
        raise Terminal(f"`{text}` names no asset, write one of {', '.join(k + '…' for k in KINDS)}")
    if kind in (CELL, DIGEST, EVENT):
        length = {EVENT: 32, DIGEST: 64, CELL: 32}[kind]
        name = name.lower()
        if set(name) - set("0123456789abcdef") or len(name) != length:
            raise Terminal(f"`{text}` is not {length} hex digits")
    return (kind or "tool:") + name


def needle(asset: str) -> bytes:
    """Bytes that stand in the facts of every record that names it."""
    kind, _, name = asset.partition(":")
    return bytes.fromhex(name) if f"{kind}:" in (CELL, DIGEST, EVENT) else name.encode()


class Accesses:
    """Takes records in order; `rows` has what was found."""

    def __init__(self, asset: str) -> None:
        self.asset = asset_of(asset)
        self.rows: list[Access] = []
        self._states: dict[Key, str] = {}
        self._mine: dict[Key, list[Access]] = {}
        self._behalf: dict[Key, str] = {}

    def knows(self, header: r.Header) -> bool:
        """Whether the record is of an intent that touched it."""
        return (header.agent_id, header.intent_id) in self._mine

    def take(self, partition: int, header: r.Header, facts: object, generation: int = 0) -> None:
        """One record. Raises `Terminal` past `MAX_ROWS`."""
        h = header
        if isinstance(facts, r.SessionFacts):
            if h.status == "opened":
                self._behalf[h.agent_id, h.session_id] = facts.on_behalf_of
            return
        key = h.agent_id, h.intent_id
        for touch in touches(facts):
            if touch.asset != self.asset:
                continue
            if len(self.rows) >= MAX_ROWS:
                raise Terminal(f"`{self.asset}` was touched more than {MAX_ROWS:,} times, ask for a shorter period")  # fmt: skip
            row = Access(
                h.decided_at, partition, h.seq, h.tenant, h.agent_id, h.session_id,
                self._behalf.get((h.agent_id, h.session_id), ""), h.intent_id, touch.asset, touch.how, touch.about,
                h.status, h.release, h.event_id.hex(), generation=generation,
            )  # fmt: skip
            self.rows.append(row)
            self._mine.setdefault(key, []).append(row)
        if key in self._mine:
            state = "" if asked_anew(h.status, facts) else self._states.get(key, "")
            following = lifecycle.follow(state, h.status)
            if following is None and not state and h.status != lifecycle.ATTACHED:
                following = h.status  # its earlier records did not name the asset
            if following is not None:
                self._states[key] = following
                for row in self._mine[key]:
                    row.state = following
