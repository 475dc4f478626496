"""Sound ledgers to tamper with, and the verifiers without Kafka.

A scene is made once; every tampering gets a copy of its lists. `verify` runs the checkers of `ledger verify` on it as
`streams/verify/ledger.py` does, `decide_again` those of `replay --mode check`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import ZERO_HASH, Origin, Outcome, event_id, header_hash, seal
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.seam import generations
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.repartition.sealing import Folded, Seam, seam_of
from sluicegate.streams.transparency.log_tree import LogTree
from sluicegate.streams.transparency.tile_store import MemoryStore
from sluicegate.streams.verify import checkpoints as verify_checkpoints
from sluicegate.streams.verify.checkpoints import Store

from tests import seam_driver
from tests.driver import (
    AGENT,
    LOG_ID,
    T0,
    Driver,
    Event,
    MemoryKeys,
    Record,
    agents,
    read,
    release,
    release_files,
)
from tests.exchange_driver import World
from tests.forging import rechain, rechain_control
from tests.signed_driver import SignedDriver, key_body, secret_of
from tests.unit.test_budgets import MONEY, finish
from tests.unit.test_budgets import driver as with_budget

OLGA = "olga"
RULES = """
@id("two-leads") @quorum("2")
permit (principal in Role::"lead", action == Action::"release.deployed", resource);
@id("leads-repartition")
permit (principal in Role::"lead", action in [Action::"generation.begun", Action::"generation.started"], resource);
"""
Name = str
Place = tuple[int, int]
"""(partition, seq); partition -1 is control."""


@dataclass
class Scene:
    """A ledger as Kafka holds it, to be tampered with.

    Attributes:
        rules: releases by digest, as the releases topic holds them.
        others: another partition's ledger of the same log.
        notes: signed heads on the topic `checkpoints`.
        tiles: files of the tile store.
        kept: a head that somebody keeps outside.
        before: after a seam, the records of the generation before, by partition.
    """

    driver: Driver
    control: list[Record]
    records: list[Record]
    inputs: dict[str, dict[int, bytes]]
    rules: dict[str, CompiledRelease]
    others: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tiles: dict[str, bytes] = field(default_factory=dict)
    kept: str = ""
    before: list[list[Record]] = field(default_factory=list)

    @property
    def partition(self) -> int:
        """Of the ledger."""
        return self.driver.partition

    @property
    def keys(self) -> MemoryKeys:
        """The key store."""
        return self.driver.keys

    def events(self) -> list[Event]:
        """The ledger, decoded."""
        return [read(x) for x in self.records]

    def put(self, events: list[Event]) -> None:
        """The ledger becomes these events, the chain made to fit."""
        self.records = rechain(events, self.partition, self.driver.log_id)

    def rewrite(self, find: Callable[[list[Event]], int], change: Callable[[Event], Event]) -> int:
        """One event becomes another; where it stands."""
        events = self.events()
        at = find(events)
        events[at] = change(events[at])
        self.put(events)
        return at

    def write_control(
        self, kind: str, who: str, kid: str = "", secret: bytes = b"", /, **body: object
    ) -> int:
        """Append a control event as whoever may write the topic could. Returns its seq."""
        last = read(self.control[-1]) if self.control else None
        seq = len(self.control)
        facts = r.ControlFacts(kind, who, "", rfc8785.dumps(body))  # type: ignore[arg-type]
        if kid:
            facts = signing.sign_control(facts, LOG_ID, seq, kid, secret)
        now = last.header.decided_at + 1 if last is not None else 0
        prev = header_hash(codec.decode_as(r.Outcome, self.control[-1].value).header) if last else ZERO_HASH
        deployed = self.driver.control.deployed
        origin = Origin("", "", "operator", "", SYSTEM, now, "control", 0, seq, seq - 1, deployed, ENGINE)
        outcome = Outcome(origin, event_id(LOG_ID, 0, seq, "control", 0), "control", "recorded", kind, facts)
        value, _ = seal(outcome, LOG_ID, 0, seq, prev, self.keys.seal)
        self.control.append(Record(2 * seq, value))
        return seq

    def change_control(self, change: Callable[[list[Event]], list[Event]]) -> None:
        """Control becomes other events, its chain made to fit."""
        self.control = rechain_control(change([read(x) for x in self.control]))


def found(scene: Scene, contents: bool = False) -> dict[Name, Place]:
    """Every invariant that does not hold, and its first position, as `ledger verify` tells them."""
    control = ControlChecker(scene.rules, scene.driver.control.mac_keys)
    for record in scene.control:
        control.add(*record)
    opener = scene.keys.open if contents else None
    number = int(bool(scene.before))
    controls = generations.all_seen_from(control.controls, number)
    checker = PartitionChecker(scene.partition, controls, {}, opener, number)
    if scene.notes or scene.tiles or scene.kept:
        _hold(checker, control.controls[-1], scene)
    for record in scene.records:
        checker.add(*record)
    checker.close()
    if scene.before:
        seam = seam_before(scene)
        checker.seams.remade(seam.expected(scene.partition), seam.wrong)
    for topic, sent in scene.inputs.items():
        position = checker.positions.get(topic, -1) + 1
        below = [offset for offset in sent if offset < position]
        if not checker.decided(topic, len(below), sum(below)):
            checker.left_out(topic, len(below), position)
    violations = [*control.findings.first.values(), *checker.findings.first.values()]
    assert all(v.sentence for v in violations)
    return {v.invariant: (v.partition, v.seq) for v in violations}


def seam_before(scene: Scene) -> Seam:
    """The generation before, folded again, as `streams/verify/seam.py` does."""
    old, new = scene.driver.control.generations
    folded = [Folded("test", old, partition) for partition in range(old.partitions)]
    for one, records in zip(folded, scene.before, strict=True):
        for record in records:
            one.take(record.value)
    return seam_of(folded, new.partitions)


def _hold(checker: PartitionChecker, control: Control, scene: Scene) -> None:
    heads = verify_checkpoints.begin(control, "test")
    if scene.kept:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kept"
            path.write_text(scene.kept)
            verify_checkpoints.keep(heads, [path])
    for note in scene.notes:
        heads.take(scene.partition, note, "on the topic")
    store = MemoryStore()
    store.files = scene.tiles
    verify_checkpoints.hold(checker, heads, Store(store if scene.tiles else None))


def differs(scene: Scene) -> dict[Name, Place]:
    """What `replay --mode check` finds: the field that differs first, and where."""
    again = Rederive(scene.partition, scene.driver.controls, scene.keys.open)
    try:
        for record in scene.records:
            again.add(*record)
        tally = again.finish()
    except Terminal:
        return {"broken": (scene.partition, -1)}
    return {d.field: (d.partition, d.seq) for d in tally.differences[:1]}


def _of(d: Driver, others: list[Record] | None = None) -> Scene:
    return Scene(d, d.control_records, d.records, d.inputs, dict(d.rules), others or [])


def copy(scene: Scene) -> Scene:
    """Lists of its own."""
    return replace(
        scene, control=list(scene.control), records=list(scene.records), rules=dict(scene.rules),
        inputs={topic: dict(sent) for topic, sent in scene.inputs.items()}, others=list(scene.others), notes=list(scene.notes), tiles=dict(scene.tiles),
        before=[list(records) for records in scene.before],
    )  # fmt: skip


@cache
def everyday() -> Scene:
    """A bit of everything under two releases, unsigned."""
    d = Driver()
    d.everyday(2)
    d.deploy(release(edition="2"))
    d.everyday(1)
    return _of(d)


@cache
def signed() -> Scene:
    """A signed environment with an operator, whose changes of the release take two people."""
    d = SignedDriver()
    people = [{"person_id": p, "roles": ["lead"]} for p in ("lea", "leo")]
    d.control_event("people.registered", people=[*people, {"person_id": "otto", "roles": []}])
    d.deploy(compile_release({**release_files(), "control.cedar": RULES}))
    d.publish(release(edition="2"))
    d.control_event("people.registered", people=[{"person_id": OLGA, "roles": ["operator", "lead"]}])
    d.control_event("key.added", **key_body("operator:olga", OLGA, "operator"))
    scene = _of(d)
    otto = key_body("operator:otto", "otto", "operator")
    scene.write_control("key.added", OLGA, "operator:olga", secret_of("operator:olga"), **otto)
    scene.write_control("quarantine.added", OLGA, "operator:olga", secret_of("operator:olga"), scope="tool", value="no.tool", why="")  # fmt: skip
    d.control_records = scene.control
    d.open_session()
    d.say("pay the rent")
    d.finish(d.call("desk.pay", {"value": "rent"}).dispatches[0])
    d.review(d.call("desk.ask", {"value": "a"}))
    d.finish(d.call("desk.read").dispatches[0])
    return _of(d)


@cache
def budgeted() -> Scene:
    """An agent with a purse: one call paid, one under way."""
    d = with_budget(MONEY)
    finish(d, d.call("cost.pay"), 30)
    d.call("cost.pay")
    return _of(d)


CHECKPOINTER = "checkpointer:1"


def tree_of(
    records: list[Record], sizes: list[int], store: MemoryStore, kid: str = CHECKPOINTER
) -> list[str]:
    """Signed heads of a ledger at some sizes, its tiles in the store: what a checkpointer makes of it."""
    tree, notes, at = LogTree(store, "test", LOG_ID, 0), [], 0
    secret = Ed25519PrivateKey.from_private_bytes(secret_of(kid))
    for size in sizes:
        for record in records[at:size]:
            tree.add(*record)
        second = T0 // 1_000_000 + 3_600 + size
        signed = tree.seal(secret.public_key().public_bytes_raw(), kid, secret.sign, second)
        assert signed is not None
        notes.append(str(signed.note))
        at = size
    return notes


@cache
def checkpointed() -> Scene:
    """A ledger of 600 records and more whose heads were signed at three sizes, with tiles up to the last one."""
    d = Driver()
    d.control_event("key.added", **key_body(CHECKPOINTER, "checkpointer", "checkpointer"))
    d.everyday(8)
    scene, store = _of(d), MemoryStore()
    scene.notes = tree_of(d.records, [100, 400, len(d.records)], store)
    scene.tiles = store.files
    return scene


@cache
def two_partitions() -> Scene:
    """The ledger of one partition of two, and the other's."""
    home = partition_of(AGENT, 2)
    d = Driver(partition=home, partitions=2)
    d.everyday(1)
    away = next(str(a["agent_id"]) for a in agents() if partition_of(str(a["agent_id"]), 2) != home)
    other = Driver(partition=1 - home, partitions=2)
    other.open_session(agent=away)
    other.call("desk.read", agent=away)
    return _of(d, other.records)


def _crossed(partitions: int) -> tuple[World, World]:
    """Two partitions with some traffic, and the same log with this many."""
    w = World(2)
    for agent in (AGENT, *(str(a["agent_id"]) for a in agents()[:6])):
        d = w.on(agent)
        d.open_session(agent=agent)
        d.say("pay the rent", agent=agent)
        d.finish(d.call("desk.pay", agent=agent).dispatches[0])
    return w, seam_driver.seam_to(w, partitions)


@cache
def across() -> Scene:
    """A partition of the second generation, and the two of the first."""
    before, after = _crossed(3)
    d = after.on(AGENT)
    d.call("desk.never")
    d.finish(d.call("desk.pay").dispatches[0])
    scene = _of(d)
    scene.before = [old.records for old in before.drivers]
    return scene


@cache
def sealed() -> Scene:
    """A partition of the first generation, with its seal."""
    before, _ = _crossed(3)
    return _of(before.on(AGENT))


@cache
def rolled_back() -> Scene:
    """An agent that was taken back to an earlier point."""
    from tests.unit.test_agent_rollback import driver, here, remember

    d = driver()
    remember(d, "k", "one")
    cut = here(d)
    remember(d, "k", "two")
    d.roll_back(cut=cut)
    return _of(d)
