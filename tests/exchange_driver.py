"""Several ledger partitions in memory that exchange records: `tests/driver.py` times N, with one clock.

    w = World(3)
    w.on(agent).call("desk.read")      # the partition that owns the agent decides
    w.settle()                         # deliver what was sent, tick what is due, until nothing moves
    w.crash(1)                         # partition 1 loses its state and folds its ledger again

Exchanges from one partition to another keep their order, as in Kafka; nothing else does: `deliver(choose)` picks whose
turn it is. Never touches Kafka. Next: `tests/unit/test_exchanges.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sluicegate.processors import snapshot
from sluicegate.processors.crossing.alarms import due_alarm
from sluicegate.processors.outcomes import Decision, from_header, header_hash
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.state import PartitionState, apply, due_intent
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import partition_of

from tests.driver import LOG_ID, Driver, read

Lane = tuple[int, int]
"""(from, to)."""

SETTLE_ROUNDS = 10_000


class World:
    """N partitions of one log.

    Attributes:
        drivers: by partition.
        lanes: (from, to) -> exchanges on their way, oldest first.
        delivered: every exchange that arrived, in order; for redelivery.
    """

    def __init__(self, partitions: int = 3, **more: object) -> None:
        self.drivers = [Driver(partition=p, partitions=partitions, **more) for p in range(partitions)]  # type: ignore[arg-type]
        self.lanes: dict[Lane, deque[r.Exchange]] = {}
        self.delivered: list[r.Exchange] = []
        self._sent = [0] * partitions

    # -- who and when -------------------------------------------------------------------------------------------

    def at(self, name: str) -> int:
        """The partition of an agent or a home."""
        return partition_of(name, len(self.drivers))

    def on(self, agent: str) -> Driver:
        """The partition that owns an agent, its clock at the world's."""
        return self._awake(self.at(agent))

    def _awake(self, index: int) -> Driver:
        driver = self.drivers[index]
        driver.now = max(driver.now, self.now)
        return driver

    @property
    def now(self) -> int:
        """The newest clock."""
        return max(d.now for d in self.drivers)

    def control_event(self, kind: str, /, **body: object) -> None:
        """One control event, which every partition learns of."""
        for driver in self.drivers:
            driver.control_event(kind, **body)

    def deploy(self, compiled: CompiledRelease) -> None:
        """Deploy a release everywhere."""
        for driver in self.drivers:
            driver.deploy(compiled)

    # -- exchanges ----------------------------------------------------------------------------------------------

    def collect(self) -> list[Lane]:
        """Put what was sent on its way; the lanes that hold something, in order."""
        for index, driver in enumerate(self.drivers):
            for exchange in driver.exchanges[self._sent[index] :]:
                assert exchange.from_partition == index
                self.lanes.setdefault((index, exchange.to_partition), deque()).append(exchange)
            self._sent[index] = len(driver.exchanges)
        return sorted(lane for lane, waiting in self.lanes.items() if waiting)

    def deliver(self, choose: Callable[[list[Lane]], Lane] = min) -> Decision | None:
        """The oldest exchange of one lane arrives; None when nothing is on its way."""
        lanes = self.collect()
        if not lanes:
            return None
        exchange = self.lanes[choose(lanes)].popleft()
        self.delivered.append(exchange)
        return self.again(exchange)

    def again(self, exchange: r.Exchange) -> Decision:
        """An exchange arrives, perhaps not for the first time."""
        return self._awake(exchange.to_partition).feed("transfers", exchange)

    def due(self) -> list[int]:
        """Partitions in which something is due now."""
        return [
            i for i, d in enumerate(self.drivers)
            if due_intent(d.state, self.now) is not None or due_alarm(d.state, self.now) is not None
        ]  # fmt: skip

    def tick(self, index: int, ahead_us: int = 0) -> Decision:
        """Time passes in one partition, and one thing is done if it is due."""
        return self._awake(index).tick(ahead_us)

    def settle(self) -> None:
        """Deliver and tick until nothing is on its way and nothing is due now."""
        for _ in range(SETTLE_ROUNDS):
            if self.deliver() is None:
                due = self.due()
                if not due:
                    return
                for index in due:
                    self.tick(index)
        raise AssertionError("it never settles")

    # -- crashes ------------------------------------------------------------------------------------------------

    def crash(self, index: int) -> None:
        """Drop a partition's state and fold its ledger again; the bytes must be the same."""
        driver = self.drivers[index]
        state = folded(driver)
        assert snapshot.digest(state) == snapshot.digest(driver.state)
        driver.state = state

    def restore(self, index: int) -> None:
        """The same, from a snapshot."""
        driver = self.drivers[index]
        driver.state = snapshot.decode(snapshot.encode(driver.state))


def folded(driver: Driver) -> PartitionState:
    """The state a partition's records fold to."""
    state = PartitionState(LOG_ID, driver.partition)
    for record in driver.records:
        event = read(record)
        apply(state, from_header(event.header, event.facts))
        state.prev_hash = header_hash(codec.decode_as(r.Outcome, record.value).header)
    return state
