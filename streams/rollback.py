"""Taking one call back: what the ledger says happened, what its contract says undoes it, and asking for that.

The compensation is an ordinary intent of the agent whose call it was, with an id made from the original's: the ledger
knows it, so running this twice undoes once. It is decided, recorded and executed like any call, and may be refused or
held. Never decides anything. Next: `processors/compensate.py`, `commands/rollback.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import orjson
from sluicegate.processors import lifecycle
from sluicegate.processors.compensate import arguments_of, undo_id
from sluicegate.processors.release import compile_release
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.streams import control_log, kafka, releases
from sluicegate.streams.explain import FETCH_WAIT_MS, Opener
from sluicegate.streams.find import Finder, LedgerEvent
from sluicegate.streams.settings import Settings

NOTHING_HAPPENED = (*lifecycle.DECIDED_TERMINAL, "failed")


@dataclass(slots=True)
class Plan:
    """How one call would be taken back.

    Attributes:
        cannot: why it cannot be, or an empty text.
        done: the state of the compensation that was asked for before, or an empty text.
    """

    intent_id: str
    agent_id: str
    tool: str
    state: str
    undo_id: str
    undo_tool: str = ""
    arguments: dict[str, object] = field(default_factory=dict)
    cannot: str = ""
    done: str = ""


async def plan(settings: Settings, intent_id: str, opener: Opener, *, agent: str = "") -> Plan:
    """Look a call up and say how it would be taken back. Raises `Terminal` when the ledger does not know it."""
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        finder = Finder(settings, consumer)
        await finder.open()
        events = await finder.intent(intent_id, agent)
        owners = sorted({e.header.agent_id for e in events})
        if len(owners) != 1:
            said = (
                f"was asked by {len(owners)} agents, say which with --agent"
                if owners
                else "is not on the ledger"
            )
            raise Terminal(f"intent `{intent_id[:80]}` {said}")
        undo = undo_id(owners[0], intent_id)
        before = await finder.intent(undo, owners[0])
    finally:
        await consumer.stop()
    found = Plan(intent_id, owners[0], _tool(events), _state(events), undo, done=_state(before))
    await _fill(settings, found, events, opener)
    return found


async def _fill(settings: Settings, found: Plan, events: list[LedgerEvent], opener: Opener) -> None:
    control = (await control_log.read(settings)).control
    if found.state in NOTHING_HAPPENED:
        found.cannot = f"it ended `{found.state}`: nothing happened"
        return
    if found.state not in ("released", "withheld"):
        found.cannot = f"it is `{found.state}`: settle that first"
        return
    release = compile_release(await releases.fetch(settings, control.deployed), proven=True)
    tool = release.tools.get(found.tool)
    said = tool.contract.governance.compensate if tool is not None else None
    if said is None:
        found.cannot = f"the contract of `{found.tool}` has no `compensate`"
        return
    found.undo_tool = said.tool
    args, result = _contents(events, opener)
    found.arguments, missing = arguments_of(said, args, result)
    if missing:
        found.cannot = f"`{missing}` is not there: the call or its result has no such value, or it was erased"


def _tool(events: list[LedgerEvent]) -> str:
    return next((e.facts.tool for e in events if isinstance(e.facts, r.IntentFacts) and e.facts.tool), "")


def _state(events: list[LedgerEvent]) -> str:
    state = ""
    for event in events:
        state = lifecycle.follow(state, event.header.status) or state
    return state


def _contents(events: list[LedgerEvent], opener: Opener) -> tuple[object, object]:
    """The call's arguments and its result, None where they were erased."""
    args: object = None
    result: object = None
    for event in events:
        if event.sealed is None or event.header.status == lifecycle.ATTACHED:
            continue
        content = opener(event.header.subject, event.header.event_id, event.sealed)
        try:
            record = codec.decode(content or b"")
            record = codec.decode(record.payload) if isinstance(record, r.Envelope) else record
        except SluicegateError:
            continue  # no input's bytes, but a text
        if isinstance(record, r.Intent):
            args = cast(object, orjson.loads(record.arguments))
        elif isinstance(record, r.Receipt) and record.result is not None:
            result = cast(object, orjson.loads(record.result))
    return args, result
