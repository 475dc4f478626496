"""A seam in memory: a `World` of N partitions goes on as one of M, by the same records that `topics repartition` writes.

    w = World(3)
    ...
    after = seam(w, 5)          # every old partition is sealed, every new one has genesis and imports
    after.on(agent).call(...)   # and decides

Next: `exchange_driver.py`, `tests/unit/test_seam.py`.
"""

from __future__ import annotations

from sluicegate.processors.outcomes import Decision, from_header, header_hash
from sluicegate.processors.seam import generations, seam
from sluicegate.processors.seam import records as seam_records
from sluicegate.processors.seam.seam import Seal
from sluicegate.processors.state import PartitionState, apply
from sluicegate.processors.transparency.merkle import Frontier
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import Driver, Record, read
from tests.exchange_driver import World


def log_id(generation: int) -> bytes:
    """The log id of a generation in tests."""
    return bytes([generation] * 16)


def leaf(record: Record) -> bytes:
    """A record's leaf in the tree."""
    return header_hash(codec.decode_as(r.Outcome, record.value).header)


def root_of(records: list[Record]) -> bytes:
    """The root over ledger records."""
    tree = Frontier()
    for record in records:
        tree.append(leaf(record))
    return tree.root()


def folded(driver: Driver) -> PartitionState:
    """A partition's state, folded from its first record with the owners of its ids."""
    state = PartitionState(driver.log_id, driver.partition)
    state.owners = {}
    for record in driver.records:
        event = read(record)
        apply(state, from_header(event.header, event.facts))
        state.prev_hash = leaf(record)
    return state


def begin(world: World, partitions: int) -> None:
    """An operator begins the next generation."""
    number = generations.current(world.drivers[0].control).number + 1
    world.control_event("generation.begun", number=number, log_id=log_id(number).hex(), partitions=partitions)


def finish(world: World) -> World:
    """Seal, import, start. Everything has ended before."""
    control = world.drivers[0].control
    one = control.repartition
    assert one is not None
    old = one.number - 1
    now = world.now + 1
    seals, slices = [], []
    for driver in world.drivers:
        state = folded(driver)
        assert seam.unsettled(state) == ""
        seq = state.seq
        outcome = seam_records.sealed(
            driver.log_id, driver.partition, seq, root_of(driver.records), control, old, now
        )
        driver._fold(Decision(outcomes=[outcome]))
        slices.append(seam.slices(folded(driver), old, one.partitions))
        seals.append(Seal(old, driver.log_id, driver.partition, seq, root_of(driver.records)))
    before = {(old, d.partition): d.inputs for d in world.drivers} | world.drivers[0].before
    after = World.__new__(World)
    after.drivers, after.lanes, after.delivered, after._sent = [], {}, [], [0] * one.partitions
    for index in range(one.partitions):
        first = seam_records.genesis(one, index, control, now)
        made = seam_records.expected(seals, [rows[index] for rows in slices])
        new = _empty(world.drivers[0], index, one.log_id)
        new.before, new.now = before, now
        new._fold(Decision(outcomes=[first]))
        for facts in made:
            outcome = seam_records.imported(one, index, new.state.seq, facts, control, now)
            new._fold(Decision(outcomes=[outcome]))
        after.drivers.append(new)
    after.control_event("generation.started", number=one.number)
    return after


def seam_to(world: World, partitions: int) -> World:
    """The whole of it."""
    begin(world, partitions)
    return finish(world)


def _empty(like: Driver, partition: int, log: bytes) -> Driver:
    """A partition without a record, under the same control."""
    new = Driver(partition=partition, keys=like.keys)
    new.control_records, new.controls = list(like.control_records), list(like.controls)
    new._control_prev, new._releases = like._control_prev, like._releases
    new.records, new._markers, new._ids = [], 0, max(1_000_000, like._ids + 1_000)
    new._prev, new.log_id = bytes(32), log
    new.state = PartitionState(log, partition)
    return new
