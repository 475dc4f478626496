"""`sluicegate rebuild`: fold the ledger anew from one store and hold the state against the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import typer
from sluicegate.processors.agents.view import agent_view
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.times import iso
from sluicegate.streams import stores, topics
from sluicegate.streams.cli_words import moment
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show, took
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.rebuild import live_state
from sluicegate.streams.rebuild.agent import fold_agent
from sluicegate.streams.rebuild.compare import first_difference
from sluicegate.streams.rebuild.rebuild import Advance, AsOf, Folded, fold_all, tasks_for
from sluicegate.streams.settings import Settings

EXIT_DIFFERENT = 1


class Source(StrEnum):
    """Where a ledger can be read from."""

    KAFKA = "kafka"
    CLICKHOUSE = "clickhouse"


class Against(StrEnum):
    """What a rebuilt state can be held against."""

    KAFKA = "kafka"
    CLICKHOUSE = "clickhouse"
    LIVE = "live"


@dataclass(slots=True)
class Rebuilt:
    """What came of it."""

    source: str
    partitions: list[Folded] = field(default_factory=list)
    compared: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing broken and nothing different; what lags is neither."""
        return not any(p.broken for p in self.partitions) and all(
            c["verdict"] != "different" for c in self.compared
        )

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        rows = [
            {k: v for k, v in asdict(p).items() if k not in ("checkpoints", "digests")}
            for p in self.partitions
        ]
        return {
            "ok": self.ok, "source": self.source, "seconds": round(self.seconds, 3),
            "events": sum(p.events for p in self.partitions), "partitions": rows, "compared": self.compared,
        }  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def rebuild(
        source: Annotated[Source, typer.Option("--from", help="kafka or clickhouse")] = Source.KAFKA,
        as_of: Annotated[
            str, typer.Option("--as-of", help="PARTITION:SEQ[,PARTITION:SEQ…] or ISO 8601 [default: the end]")
        ] = "",
        agent: Annotated[str, typer.Option("--agent", help="only what concerns this agent, as JSON")] = "",
        against: Annotated[
            list[Against] | None, typer.Option("--against", help="kafka, clickhouse or live; may be repeated")
        ] = None,
        expect: Annotated[
            list[str] | None,
            typer.Option("--expect", help="[PARTITION:]DIGEST that must come out; may be repeated"),
        ] = None,
        worker: Annotated[
            list[str] | None,
            typer.Option("--worker", help="web address of a worker elsewhere, for --against live"),
        ] = None,
        processes: Annotated[int, typer.Option(help="processes to fold in [default: one a core]")] = 0,
        resume: Annotated[
            bool, typer.Option("--resume", help="go on where a run was ended that came that far")
        ] = False,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Fold the ledger anew, e.g. `sluicegate rebuild --from clickhouse --against live --against kafka`.

        Prints the digest of each partition's state bytes. `--as-of 2026-05-01T12:00:00` or `--as-of 0:1200` folds up to
        then. `--agent A` prints that agent's sessions, memory, budgets and labels. Exit code 1: something came out
        different, and the first event that differs is named.
        """
        to = parse_as_of(as_of)
        settings = attach(Settings.from_env())
        if agent:
            print(json.dumps(asyncio.run(_agent(settings, source, agent, to)), indent=2, ensure_ascii=False))
            return
        result = asyncio.run(
            _rebuild(settings, source, to, against or [], expect or [], worker or [], processes, resume)
        )
        if output in (Format.JSON, Format.JSONL):
            print(json.dumps(result.as_json(), indent=2 if output is Format.JSON else None))
        else:
            _print(result, output)
        if not result.ok:
            raise typer.Exit(EXIT_DIFFERENT)


def parse_as_of(text: str) -> AsOf:
    """A position, a cut or a moment. Raises `Terminal` with what to write instead."""
    if not text:
        return AsOf()
    parts = [part.partition(":") for part in text.split(",")]
    if all(a.isdecimal() and (b.isdecimal() or b == "-1") for a, _, b in parts):
        return AsOf(cut={int(a): int(b) for a, _, b in parts})
    return AsOf(until=moment(text))


async def _agent(settings: Settings, source: Source, agent: str, as_of: AsOf) -> dict[str, object]:
    control = (await control_log.read(settings)).control
    store = stores.make_store(source, settings, control.log_id)
    await store.open()
    bar, advance = progress(f"reading {source.value} (events)", None)
    try:
        with bar:
            fold = await fold_agent(store, agent, await topics.partitions_of(settings), as_of, advance)
    finally:
        await store.close()
    return agent_view(fold.state, agent)


async def _rebuild(
    settings: Settings, source: Source, as_of: AsOf, against: list[Against], expect: list[str], workers: list[str],
    processes: int, resume: bool,
) -> Rebuilt:  # fmt: skip
    loop = asyncio.get_running_loop()
    control = (await control_log.read(settings)).control
    partitions = list(range(await topics.partitions_of(settings)))
    live: dict[int, live_state.Live] = {}
    if Against.LIVE in against:  # first: what is read after it goes at least as far
        live = await live_state.live_states(settings, partitions, workers)
    marks = {p: one.seq for p, one in live.items() if as_of == AsOf()}
    folder = settings.home / "rebuild"
    tasks = tasks_for(source, partitions, control.log_id, as_of, marks, folder, resume)
    result, started = Rebuilt(source.value), loop.time()
    done = min(processes or os.cpu_count() or 1, len(tasks))
    total = await _count(settings, source, control.log_id, [t.partition for t in tasks])
    with _bar(f"folding from {source.value} (events)", total) as advance:
        result.partitions = await fold_all(settings, tasks, done, advance)
    result.seconds = loop.time() - started
    for other in dict.fromkeys(against):
        if other is Against.LIVE:
            result.compared += [_with_live(p, live.get(p.partition), as_of) for p in result.partitions]
        elif other.value != source.value:
            tasks = tasks_for(other.value, partitions, control.log_id, _same_cut(as_of, result), {})
            with _bar(f"folding from {other.value} (events)", total) as advance:
                theirs = await fold_all(settings, tasks, done, advance)
            result.compared += await _with_store(settings, control.log_id, result.partitions, theirs)
    result.compared += [_expected(result, one) for one in expect]
    return result


async def _count(settings: Settings, source: str, log_id: bytes, partitions: list[int]) -> int:
    store = stores.make_store(source, settings, log_id)
    await store.open()
    try:
        return sum([await store.count(p) for p in partitions])
    finally:
        await store.close()


@contextlib.contextmanager
def _bar(text: str, total: int) -> Iterator[Advance]:
    bar, advance = progress(text, total)
    with bar:
        yield advance


def _same_cut(as_of: AsOf, result: Rebuilt) -> AsOf:
    """The other store is cut where this one ended: it may be ahead by now. At a time, where this one may lag, by that time."""
    if as_of.until is not None and result.source != stores.KAFKA:
        return as_of
    return AsOf(cut={p.partition: p.seq for p in result.partitions})


async def _with_store(
    settings: Settings, log_id: bytes, mine: list[Folded], theirs: list[Folded]
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for a, b in zip(mine, theirs, strict=True):
        row: dict[str, object] = {
            "partition": a.partition,
            "against": b.source,
            "verdict": "same",
            "seq": a.seq,
        }
        found.append(row)
        if (a.digest, a.header_hash) == (b.digest, b.header_hash) and not a.broken:
            continue
        one, other = (stores.make_store(s.source, settings, log_id) for s in (a, b))
        await one.open()
        await other.open()
        try:
            parted = await first_difference(one, a, other, b)
        finally:
            await one.close()
            await other.close()
        if parted is not None and b.seq < a.seq and parted.seq == b.seq + 1 and "ends at" in b.broken:
            row.update(verdict=f"PENDING: {b.source} lags by {a.seq - b.seq} events")
            continue
        row.update(
            verdict="different",
            first_difference=asdict(parted) if parted else None,
            said=b.broken or a.broken,
        )
    return found


def _with_live(mine: Folded, live: live_state.Live | None, as_of: AsOf) -> dict[str, object]:
    row: dict[str, object] = {"partition": mine.partition, "against": "live"}
    if live is None:
        return {**row, "verdict": "nobody holds it: no worker answered, and there is no snapshot"}
    row.update(against=live.where, seq=live.seq)
    digest = mine.digests.get(live.seq) or (mine.digest if mine.seq == live.seq else "")
    if not digest:
        why = "give no --as-of to compare" if as_of != AsOf() else f"{mine.source} is not as far"
        return {**row, "verdict": f"PENDING: it is at seq {live.seq}, {why}"}
    if digest == live.digest:
        return {**row, "verdict": "same"}
    said = f"no event differs: the ledger up to there folds to {digest[:16]}…, and what is held is {live.digest[:16]}…"
    return {**row, "verdict": "different", "said": said}


def _expected(result: Rebuilt, text: str) -> dict[str, object]:
    place, _, digest = text.rpartition(":")
    wanted = [p for p in result.partitions if not place or str(p.partition) == place]
    if place and not wanted:
        raise Terminal(f"`--expect {text[:80]}` names a partition that was not folded")
    same = [p for p in wanted if p.digest == digest]
    return {
        "partition": wanted[0].partition if place else -1, "against": f"--expect {digest[:12]}…",
        "verdict": "same" if same else "different",
    }  # fmt: skip


def _print(result: Rebuilt, output: Format) -> None:
    columns = ("partition", "events", "seq", "decided until", "state bytes", "digest")
    rows = [
        (
            p.partition,
            p.events,
            p.seq,
            iso(p.decided_until, "microseconds"),
            p.state_bytes,
            p.digest or p.broken,
        )
        for p in result.partitions
    ]
    show(columns, rows, output, f"state from {result.source}")
    if output is Format.CSV:
        return
    out = console()
    for row in result.compared:
        verdict = str(row["verdict"])
        colour = "red" if verdict == "different" else "green" if verdict == "same" else "yellow"
        where = f"partition {row['partition']}" if row["partition"] != -1 else "any partition"
        at = f" at seq {row['seq']}" if "seq" in row else ""
        out.print(f"{where} against {row['against']}{at}: [{colour}]{verdict}[/{colour}]")
        parted = row.get("first_difference")
        if isinstance(parted, dict):
            out.print(f"  first at seq {parted['seq']}, event {parted['event_id']}: {parted['what']}")
        elif row.get("said"):
            out.print(f"  {row['said']}", markup=False)
    events = sum(p.events for p in result.partitions)
    out.print(f"{events:,} events in {took(events, result.seconds)}")
