"""What came of a cell of the crash matrix: the ledger's word for every call, the tool server's journal, the promises.

    read_only      may repeat
    idempotent     one effect a key where the tool honours the key
    queryable      one effect a key
    irreversible   at most one call, ever

Beside that: every call has a record, every permitted one is terminal or `in_doubt`, nothing is called without a permit,
and nothing is in doubt but what a worker that was killed or stopped had claimed, or what its executor reported as unknown:
no answer in time, a broken connection, a 5xx.
Reads the topics itself, not through anything that is tested here. Next: `scenario.py`.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka import TopicPartition
from sluicegate.processors.lifecycle import ATTACHED, TERMINAL
from sluicegate.processors.plan import idempotency_key
from sluicegate.schemas import codec
from sluicegate.schemas.facts import ClaimFacts, PlanFacts
from sluicegate.schemas.records import Header, Outcome
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.settings import Settings

from tests.crash.scenario import CLASSES, Call

SHOWN = 5
"""Intents named for one broken promise."""


@dataclass
class Record:
    """What the ledger says since some place.

    Attributes:
        lives: intents by id; a session that was handed over is there under its transfer's id.
        sent: hand-offs, by id -> ids of the transfers that they sent.
        opened: id of a transfer -> how often it opened a session.
    """

    lives: dict[str, Life] = field(default_factory=dict)
    sent: dict[str, list[str]] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)


@dataclass
class Life:
    """What the ledger says about one intent. `claimers`: executors, one a claim; `silent`: in doubt without a receipt."""

    status: str = ""
    reason: str = ""
    key: str = ""
    claimers: list[str] = field(default_factory=list)
    silent: bool = True


@dataclass
class Tally:
    """One class in one cell.

    Attributes:
        requests, effects: at the tool server.
        repeated: requests beyond the first of a key.
        broken: broken promise -> the intents concerned.
    """

    calls: int = 0
    requests: int = 0
    effects: int = 0
    repeated: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=dict)

    def breaks(self, promise: str, ident: str) -> None:
        """Note a broken promise."""
        self.broken.setdefault(promise, []).append(ident)


@dataclass(frozen=True)
class Journal:
    """The tool server's, by idempotency key."""

    requests: Mapping[str, int]
    effects: Mapping[str, int]

    @classmethod
    def read(cls, url: str) -> Journal:
        """As of now."""
        with urllib.request.urlopen(f"{url}/journal", timeout=30) as answer:
            found = json.load(answer)
        return cls(found["requests"], found["effects"])


def ends(settings: Settings) -> dict[int, int]:
    """The committed end of every ledger partition."""

    async def look() -> dict[int, int]:
        reader = await kafka.connect(kafka.consumer(settings))
        try:
            found = await reader.end_offsets(_places(settings))
            return {place.partition: int(end) for place, end in found.items()}
        finally:
            await reader.stop()

    return asyncio.run(look())


def _places(settings: Settings) -> list[TopicPartition]:
    return [TopicPartition(full_name(settings.env, "outcomes"), p) for p in range(settings.partitions)]


def read(settings: Settings, since: Mapping[int, int]) -> Record:
    """Everything on the ledger since these offsets."""

    async def look() -> Record:
        found = Record()
        reader = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
        try:
            for place in _places(settings):
                async for batch in read_range(reader, place, since[place.partition]):
                    for record in batch:
                        _note(found, codec.decode_as(Outcome, record.value))
        finally:
            await reader.stop()
        return found

    return asyncio.run(look())


def _note(found: Record, outcome: Outcome) -> None:
    header = codec.decode_as(Header, outcome.header)
    ident = header.intent_id
    if not ident or header.status == ATTACHED:
        return
    if header.status == "delegated":
        found.sent.setdefault(ident, []).append(header.event_id.hex())
    elif header.status == "opened":
        found.opened[ident] += 1
    life = found.lives.setdefault(ident, Life())
    life.status, life.reason = header.status, header.reason
    life.silent = header.stage == "tick"
    if header.status == "dispatched":
        facts = codec.decode_as(PlanFacts, outcome.facts)
        life.key = idempotency_key(header.tenant, header.agent_id, ident, facts.action_digest)
    elif header.status == "claimed":
        life.claimers.append(codec.decode_as(ClaimFacts, outcome.facts).executor)


def settled(calls: list[Call], found: Mapping[str, Life]) -> bool:
    """Whether every call has an end, or is in doubt."""
    return all(_at_rest(found.get(call.intent_id)) for call in calls)


def _at_rest(life: Life | None) -> bool:
    return life is not None and (life.status in TERMINAL or life.status == "in_doubt")


def judge(
    calls: list[Call], found: Mapping[str, Life], journal: Journal, victims: frozenset[str]
) -> dict[str, Tally]:
    """A tally for every class. `victims`: names of executors that were killed or stopped."""
    tallies = {name: Tally() for name in CLASSES}
    for call in calls:
        tally, life = tallies[call.tool_class], found.get(call.intent_id)
        tally.calls += 1
        if life is None:
            tally.breaks("it has a record", call.intent_id)
            continue
        requests, effects = journal.requests.get(life.key, 0), journal.effects.get(life.key, 0)
        tally.requests += requests
        tally.effects += effects
        tally.repeated += max(0, requests - 1)
        tally.statuses[life.status] += 1
        if not _at_rest(life):
            tally.breaks("it is terminal or in doubt", call.intent_id)
        if life.status == "released" and not effects:
            tally.breaks("what is released was done", call.intent_id)
        if broken := over(call.tool_class, requests, effects):
            tally.breaks(broken, call.intent_id)
        if life.status == "in_doubt" and life.silent and not victims.intersection(life.claimers):
            tally.breaks("in doubt for a reason", call.intent_id)
    return tallies


def hand_offs(handed: list[str], found: Record) -> list[str]:
    """What is wrong with them: each permitted one sends one transfer and opens one session."""
    wrong: list[str] = []
    for ident in handed:
        sent = found.sent.get(ident, [])
        opened = sum(found.opened[transfer] for transfer in sent)
        if (len(sent), opened) != (1, 1):
            life = found.lives.get(ident, Life())
            end = f"{life.status} {life.reason}".strip()
            wrong.append(f"hand-off {ident} sent {len(sent)} transfers and opened {opened} sessions: {end}")
    return wrong


def over(tool_class: str, requests: int, effects: int) -> str:
    """The promise of the class that so many requests and effects of one key break; empty when none."""
    if tool_class == "irreversible" and requests > 1:
        return "at most one call"
    if tool_class in ("idempotent", "queryable") and effects > 1:
        return "at most one effect"
    return ""


def unpermitted(found: Mapping[str, Life], journal: Journal) -> list[str]:
    """Keys that were called and that no permit of these lives names."""
    return sorted(journal.requests.keys() - {life.key for life in found.values()})
