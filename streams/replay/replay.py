"""`sluicegate replay`: decide the ledger again. `check` compares every byte, `diff` with another release's decisions.

    1. cut       fetch the committed ends, then control with every head's compiled release (diff: with the candidate)
    2. fold      each partition from genesis; nothing else can give the state an input was decided under
    3. compare   the inputs that the window selects, by topic offsets or time (`processors/replay/rederive.py`, `replay/diff.py`)

Never executes, never publishes, never seals: there is no producer, no executor and no way to make a key in here; the
key store is asked to open only. Next: `processors/replay/rederive.py`, `verify.py` (is the ledger itself sound?).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.replay.diff import MAX_EXAMPLES, Diff, DiffTally, Group, under
from sluicegate.processors.replay.recorded import Event, Opener
from sluicegate.processors.replay.rederive import Rederive, Tally
from sluicegate.processors.replay.selection import Selection
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.topics import INPUTS
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.lanes.content_store import reader
from sluicegate.streams.pace import Pace
from sluicegate.streams.replay.position_file import PositionFile
from sluicegate.streams.replay.window import Window, check_offsets, check_times
from sluicegate.streams.scan import (
    FETCH_WAIT_MS,
    Advance,
    OnStart,
    Stretch,
    announce,
    places,
    scan,
    stretches,
)
from sluicegate.streams.settings import Settings

TOPICS = ("outcomes", *INPUTS)
COUNTED = ("same", "different", "erased")
"""Counts that a position file takes from one run to the next."""


@dataclass(slots=True)
class How:
    """What else an operator may say of a run: which records, at what rate, and where it goes on.

    `resume` is for `check`: its state is folded anew all the same, only comparing goes on.
    """

    only: Selection = field(default_factory=Selection)
    rate: float = 0.0
    resume: Path | None = None


@dataclass(slots=True)
class Replayed:
    """What replay found."""

    mode: str = "check"
    engine: str = ENGINE
    partitions: dict[int, Tally] = field(default_factory=dict)
    seconds: float = 0.0
    before: dict[str, int] = field(default_factory=dict)
    """Counts of the runs that this one went on from."""
    nothing: str = Selection().nothing
    """What the verdict is where no input was chosen."""

    def total(self, name: str) -> int:
        """A count over all partitions."""
        here: int = sum(getattr(t, name) for t in self.partitions.values())
        return here + self.before.get(name, 0)

    @property
    def ok(self) -> bool:
        """Every compared input gave the recorded bytes."""
        return self.total("different") == 0

    @property
    def verdict(self) -> str:
        """One line."""
        same, different, erased = self.total("same"), self.total("different"), self.total("erased")
        if not (same or different or erased or any(t.skipped for t in self.partitions.values())):
            return self.nothing
        parts = [f"{same:,} inputs decided the same"]
        if different:
            parts.append(f"{different:,} DIFFERENT")
        if erased:
            parts.append(f"{erased:,} ERASED: their content is gone")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        told = asdict(self)
        del told["nothing"]
        return {"ok": self.ok, "verdict": self.verdict, **told}


@dataclass(slots=True)
class Diffed:
    """What a candidate release would have decided otherwise."""

    release: str
    engine: str = ENGINE
    partitions: dict[int, DiffTally] = field(default_factory=dict)
    seconds: float = 0.0
    nothing: str = Selection().nothing

    def total(self, name: str) -> int:
        """A count over all partitions."""
        return sum(getattr(t, name) for t in self.partitions.values())

    def counts(self, name: str) -> Counter[str]:
        """A counter over all partitions."""
        return sum((getattr(t, name) for t in self.partitions.values()), Counter())

    def groups(self) -> list[Group]:
        """Kinds of change over all partitions, the most frequent first."""
        found: dict[tuple[object, ...], Group] = {}
        for tally in self.partitions.values():
            for key, group in tally.groups.items():
                whole = found.setdefault(key, Group(group.tool, group.agent_id, group.was, group.now))
                whole.count += group.count
                whole.speculative += group.speculative
                whole.examples = (whole.examples + group.examples)[:MAX_EXAMPLES]
        return sorted(
            found.values(), key=lambda g: (g.speculative == g.count, -g.count, g.tool, g.agent_id, str(g.now))
        )

    @property
    def verdict(self) -> str:
        """One line."""
        changed, later = self.total("changed"), self.total("speculative")
        if not any(map(self.total, ("compared", "erased", "skipped"))):
            return self.nothing
        parts = [f"{changed:,} of {self.total('compared'):,} inputs decided otherwise"]
        if changed:
            parts[0] += f", in {self.total('sessions_changed'):,} of {self.total('sessions'):,} sessions"
        if later:
            parts.append(f"{later:,} more after those (speculative)")
        if erased := self.total("erased"):
            parts.append(f"{erased:,} ERASED: their content is gone")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        names = (
            "compared",
            "changed",
            "speculative",
            "policies_only",
            "erased",
            "skipped",
            "sessions",
            "sessions_changed",
        )
        return {
            "verdict": self.verdict, "release": self.release, "engine": self.engine, "seconds": self.seconds,
            **{name: self.total(name) for name in names},
            "by_tool": dict(sorted(self.counts("by_tool").items())),
            "observed": dict(sorted(self.counts("observed").items())),
            "groups": [asdict(g) for g in self.groups()],
            "changes": [asdict(c) for t in self.partitions.values() for c in t.changes],
        }  # fmt: skip


async def check(
    settings: Settings,
    window: Window,
    opener: Opener,
    *,
    how: How | None = None,
    on_start: OnStart | None = None,
) -> Replayed:
    """Decide again and compare. `on_start(total offsets)` returns what progress is told."""
    how = how or How()
    question = {"mode": "check", "env": settings.env, "window": window.as_dict(), "only": how.only.as_dict()}
    position = PositionFile(how.resume, question)
    result = Replayed(before=dict(position.counts), nothing=how.only.nothing)
    started = time.monotonic()

    def make(partition: int, history: list[Control]) -> Rederive:
        return Rederive(partition, history, opener, _chosen(window, how.only, position.at.get(partition, 0)))

    def keep(again: Rederive) -> None:
        result.partitions[again.state.partition] = again.tally
        position.at[again.state.partition] = again.pending
        position.counts = {name: result.total(name) for name in COUNTED}
        position.save()

    async for _, again in _each(
        settings, window, make, on_start, with_release=True, keep=keep, rate=how.rate
    ):
        keep(again)
    result.seconds = time.monotonic() - started
    return result


async def diff(
    settings: Settings,
    window: Window,
    opener: Opener,
    candidate: CompiledRelease,
    *,
    how: How | None = None,
    on_start: OnStart | None = None,
) -> Diffed:
    """Decide again under another release, and compare decisions."""
    how = how or How()
    only = how.only
    result = Diffed(candidate.digest, nothing=only.nothing)
    started = time.monotonic()
    made: dict[int, Diff] = {}

    def make(partition: int, history: list[Control]) -> Rederive:
        made[partition] = Diff(partition, under(history, candidate), opener, _chosen(window, only))
        return made[partition]

    async for partition, _ in _each(settings, window, make, on_start, with_release=False, rate=how.rate):
        result.partitions[partition] = made[partition].diff
    result.seconds = time.monotonic() - started
    return result


async def _each(
    settings: Settings,
    window: Window,
    make: Callable[[int, list[Control]], Rederive],
    on_start: OnStart | None,
    *,
    with_release: bool,
    keep: Callable[[Rederive], None] = lambda _: None,
    rate: float = 0.0,
) -> AsyncIterator[tuple[int, Rederive]]:
    """Every partition of the window, read to its end."""
    # INVARIANT: nothing here can publish or execute (tests/unit/test_rederive.py looks at the imports and names).
    if window.topic not in TOPICS:
        raise WrongUsage(f"topic `{window.topic}` cannot be replayed, use one of {', '.join(TOPICS)}")
    check_times(window, time.time_ns() // 1000)
    pace = Pace(rate)
    count = await topics.count_with(settings, window.partitions)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        wanted = sorted(window.partitions) or list(range(count))
        ledgers = await stretches(consumer, places(settings.space, "outcomes", wanted))  # 1
        # The ledger carries the bytes of its inputs: what their own topic lost is still compared.
        check_offsets(
            window, await stretches(consumer, places(settings.space, window.topic, wanted)), removed=False
        )
        control = await control_log.read(settings, keep_history=True, with_release=with_release)
        assert control.history is not None
        advance, stored = announce(on_start, ledgers), reader(settings)
        for stretch in ledgers:
            if stretch.begin > 0:
                raise Terminal(
                    f"`{stretch.place.topic}`/{stretch.place.partition} begins at {stretch.begin}, its genesis is gone from kafka, restore it from the archive"
                )
            again = make(stretch.place.partition, control.history)
            again.stored = stored
            await _one(consumer, stretch, again, window, advance, keep, pace)
            yield stretch.place.partition, again
    finally:
        await consumer.stop()


async def _one(
    consumer: Any, stretch: Stretch, again: Rederive, window: Window, advance: Advance, keep: Callable[[Rederive], None], pace: Pace
) -> None:  # fmt: skip
    """Fold and compare one partition, up to the window's end."""
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            event = again.add(record.offset, record.value)
            if window.past(event):
                again.finish()
                return
        advance(len(batch))
        keep(again)
        await pace.did(len(batch))
    again.finish()


def _chosen(window: Window, only: Selection, at: int = 0) -> Callable[[list[Event]], bool] | None:
    """What is compared; the others are folded only. `at`: the ledger offset from which a run goes on."""
    if window.everything and only.everything and not at:
        return None
    # The selection looks at every input: it remembers which intent asked for which tool.
    return lambda group: bool(only.holds(group) & window.holds(group) & (group[0].offset >= at))
