"""Erasing people: what `sluicegate erase` does, step by step, each safe to repeat after a crash.

    1. Look      what is sealed under their keys: events, sessions, calls in flight, artifacts
    2. Record    control event `subject.erased`; `control.cedar` says who may, and whether it takes two
    3. Destroy   the keys; what else has to go is written down in the same transaction
    4. Remove    rows of ClickHouse's `contents` with their old parts, artifacts
    5. Say       until when topics hold what was sent in the clear

Steps 3 to 5 run again for who was erased already, so a command that died is finished by the same command. Never touches the
ledger: its ciphertext stays and opens for nobody. Next: `processors/erasure.py` (what is decided after it), docs/erasure.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson
from sluicegate.processors.artifacts import reference_of
from sluicegate.processors.control.control import Control
from sluicegate.processors.erasure import (
    KIND,
    MAX_ERASED,
    MAX_TIMES,
    Erasure,
    first_name,
    is_erased,
    key_names,
)
from sluicegate.processors.large_arguments import referred
from sluicegate.processors.results import result_in
from sluicegate.processors.route import valid_id
from sluicegate.processors.verify import reading
from sluicegate.processors.work import SYSTEM
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal, WrongUsage
from sluicegate.streams import kafka, topics
from sluicegate.streams.archive.artifacts import Artifacts
from sluicegate.streams.control import changes
from sluicegate.streams.expiry import Expiry, expiries
from sluicegate.streams.inspect.open_intents import IN_FLIGHT, open_intents
from sluicegate.streams.keys.store import LIVE, Keys
from sluicegate.streams.repartition.generation import up_to
from sluicegate.streams.scan import FETCH_WAIT_MS, places, scan, stretches
from sluicegate.streams.settings import Settings

MAX_SUBJECTS = 1_000
"""Of one command and one control event: about 40 bytes each, 40 kB."""

Told = Callable[[str], None]


@dataclass(slots=True)
class Look:
    """One subject, before anything is destroyed.

    Attributes:
        names: every name its content was ever sealed under.
        live: those whose key still opens something.
        done: its last erasure, when there is nothing new to erase: then only what is left of that one is removed.
        events, sessions: ledger records with content that a live key opens, and how many sessions they are of.
        in_flight: calls that an executor was offered, or has; they end as ever.
        artifacts: (name it is sealed under, name in the store).
    """

    subject: str
    names: list[str]
    live: list[str]
    done: Erasure | None = None
    events: int = 0
    sessions: set[str] = field(default_factory=set)
    in_flight: int = 0
    artifacts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def taken(self) -> list[str]:
        """The names that its newest erasure takes."""
        # INVARIANT: the name of who may come back is never destroyed before they do (tests/unit/test_erasures.py).
        return self.names if self.done is None else self.names[:-1]


@dataclass(slots=True)
class Erased:
    """What came of it. `proposed`: the event waits for other people, and nothing was destroyed."""

    looks: list[Look]
    event: int = -1
    proposed: int = 0
    rows: int = 0
    artifacts: int = 0
    expiry: list[Expiry] = field(default_factory=list)


async def look(
    settings: Settings, keys: Keys, control: Control, subjects: Sequence[str], advance: Callable[[int], None]
) -> list[Look]:
    """Step 1. Raises `Terminal` for a subject that nobody knows, or that cannot be erased."""
    if not 0 < len(set(subjects)) <= MAX_SUBJECTS:
        raise WrongUsage(f"name 1 to {MAX_SUBJECTS:,} subjects, and the others in another command")
    looks = [_known(keys, control, subject) for subject in dict.fromkeys(subjects)]
    if len(control.erased.keys() | {one.subject for one in looks}) > MAX_ERASED:
        raise Terminal(f"control remembers {MAX_ERASED:,} erased subjects already, use another environment")
    await _read_ledger(settings, keys, {name: one for one in looks for name in one.live}, advance)
    if any(one.live for one in looks):
        flying = await open_intents(settings, IN_FLIGHT)
        for one in looks:
            one.in_flight = sum(entry.subject in one.live for entry in flying)
    return looks


def _known(keys: Keys, control: Control, given: str) -> Look:
    if not valid_id(given):
        raise WrongUsage(f"`{given[:80]}` is no subject id: 1 to 256 printable characters")
    if given == SYSTEM:
        raise Terminal(
            f"`{SYSTEM}` is nobody: what could not be read is sealed under it, and cannot be erased"
        )
    subject = first_name(control, given)
    names, times = key_names(control, subject), control.erased.get(subject, ())
    live = [name for name in names if keys.state(name) == LIVE]
    if not live and not times:
        raise Terminal(
            f"no key of subject `{given}` is in this key store: nothing was ever sealed for it here. The id is the `subject` "
            'of its events: sluicegate query "SELECT DISTINCT subject FROM events"'
        )
    # A live key under a name that an event has taken: that command died between its steps 2 and 3.
    new = [name for name in live if not is_erased(control, name)]
    if len(times) >= MAX_TIMES and new:
        raise Terminal(
            f"`{subject}` was erased {MAX_TIMES} times, and comes back again: give it another subject id"
        )
    return Look(subject, names, live, times[-1] if times and not new else None)


async def _read_ledger(
    settings: Settings, keys: Keys, names: dict[str, Look], advance: Callable[[int], None]
) -> None:
    """Count what live keys open, and find artifacts: their keys stand in results and in intents, and nowhere else."""
    if not names:
        return
    needles = [name.encode() for name in names]
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        every = [
            place
            for one in up_to(settings)
            for place in places(one.space, "outcomes", range(await topics.partitions_of(one)))
        ]
        for stretch in await stretches(consumer, every):
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    value = record.value or b""
                    if any(needle in value for needle in needles):
                        _take(keys, names, value)
                advance(len(batch))
    finally:
        await consumer.stop()


def _take(keys: Keys, names: dict[str, Look], value: bytes) -> None:
    parts = reading.split(value)
    head = reading.head(parts.header)
    rest = reading.rest(head.rest)
    one = names.get(rest.subject)
    if one is None or parts.content is None:
        return
    one.events += 1
    one.sessions.add(f"{rest.agent_id}\0{rest.session_id}")
    try:
        plain = keys.open(rest.subject, head.event_id, parts.content)
        result = result_in(plain) if plain is not None else None
        reference = reference_of(orjson.loads(result)) if result else referred(plain)
    except (SluicegateError, orjson.JSONDecodeError):
        return
    if reference is not None:
        one.artifacts.append((rest.subject, reference.stored))


async def carry_out(
    settings: Settings,
    keys: Keys,
    control: Control,
    looks: list[Look],
    store: Artifacts,
    *,
    why: str,
    told: Told,
) -> Erased:
    """Steps 2 to 5. Raises `Retryable` when something did not answer: what was done stands, and running it again goes on."""
    found = Erased(looks)
    new = sorted(one.subject for one in looks if one.done is None)
    if new:
        told("the control event")
        event: tuple[str, dict[str, object]] = (KIND, {"subjects": new})
        found.event, found.proposed = await changes.write(settings, keys, control, [event], why)
        if found.proposed:
            return found
    else:
        found.event = max(one.done.event for one in looks if one.done is not None)
    names = [name for one in looks for name in one.taken]
    told("the keys")
    await asyncio.to_thread(keys.destroy, names, [pair for one in looks for pair in one.artifacts])
    found.rows = await asyncio.to_thread(_rows, settings, names, told)
    told("artifacts")
    for name in keys.leftovers(names):
        await store.delete(name)
        found.artifacts += 1
    keys.left(names)
    found.expiry = await expiries(settings, time.time_ns() // 1_000_000)
    return found


def _rows(settings: Settings, names: list[str], told: Told) -> int:
    """Step 4 in ClickHouse. An embedded one that was never started holds nothing."""
    from sluicegate.sinks.embedded import connect, database  # the sinks need chDB only when they are used
    from sluicegate.sinks.erasing import erase_rows

    if settings.clickhouse is None and not (settings.home / "clickhouse").exists():
        return 0
    try:
        client = connect(settings, "sink")
    except SluicegateError as error:
        raise Retryable(
            f"the keys are destroyed; rows of `contents` are still in clickhouse: {error}; then run it again"
        ) from error
    try:
        return erase_rows(client, database(settings), names, told)
    finally:
        client.close()


def as_rows(found: Erased) -> list[tuple[object, ...]]:
    """One line a subject."""
    return [
        (
            one.subject,
            len(one.live),
            one.events,
            len(one.sessions),
            one.in_flight,
            len(one.artifacts),
            _state(one),
        )
        for one in found.looks
    ]


def as_json(found: Erased, *, dry_run: bool) -> dict[str, object]:
    """All of it."""
    columns = ("subject", "keys", "events", "sessions", "in_flight", "artifacts", "state")
    return {
        "dry_run": dry_run,
        "event": found.event,
        "proposed": bool(found.proposed),
        "subjects": [dict(zip(columns, row, strict=True)) for row in as_rows(found)],
        "clickhouse_rows": found.rows,
        "artifacts": found.artifacts,
        "in_the_clear": [
            {
                "topic": one.topic,
                "retention_ms": one.retention_ms,
                "segment_ms": one.segment_ms,
                "gone_by": one.text,
            }
            for one in found.expiry
        ],
    }


def _state(one: Look) -> str:
    return f"erased by control event {one.done.event}" if one.done is not None else "to erase"
