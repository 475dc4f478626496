"""What operators do about alarms: list, look, acknowledge, bound; and begin or end a review of an agent.

Each change is one control event. The list is control's own fold, never behind; an alarm's evidence stands in its event.
Never decides what counts. Next: `processors/drift/alarm_events.py` (the fold), `watch/alarm_evidence.py` (computed again).
"""

from __future__ import annotations

import json
from typing import cast

from aiokafka import TopicPartition
from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.alarm_events import (
    ACKED,
    BOUNDED,
    MAX_REVIEWS,
    RAISED,
    REVIEW_BEGUN,
    REVIEW_ENDED,
    WHY_CHARS,
    Alarm,
)
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.records import ControlFacts, Outcome
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.control import changes
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.scan import scan, stretches
from sluicegate.streams.settings import Settings

MIN_PREFIX_CHARS = 4
Body = dict[str, object]
Came = tuple[int, int]
"""Control's head after it, and how many people it takes when it was only proposed, else 0."""


async def known(settings: Settings, *, only_open: bool = False) -> list[Alarm]:
    """The newest first."""
    control = (await control_log.read(settings)).control
    found = sorted(control.alarms.values(), key=lambda a: -a.raised)
    return [alarm for alarm in found if alarm.open or not only_open]


def find(control: Control, what: str) -> Alarm:
    """The alarm whose id begins so. Raises `Terminal` for none or several."""
    found = [a for ident, a in control.alarms.items() if ident.startswith(what)]
    if len(what) < MIN_PREFIX_CHARS or len(found) != 1:
        few = "is no alarm" if not found else "names several alarms"
        raise Terminal(f"`{what[:80]}` {few}, see `sluicegate alarms list`")
    return found[0]


async def show(settings: Settings, what: str) -> tuple[Alarm, Body]:
    """An alarm as it stands, and the body of its event."""
    alarm = find((await control_log.read(settings)).control, what)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
    try:
        [stretch] = await stretches(consumer, [TopicPartition(full_name(settings.space, "control"), 0)])
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                outcome = codec.decode_as(Outcome, record.value)
                facts = codec.decode_as(ControlFacts, outcome.facts)
                body = json.loads(facts.body) if facts.kind == RAISED else {}
                if body.get("id") == alarm.alarm_id:
                    return alarm, cast(Body, body)
    finally:
        await consumer.stop()
    raise Terminal(
        f"the event of alarm `{alarm.alarm_id}` is not in kafka any more, ask ClickHouse: events.body"
    )


async def ack(
    settings: Settings, keys: Keys, what: str, why: str, *, dry_run: bool = False
) -> tuple[Alarm, Came]:
    """A person has seen it."""
    control = await changes.look(settings)
    alarm = find(control, what)
    if not alarm.open:
        raise Terminal(f"alarm `{alarm.alarm_id}` was acknowledged by `{alarm.acked_by}` already")
    return alarm, await _write(settings, keys, control, (ACKED, {"id": alarm.alarm_id}), why, dry_run=dry_run)


async def bound(
    settings: Settings, keys: Keys, unacknowledged: int | None, per_day: int | None, why: str, *, dry_run: bool = False
) -> Came:  # fmt: skip
    """Other bounds of automatic actions; None leaves one as it is."""
    control = await changes.look(settings)
    bounds = control.bounds
    body: Body = {
        "unacknowledged": bounds.unacknowledged if unacknowledged is None else unacknowledged,
        "per_day": bounds.per_day if per_day is None else per_day,
    }
    return await _write(settings, keys, control, (BOUNDED, body), why, dry_run=dry_run)


async def review(
    settings: Settings, keys: Keys, agent_id: str, why: str, *, begin: bool, dry_run: bool = False
) -> Came:  # fmt: skip
    """Begin or end the review of an agent. Raises `Terminal` for what would have no effect."""
    control = await changes.look(settings)
    if begin == (agent_id in control.reviews):
        raise Terminal(
            f"agent `{agent_id[:80]}` is {'under review already' if begin else 'not under review'}"
        )
    if begin and agent_id not in control.agents:
        raise Terminal(f"agent `{agent_id[:80]}` is not registered, see `sluicegate agents list`")
    if begin and len(control.reviews) >= MAX_REVIEWS:
        raise Terminal(f"{MAX_REVIEWS} agents are under review already, end some or quarantine the release")
    event = (
        (REVIEW_BEGUN, {"agent_id": agent_id, "why": why})
        if begin
        else (REVIEW_ENDED, {"agent_id": agent_id})
    )
    return await _write(settings, keys, control, cast("tuple[str, Body]", event), why, dry_run=dry_run)


async def _write(
    settings: Settings, keys: Keys, control: Control, event: tuple[str, Body], why: str, *, dry_run: bool
) -> Came:
    if len(why) > WHY_CHARS:
        raise WrongUsage(f"the reason has {len(why)} characters, at most {WHY_CHARS} are kept, shorten it")
    if dry_run:
        return control.head, 0
    return await changes.write(settings, keys, control, [event], why)
