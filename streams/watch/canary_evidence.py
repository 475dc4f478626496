"""What a canary was ended by, computed anew: from ClickHouse, or from the ledger in Kafka, and compared with what was written.

Reads control for the event and for the canary as it stood then, fetches both releases by digest, folds the rows up to the
evidence's `cut` and asks the judge. Never writes. Next: `processors/canary/progress.py`, `commands/canary.py`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import cast

from sluicegate.processors.canary.progress import FOR_EVER, Progress, begin
from sluicegate.processors.canary.words import KINDS, Evidence
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import Canary
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.canary_rows import EARLIER_US, ClickHouseRows, from_ledger

SOURCES = ("clickhouse", "ledger")
NOT_COMPARED = frozenset(("log", "late"))
"""Where it came from, not what was found."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A control event with evidence.

    Attributes:
        at: when it was written, microseconds.
        canary: as it stood before the event.
    """

    event: int
    at: int
    kind: str
    who: str
    why: str
    evidence: Evidence
    control: Control
    canary: Canary


async def find(settings: Settings, event: int | None) -> Verdict:
    """The verdict that control event wrote; None: the one that ended the last canary. Raises `Terminal` when there is none."""
    found: tuple[int, r.ControlFacts, Evidence] | None = None
    by_hand: tuple[int, r.ControlFacts] | None = None
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        for stretch in await stretches(consumer, places(settings.space, "control", [0])):
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    outcome = codec.decode_as(r.Outcome, record.value)
                    seq = codec.decode_as(r.Header, outcome.header).seq
                    facts = codec.decode_as(r.ControlFacts, outcome.facts)
                    if facts.kind.startswith("canary.") and event in (None, seq):
                        evidence = json.loads(facts.body).get("evidence")
                        if evidence is not None:
                            found, by_hand = (seq, facts, evidence), None
                        elif event is None and facts.kind in KINDS.values():
                            by_hand = seq, facts
    finally:
        await consumer.stop()
    if by_hand is not None:
        raise Terminal(_of_a_person(*by_hand, found[0] if found is not None else None))
    if found is None:
        which = (
            "no canary was ended by its judge yet"
            if event is None
            else f"control event {event} is no verdict on a canary"
        )
        raise Terminal(
            f'{which}, see what people did: sluicegate query "select * from control_changes order by decided_at"'
        )
    seq, facts, evidence = found
    history = (await control_log.read(settings, keep_history=True)).history
    assert history is not None
    before = history[seq - 1]
    if before.canary is None or before.canary.started != evidence["canary"]:
        raise Terminal(f"control event {seq} had no effect: its canary was over already")
    return Verdict(seq, history[seq].at, facts.kind, facts.who, facts.why, evidence, before, before.canary)


def _of_a_person(event: int, facts: r.ControlFacts, verdict: int | None) -> str:
    why = f" (`{facts.why[:200]}`)" if facts.why else ""
    said = f"the last canary was ended by `{facts.who[:80]}` and not by its sessions: control event {event}, {facts.kind}{why}"
    if alarm := json.loads(facts.body).get("alarm"):
        return f"{said}; see `sluicegate alarms show {alarm}`"
    return (
        said
        if verdict is None
        else f"{said}; the last verdict of sessions: sluicegate canary explain {verdict}"
    )


async def again(settings: Settings, verdict: Verdict, source: str) -> Evidence:
    """The evidence, computed anew from one of `SOURCES`."""
    canary = verdict.canary
    progress = begin(
        canary, await _compiled(settings, canary.control), await _compiled(settings, canary.digest)
    )
    cut = dict(cast("list[tuple[int, int]]", verdict.evidence["cut"]))
    since = canary.at - EARLIER_US
    if source == "ledger":
        async for rows in from_ledger(settings, verdict.control.partitions, since, cut):
            progress.feed(rows, 0)
    else:
        await asyncio.to_thread(_from_clickhouse, settings, verdict, since, cut, progress)
    progress.feed((), FOR_EVER)
    # Rows that do not count may be left out of one of the two sources: the cut is what was asked for.
    return {**progress.evidence(), "cut": verdict.evidence["cut"]}


def _from_clickhouse(
    settings: Settings, verdict: Verdict, since: int, cut: dict[int, int], progress: Progress
) -> None:
    source = ClickHouseRows(settings, verdict.control.log_id, verdict.control.partitions, since)
    source.manifest()
    while True:
        rows, _ = source.rows((), 0, cut)
        progress.feed(rows, 0)
        if not rows:
            return


def differences(written: Evidence, found: Evidence) -> list[str]:
    """Names of what does not come out the same."""
    return sorted(
        name
        for name in (written.keys() | found.keys()) - NOT_COMPARED
        if written.get(name) != found.get(name)
    )


async def _compiled(settings: Settings, digest: str) -> CompiledRelease:
    return compile_release(await releases.fetch(settings, digest), proven=True)
