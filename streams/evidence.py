"""`sluicegate evidence`: read one agent's partition and control from Kafka, and make a bundle that an auditor checks alone.

    1. heads     published checkpoints of control and of the partition, those that the witness policy accepts
    2. control   from its first event to its end
    3. records   the agent's partition from its first record to its end: 32 bytes a leaf, and the period's lines in a file
    4. bundle    releases, keys of what is disclosed, proofs, pages, seal

Reads only; contents stay sealed unless they are asked for. Never says that anything is compliant with anything.
Next: `evidence_build.py`, `evidence_verify.py`, docs/evidence.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from sluicegate.processors import log_files
from sluicegate.processors.checkpoints import CheckpointFault, Signed, age, partition_name
from sluicegate.processors.control import Control
from sluicegate.processors.erasure import is_erased
from sluicegate.processors.labels import CONFIDENTIALITY
from sluicegate.processors.verify_control import ControlChecker
from sluicegate.processors.witness_policy import Policy, parse_policy
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import checkpoint_topic, generation, kafka, releases, topics, verify_releases
from sluicegate.streams.client_transport import stop_consumer
from sluicegate.streams.evidence_build import WITHHELD, Ask, Json, Nodes, Picker, b64, control_line, proof_of
from sluicegate.streams.evidence_file import Archive, verifier
from sluicegate.streams.evidence_html import summary, time_of
from sluicegate.streams.keys import Keys, keys_at
from sluicegate.streams.scan import FETCH_WAIT_MS, OnStart, announce, places, scan, stretches
from sluicegate.streams.settings import Settings

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
class Gathered:
    """All that goes into a bundle.

    Attributes:
        heads, earlier: by log (`control`, or the partition's number): the head to prove against, and some of before.
        keys: subject -> key, of what is disclosed.
        without_effect: control events that the fold left out.
    """

    control: Control
    picker: Picker
    partition: int
    control_lines: list[bytes] = field(default_factory=list)
    control_nodes: Nodes = field(default_factory=Nodes)
    nodes: Nodes = field(default_factory=Nodes)
    heads: dict[str, Signed] = field(default_factory=dict)
    earlier: dict[str, list[Signed]] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    policy: str = ""
    made_at: int = 0
    without_effect: list[int] = field(default_factory=list)


def assemble(
    path: Path, found: Gathered, events: Iterable[bytes], pages: Mapping[str, str] | None = None
) -> Json:
    """Write the bundle. Returns its manifest. Raises `Terminal`."""
    picker, control = found.picker, found.control
    ask, name = picker.ask, partition_name(found.partition)
    counts = picker.counts()
    trees = {
        "control": proof_of(0, found.control_nodes.size, found.heads.get("control"), found.earlier.get("control", []), found.control_nodes),
        "partition": proof_of(picker.start, picker.end, found.heads.get(name), found.earlier.get(name, []), found.nodes),
    }  # fmt: skip
    manifest: Json = {
        "agent": ask.agent, "from": ask.since, "to": ask.until, "env": control.env, "log_id": control.log_id.hex(),
        "partition": found.partition, "made_at": found.made_at, "engine": ENGINE, "counts": counts,
        "disclosed": "nothing" if ask.disclose == WITHHELD else CONFIDENTIALITY[ask.disclose],
        "without_effect": found.without_effect,
    }  # fmt: skip
    head = found.heads.get(name)
    about = [
        ("made at", time_of(found.made_at)), ("engine", ENGINE), ("partition", name),
        ("signed head", f"{head.head.size:,} events, signed at {time_of(head.second * 10**6)} with key {head.kid}" if head else "none yet"),
        ("releases that decided", ", ".join(sorted(picker.releases)) or "none"),
    ]  # fmt: skip
    with Archive(path) as archive:
        archive.add("README.txt", [README.encode()])
        archive.add("verify.py", [verifier().encode()])
        archive.add(
            "summary.html", [summary(ask, control.env, control.log_id.hex(), picker, counts, about).encode()]
        )
        for member, text in (pages or {}).items():
            archive.add(member, [text.encode()])
        archive.add("control.jsonl", found.control_lines)
        archive.add("events.jsonl", events)
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
            with tempfile.TemporaryFile() as events:
                found = await self._gather(events.write, on_start)
                if not found.picker.tally["events"]:
                    raise Terminal(
                        f"agent `{self._ask.agent}` has no events from {time_of(self._ask.since)} until {time_of(self._ask.until)}: "
                        "look for its first and last with `sluicegate intents --agent`, and give another --from and --to"
                    )
                events.seek(0)
                return assemble(path, found, events, pages)
        finally:
            await stop_consumer(self._consumer)

    async def _gather(self, write: Callable[[bytes], object], on_start: OnStart | None) -> Gathered:
        env = self._settings.env
        checker, values = await self._control()
        control = self._seen(checker)
        if self._ask.agent not in control.agents:
            raise Terminal(
                f"agent `{self._ask.agent[:80]}` is not registered in `{env}`, see `sluicegate agents list`"
            )
        with closing(Disclosed(self._settings, control)) as disclosed:
            return await self._read(checker, values, disclosed, write, on_start)

    async def _read(
        self, checker: ControlChecker, values: list[bytes], disclosed: Disclosed, write: Callable[[bytes], object],
        on_start: OnStart | None,
    ) -> Gathered:  # fmt: skip
        env, control = self._settings.env, self._seen(checker)
        partition = partition_of(self._ask.agent, control.partitions)
        picker = Picker(self._ask, write, disclosed.may)
        found = Gathered(control, picker, partition, policy=self._policy_text, made_at=self._made_at)
        for value in values:
            line, leaf = control_line(value, self._ask.agent)
            found.control_lines.append(line)
            found.control_nodes.append(leaf)
        wrong = checker.findings.first.get("authority")
        found.without_effect = [wrong.seq] if wrong else []
        log = log_files.of_control(control)
        wanted = {
            o: o.rpartition("/")[2]
            for o in log.origins
            if o.rpartition("/")[2] in ("control", str(partition))
        }
        heads = await checkpoint_topic.newest(
            self._consumer, env, wanted, log.keys, every=bool(self._kept), recent=True
        )
        [stretch] = await stretches(self._consumer, places(self._settings.space, "outcomes", [partition]))
        advance = announce(on_start, [stretch])
        async for batch in scan(self._consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                found.nodes.append(picker.add(record.value or b""))
            advance(len(batch))
        picker.finish()
        for origin, name in wanted.items():
            nodes = found.control_nodes if name == "control" else found.nodes
            fit = [h for h in sorted(heads[origin], key=age) if h.head.size <= nodes.size]
            kept = [size for o, size in self._kept.items() if o == origin]
            head, earlier = choose(fit, 0 if name == "control" else picker.start, kept, self._policy)
            found.earlier[name] = earlier
            if head is not None:
                found.heads[name] = head
        for digest in sorted(picker.releases):
            found.files[digest] = await releases.fetch(self._settings, digest)
        found.keys = disclosed.keys
        return found

    def _seen(self, checker: ControlChecker) -> Control:
        """Control as the generation stands under it whose bundle is made."""
        control = generation.seen(self._settings, checker.controls[-1])
        if self._settings.generation:
            raise Terminal(
                "a bundle is made of the first generation only: its check cannot cross a seam yet. Set SLUICEGATE_GENERATION=0 for what "
                "was before, and show what is after by `sluicegate explain` and `ledger verify`"
            )
        return control

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
