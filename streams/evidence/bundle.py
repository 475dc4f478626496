"""`sluicegate evidence`: read one agent's partition and control from Kafka, and make a bundle that an auditor checks alone.

    1. control   from its first event to its end
    2. records   the agent's partition of each generation from its first record to its end: 32 bytes a leaf, and the period's lines in a file
    3. heads     published checkpoints of control and of these partitions, those that the witness policy accepts
    4. bundle    releases, keys of what is disclosed, proofs, pages, seal

Reads only; contents stay sealed unless they are asked for. Never says that anything is compliant with anything.
Next: `evidence/build.py`, `evidence/verify.py`, docs/evidence.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.control.control import Control
from sluicegate.processors.erasure import is_erased
from sluicegate.processors.labels import CONFIDENTIALITY
from sluicegate.processors.seam.generations import Generation
from sluicegate.processors.transparency.checkpoints import (
    CONTROL,
    CheckpointFault,
    Signed,
    age,
    keys_of,
    origin_of,
)
from sluicegate.processors.transparency.witness_policy import Policy, parse_policy
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import full_name, partition_of, space_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import releases
from sluicegate.streams.evidence.build import WITHHELD, Ask, Json, Nodes, Picker, b64, control_line, proof_of
from sluicegate.streams.evidence.file import Archive, verifier
from sluicegate.streams.evidence.html import summary, time_of
from sluicegate.streams.keys.store import Keys, keys_at
from sluicegate.streams.repartition.generation import part_name
from sluicegate.streams.scan import FETCH_WAIT_MS, OnStart, announce, places, scan, stretches
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.verify import releases as verify_releases

MAX_EARLIER = 10
"""Heads of before the period that are in a bundle, 1 kB of note and 1 kB of proof each."""
README = """\
Evidence about one agent in one period. Unpack verify.py, or better get it by a way of your own, then:

    pip install cryptography
    python verify.py BUNDLE.zip

It needs no network. summary.html is for reading and proves nothing. More: verify.py --help, and docs/evidence.md of Sluicegate.
"""

Files = Mapping[str, Mapping[str, str]]
"""Digest of a release -> its files."""


@dataclass(slots=True)
class Part:
    """The agent's partition in one generation; `lines` are those of its events."""

    generation: Generation
    partition: int
    picker: Picker
    lines: Iterable[bytes]
    nodes: Nodes = field(default_factory=Nodes)

    @property
    def name(self) -> str:
        """As findings name it: the partition, and of a later generation that too."""
        return part_name(self.generation.number, self.partition)

    @property
    def mark(self) -> str:
        """What its member and its proofs have in their names."""
        return f".g{self.generation.number}" if self.generation.number else ""


@dataclass(slots=True)
class Gathered:
    """All that goes into a bundle.

    Attributes:
        parts: one a generation that the period touches, the earliest first.
        heads, earlier: by log (`control`, or the part's name): the head to prove against, and some of before.
        keys: subject -> key, of what is disclosed.
        without_effect: control events that the fold left out.
    """

    control: Control
    parts: list[Part]
    control_lines: list[bytes] = field(default_factory=list)
    control_nodes: Nodes = field(default_factory=Nodes)
    heads: dict[str, Signed] = field(default_factory=dict)
    earlier: dict[str, list[Signed]] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    policy: str = ""
    made_at: int = 0
    without_effect: list[int] = field(default_factory=list)


def assemble(path: Path, found: Gathered, pages: Mapping[str, str] | None = None) -> Json:
    """Write the bundle. Returns its manifest. Raises `Terminal`."""
    control, parts = found.control, found.parts
    picker = parts[-1].picker
    ask, name = picker.ask, parts[-1].name
    counts = picker.counts()
    trees = {
        "control": proof_of(0, found.control_nodes.size, found.heads.get("control"), found.earlier.get("control", []), found.control_nodes),
        **{f"partition{p.mark}": proof_of(p.picker.start, p.picker.end, found.heads.get(p.name), found.earlier.get(p.name, []), p.nodes) for p in parts},
    }  # fmt: skip
    manifest: Json = {
        "agent": ask.agent, "from": ask.since, "to": ask.until, "env": control.env, "log_id": control.own_log.hex(),
        "ledgers": [[p.generation.number, p.partition] for p in parts], "made_at": found.made_at, "engine": ENGINE, "counts": counts,
        "disclosed": "nothing" if ask.disclose == WITHHELD else CONFIDENTIALITY[ask.disclose],
        "without_effect": found.without_effect,
    }  # fmt: skip
    head = found.heads.get(name)
    about = [
        ("made at", time_of(found.made_at)), ("engine", ENGINE), ("partition", ", ".join(p.name for p in parts)),
        ("signed head", f"{head.head.size:,} events, signed at {time_of(head.second * 10**6)} with key {head.kid}" if head else "none yet"),
        ("releases that decided", ", ".join(sorted(picker.releases)) or "none"),
    ]  # fmt: skip
    with Archive(path) as archive:
        archive.add("README.txt", [README.encode()])
        archive.add("verify.py", [verifier().encode()])
        page = summary(ask, control.env, control.own_log.hex(), picker, counts, about, control.orders)
        archive.add("summary.html", [page.encode()])
        for member, text in (pages or {}).items():
            archive.add(member, [text.encode()])
        archive.add("control.jsonl", found.control_lines)
        for part in parts:
            archive.add(f"events{part.mark}.jsonl", part.lines)
        archive.add("tree.json", [json.dumps(trees, indent=1).encode()])
        if found.policy:
            archive.add("policy.txt", [found.policy.encode()])
        if found.keys:
            archive.add(
                "keys.json", [json.dumps({s: b64(k) for s, k in found.keys.items()}, indent=1).encode()]
            )
        for digest in sorted(picker.releases & found.files.keys()):
            text = json.dumps(found.files[digest], sort_keys=True, indent=1, ensure_ascii=False)
            archive.add(f"releases/{digest.removeprefix('sha256:')}.json", [text.encode()])
        archive.close(manifest)
    return manifest


def choose(
    heads: Sequence[Signed], start: int, kept: Sequence[int], policy: Policy
) -> tuple[Signed | None, list[Signed]]:
    """The head to prove against, and those of before the period that it is shown to continue. Raises `Terminal`.

    `heads`: one log's, the smallest first. The newest that the policy accepts, else the newest: then the answer is PENDING.
    """

    def accepted(one: Signed) -> bool:
        try:
            policy.check(one.note)
        except CheckpointFault:
            return False
        return True

    head = next((h for h in reversed(heads) if accepted(h)), heads[-1] if heads else None)
    if head is None:
        return None, []
    by_size = {h.head.size: h for h in heads if h.head.size <= head.head.size}
    if lost := [size for size in kept if size not in by_size]:
        raise Terminal(
            f"no checkpoint of {lost[0]} events was published up to {head.head.size}: check the file of --kept, and if it is "
            "signed by this log, run `sluicegate ledger verify` and `sluicegate checkpoint verify --all`"
        )
    before = [size for size in by_size if size <= start][-MAX_EARLIER:]
    return head, [by_size[size] for size in sorted({*before, *kept})]


def touched(parts: Sequence[Part], ask: Ask) -> list[Part]:
    """Those that the period touches: from the last one that began before it, to the first that was not sealed in it."""
    low = max((i for i, part in enumerate(parts) if part.picker.began < ask.since), default=0)
    high = low
    while high + 1 < len(parts) and parts[high].picker.sealed < ask.until:
        high += 1
    return list(parts[low : high + 1])


class Gathering:
    """One run."""

    def __init__(
        self, settings: Settings, ask: Ask, kept: Mapping[str, int], policy: str, made_at: int
    ) -> None:
        self._settings, self._ask, self._kept, self._made_at = settings, ask, kept, made_at
        self._policy, self._policy_text = parse_policy(policy) if policy else Policy(), policy

    async def make(self, path: Path, pages: Mapping[str, str], on_start: OnStart | None = None) -> Json:
        """Raises `SluicegateError`."""
        await topics.partitions_of(self._settings)  # says what is wrong where there is no ledger
        self._consumer: AIOKafkaConsumer = await kafka.connect(
            kafka.consumer(self._settings, fetch_wait_ms=FETCH_WAIT_MS)
        )
        try:
            with ExitStack() as files:
                found = await self._gather(files, on_start)
                if not found.parts[-1].picker.tally["events"]:
                    raise Terminal(
                        f"agent `{self._ask.agent}` has no events from {time_of(self._ask.since)} until {time_of(self._ask.until)}: "
                        "look for its first and last with `sluicegate intents --agent`, and give another --from and --to"
                    )
                return assemble(path, found, pages)
        finally:
            await stop_consumer(self._consumer)

    async def _gather(self, files: ExitStack, on_start: OnStart | None) -> Gathered:
        checker, values = await self._control()
        control = checker.controls[-1]
        if self._ask.agent not in control.agents:
            raise Terminal(
                f"agent `{self._ask.agent[:80]}` is not registered in `{self._settings.env}`, see `sluicegate agents list`"
            )
        found = Gathered(control, [], policy=self._policy_text, made_at=self._made_at)
        for value in values:
            line, leaf = control_line(value, self._ask.agent)
            found.control_lines.append(line)
            found.control_nodes.append(leaf)
        wrong = checker.findings.first.get("authority")
        found.without_effect = [wrong.seq] if wrong else []
        with closing(Disclosed(self._settings, control)) as disclosed:
            found.parts = touched(await self._parts(control, disclosed, files, on_start), self._ask)
        await self._heads(found)
        for digest in sorted(found.parts[-1].picker.releases):
            found.files[digest] = await releases.fetch(self._settings, digest)
        found.keys = disclosed.keys
        return found

    async def _parts(
        self, control: Control, disclosed: Disclosed, files: ExitStack, on_start: OnStart | None
    ) -> list[Part]:
        """The agent's partition of every generation, each read once."""
        generations = control.generations
        homes = [partition_of(self._ask.agent, one.partitions) for one in generations]
        names = [full_name(space_of(self._settings.env, one.number), "outcomes") for one in generations]
        found = await stretches(self._consumer, map(TopicPartition, names, homes))
        advance, parts = announce(on_start, found), list[Part]()
        for one, partition, stretch in zip(generations, homes, found, strict=True):
            events = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 -- the stack closes it
            picker = Picker(self._ask, events.write, disclosed.may, parts[-1].picker if parts else None)
            part = Part(one, partition, picker, events)
            async for batch in scan(self._consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    part.nodes.append(picker.add(record.value or b""))
                advance(len(batch))
            picker.finish()
            events.seek(0)
            parts.append(part)
        return parts

    async def _heads(self, found: Gathered) -> None:
        """The heads to prove against, and those of before."""
        control = found.control
        logs = {origin_of(control.env, control.own_log, CONTROL): ("control", 0, found.control_nodes)}
        for part in found.parts:
            origin = origin_of(control.env, part.generation.log_id, part.partition)
            logs[origin] = (part.name, part.picker.start, part.nodes)
        heads = await checkpoint_topic.newest(
            self._consumer, self._settings.env, logs, keys_of(control), every=bool(self._kept), recent=True
        )
        for origin, (name, start, nodes) in logs.items():
            fit = [h for h in sorted(heads[origin], key=age) if h.head.size <= nodes.size]
            kept = [size for o, size in self._kept.items() if o == origin]
            head, found.earlier[name] = choose(fit, start, kept, self._policy)
            if head is not None:
                found.heads[name] = head

    async def _control(self) -> tuple[ControlChecker, list[bytes]]:
        checker = ControlChecker(await verify_releases.rules(self._consumer, self._settings.env))
        values: list[bytes] = []
        [stretch] = await stretches(self._consumer, places(self._settings.space, "control", [0]))
        async for batch in scan(self._consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                values.append(record.value or b"")
                checker.add(record.offset, values[-1])
        if not checker.controls:
            raise Terminal(
                f"there is no ledger in `{self._settings.env}` yet, start one with `sluicegate up`"
            )
        return checker, values


class Disclosed:
    """The keys of what is disclosed, as it is asked for. Whoever has a key can open all that was sealed with it, if they get hold of it.

    Attributes:
        keys: subject -> key.
    """

    def __init__(self, settings: Settings, control: Control) -> None:
        self.keys: dict[str, bytes] = {}
        self._settings, self._control = settings, control
        self._known: dict[str, bool] = {}
        self._store: Keys | None = None

    def may(self, subject: str) -> bool:
        """Whether this subject's content can be opened, and may be. Raises `Terminal` where there is no key store."""
        if subject not in self._known:
            key = None if is_erased(self._control, subject) else self._key(subject)
            self._known[subject] = key is not None
            if key is not None:
                self.keys[subject] = key
        return self._known[subject]

    def _key(self, subject: str) -> bytes | None:
        if not keys_at(self._settings.home).is_file():
            raise Terminal(
                f"there is no key store under `{self._settings.home}`, nothing can be disclosed here: leave out --disclose"
            )
        if self._store is None:
            self._store = Keys(self._settings.home)
        return self._store.disclose(subject)

    def close(self) -> None:
        """Nothing more is asked for."""
        if self._store is not None:
            self._store.close()
