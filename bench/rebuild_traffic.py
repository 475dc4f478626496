"""A ledger of any length for the bench of rebuilding: decided by the ledger's own functions, published in transactions.

Recorded calls over many sessions; each is offered, claimed where its class asks for it, and finished at once. Content is
left as it is, not sealed: nobody opens it here. Next: `rebuild.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Input
from sluicegate.processors.outcomes import ZERO_HASH, Decision, Origin, Outcome, event_id, seal
from sluicegate.processors.pipeline import decide
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import PartitionState, apply
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import full_name
from sluicegate.streams import demo, kafka, stack
from sluicegate.streams.control import log as control_log
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import Transaction, cloud_event

from bench import common

SESSIONS_PER_AGENT = 40
STEP_US = 500
BATCH_EVENTS = 2_000
"""Of one transaction, as a busy ledger\'s."""
REOPEN_CALLS = 400
"""Calls of a session before it is closed and another one opened."""


@dataclass(slots=True)
class Made:
    """What was published. `agent`: one of those that ask most."""

    events: int = 0
    bytes: int = 0
    sessions: int = 0
    agents: int = 0
    agent: str = ""
    started_at: int = 0
    ended_at: int = 0


class Maker:
    """One partition in memory."""

    def __init__(self, control: Control, start: int) -> None:
        self.control, self.now = control, start
        self.state = PartitionState(control.log_id, 0)
        self.values: list[bytes] = []
        self._offsets = dict.fromkeys(("intents", "messages", "receipts"), 0)
        self._recent: dict[tuple[str, int], bytes] = {}
        self._library = Library()
        origin = Origin("", "", "", "", SYSTEM, start, "", 0, 0, control.head, "", ENGINE)
        ident = event_id(control.log_id, 0, 0, "genesis", 0)
        facts = r.GenesisFacts(control.log_id, control.partitions, control.env, control.signing)
        self._prev = ZERO_HASH
        self._fold(Decision(outcomes=[Outcome(origin, ident, "genesis", "genesis", "", facts)]))

    def _fold(self, decision: Decision) -> Decision:
        for outcome in decision.outcomes:
            value, self._prev = seal(
                outcome, self.state.log_id, 0, self.state.seq, self._prev, lambda s, e, c: c
            )
            apply(self.state, outcome)
            self.values.append(value)
        self.state.prev_hash = self._prev
        return decision

    def feed(self, topic: str, record: object) -> Decision:
        """Decide one record."""
        value, offset = codec.encode(record), self._offsets[topic]
        self._offsets[topic] += 1
        self.now += STEP_US
        self._recent[topic, offset] = value
        if len(self._recent) > 100_000:
            for key in list(self._recent)[:50_000]:
                del self._recent[key]
        source = Input(topic, 0, offset, value)
        source.library = self._library
        decision = decide(self.state, self.control, source, self.now)
        while decision.needs:
            source.contents.update({place: self._recent.get(place) for place in decision.needs})
            decision = decide(self.state, self.control, source, self.now)
        self._library.remember(source, decision)
        return self._fold(decision)

    def call(self, agent: str, session: str, ident: str, tool: str, arguments: bytes) -> None:
        """Ask, claim and finish."""
        intent = r.Intent(
            ident, agent, session, "tool_call", tool, arguments, self.now, self.now + 60_000_000
        )
        for offered in self.feed("intents", intent).dispatches:
            receipt = r.Receipt(
                offered.dispatch_id, ident, agent, session, "claimed", offered.attempt, "bench", self.now, 0
            )
            if offered.tool_class != "read_only":
                self.feed("receipts", receipt)
            ended = replace(receipt, kind="finished", finished_at=self.now, result=b"{}")
            self.feed("receipts", ended)


def traffic(maker: Maker, made: Made, events: int) -> Iterator[None]:
    """Calls until there are so many events; yields after each."""
    agents = {role: common.agents(role) for role in ("banking", "slack", "retail", "airline")}
    made.agents = sum(map(len, agents.values()))
    made.agent = agents["banking"][0]
    calls = common.tool_calls(5_000)
    rounds: dict[tuple[str, int], tuple[str, int]] = {}
    n = 0
    while made.events + len(maker.values) < events:
        tool, arguments, role = calls[n % len(calls)]
        agent = agents[role][n % len(agents[role])]
        place = (agent, n // 7 % SESSIONS_PER_AGENT)
        session, used = rounds.get(place, ("", 0))
        if not session or used >= REOPEN_CALLS:
            if session:
                maker.feed("messages", r.Message(f"c{n}", agent, session, "session.close", maker.now))
            session, used = f"{agent}-{place[1]}-{n}", 0
            made.sessions += 1
            maker.feed(
                "messages", r.Message(f"o{n}", agent, session, "session.open", maker.now, "bench", "bench")
            )
        rounds[place] = (session, used + 1)
        maker.call(agent, session, f"i{n}", tool, orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS))
        n += 1
        yield


async def publish(settings: Settings, events: int) -> Made:
    """Genesis, release and agents on control; then the ledger of partition 0."""
    await asyncio.to_thread(_prepare, settings)
    control = (await control_log.read(settings, with_release=True)).control
    made = Made(started_at=time.time_ns() // 1000 - events * STEP_US * 2)
    maker = Maker(control, made.started_at)
    place = full_name(settings.space, "outcomes")
    producer = await kafka.connect(
        kafka.producer(settings, transactional_id=f"sluicegate.{settings.env}.ledger.0")
    )
    headers = cloud_event(bytes(16), b"/bench", b"ai.sluicegate.outcome")
    try:
        going = True
        running = traffic(maker, made, events)
        while going:
            going = next(running, running) is None
            if len(maker.values) < BATCH_EVENTS and going:
                continue
            transaction = Transaction(producer)
            for value in maker.values:
                transaction.add(place, 0, b"k", value, maker.now // 1000, headers)
            await transaction.append()
            await transaction.commit()
            made.events += len(maker.values)
            made.bytes += sum(map(len, maker.values))
            maker.values.clear()
    finally:
        await producer.stop()
    made.ended_at = maker.now
    return made


def _prepare(settings: Settings) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    asyncio.run(stack.prepare(settings, ""))
    asyncio.run(demo.deploy(settings, common.RELEASE.parent))
