"""Which heads a ledger is held to by `ledger verify`: those on the topic, the one beside the tiles, those you kept.

Every head's signatures are checked against the key history of control; what does not hold is told, and not used. The topic's
end is noted before the ledger's is, so no head of a sound ledger is ahead of it. Reads only.
Next: `processors/verify/tree.py` (who compares), `transparency/checkpointer.py` (who signed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import CONTROL, CheckpointFault, LogKey, origin_of
from sluicegate.processors.transparency.tiles import Read
from sluicegate.processors.verify.chain import Chain
from sluicegate.processors.verify.tree import Head
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.notes import MAX_NOTE_BYTES
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.tile_store import CHECKPOINT, TileStore, folder_of, reader, store_of


@dataclass(slots=True)
class Heads:
    """The heads of one environment's log.

    Attributes:
        signed: partition -> size -> its head. Two roots of one size are told as soon as they are read.
        since: partition -> the size that somebody kept a checkpoint of; violations are judged from there.
        faults: partition -> what is wrong with a head itself.
    """

    log_id: bytes
    env: str
    keys: tuple[LogKey, ...]
    signed: dict[int, dict[int, Head]] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)
    faults: dict[int, list[str]] = field(default_factory=dict)
    own: bytes = b""
    """Control's log id, where it is another: after a repartition."""

    def log_of(self, partition: int) -> bytes:
        """The log id of a partition, or of control."""
        return self.own or self.log_id if partition == CONTROL else self.log_id

    def take(self, partition: int, note: bytes | str, where: str) -> checkpoints.Checkpoint | None:
        """One note; None for one that does not hold, which is told."""
        try:
            head = checkpoints.verify(
                note, self.keys, origin_of(self.env, self.log_of(partition), partition)
            ).head
        except CheckpointFault as error:
            self.faults.setdefault(partition, []).append(f"{where}: {error}")
            return None
        known = self.signed.setdefault(partition, {})
        other = known.setdefault(head.size, Head(head.size, head.root, f"checkpoint {head.size} {where}"))
        if other.root != head.root:
            self.faults.setdefault(partition, []).append(
                f"two roots were signed for size {head.size}, {where} and as {other.where}: the log was forked, keep both"
            )
        return head


async def read_topic(consumer: AIOKafkaConsumer, heads: Heads, stretch: Stretch) -> None:
    """All heads on the topic `checkpoints` that are of this log."""
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            try:
                one = codec.decode_as(r.Checkpoint, record.value or b"")
            except Unreadable as error:
                heads.faults.setdefault(CONTROL, []).append(
                    f"offset {record.offset} of `checkpoints`: {error}"
                )
                continue
            if one.log_id == heads.log_of(one.partition):
                heads.take(one.partition, one.note, "on the topic")


async def topic_end(consumer: AIOKafkaConsumer, env: str) -> Stretch:
    """The topic as it is now."""
    [stretch] = await stretches(consumer, places(env, checkpoint_topic.TOPIC, [0]))
    return stretch


def keep(heads: Heads, paths: Sequence[Path]) -> None:
    """The checkpoints that somebody kept outside. Raises `Terminal` for one that cannot be used."""
    for path in paths:
        try:
            note = path.read_bytes()[:MAX_NOTE_BYTES]
            head = checkpoints.read(note)[0]
        except OSError as error:
            raise Terminal(f"checkpoint `{path}` cannot be read: {error.strerror}") from error
        except CheckpointFault as error:
            raise Terminal(
                f"`{path}` is none that was kept: {error}: `sluicegate checkpoint show` prints one"
            ) from error
        partition = _partition_of(heads, head.origin)
        checkpoints.verify(note, heads.keys, head.origin)
        heads.take(partition, note, f"of `{path.name}`, which was kept,")
        heads.since[partition] = max(head.size, heads.since.get(partition, 0))


def _partition_of(heads: Heads, origin: str) -> int:
    prefix, _, name = origin.rpartition("/")
    if origin == origin_of(heads.env, heads.log_of(CONTROL), CONTROL):
        return CONTROL
    if prefix == origin_of(heads.env, heads.log_id, 0).rpartition("/")[0] and name.isdecimal():
        return int(name)
    raise Terminal(f"the checkpoint is of log `{origin}`, this environment's are `{origin_of(heads.env, heads.log_id, 0)}` and on: take one of these")  # fmt: skip


class Store:
    """The tiles on this machine, if there are any."""

    def __init__(self, store: TileStore | None, reason: str = "no tiles on this machine") -> None:
        self._store, self.reason = store, reason
        self._seen: dict[str, bytes | None] = {}

    def look(self, heads: Heads, partitions: Iterable[int]) -> None:
        """Take the notes as they are now: a checkpointer that runs goes on, and the ledger is read up to a cut that comes after."""
        for partition in partitions:
            origin = origin_of(heads.env, heads.log_of(partition), partition)
            self._seen[origin] = self._note(origin)

    def _note(self, origin: str) -> bytes | None:
        return self._store.get(f"{folder_of(origin)}/{CHECKPOINT}") if self._store is not None else None

    def tiles(self, heads: Heads, partition: int) -> tuple[int, Read | None]:
        """Size of the kept tree and how its tiles are read; 0 where there is none. Its note is one more head."""
        origin = origin_of(heads.env, heads.log_of(partition), partition)
        note = self._seen[origin] if origin in self._seen else self._note(origin)
        if note is None or self._store is None:
            return 0, None
        head = heads.take(partition, note, "beside the tiles")
        return (head.size, reader(self._store, origin)) if head is not None else (0, None)


def store_at(settings: Settings) -> Store:
    """The one this process was told of."""
    try:
        return Store(store_of(settings))
    except Terminal as error:
        return Store(None, str(error))


def hold(checker: Chain, heads: Heads, store: Store) -> None:
    """Hold one ledger to its heads, before its first record is read."""
    partition = checker.findings.partition
    kept, read = store.tiles(heads, partition)
    checker.grow(heads.signed.get(partition, {}).values(), kept, read)
    checker.judged_from = heads.since.get(partition, 0)
    for sentence in heads.faults.get(partition, []):
        checker.findings.add("checkpoint", 0, -1, sentence)


def told(checker: Chain, store: Store) -> dict[str, object]:
    """For the report."""
    tree = checker.tree
    if tree is None:
        return {"verdict": f"not compared: {checker.lost or 'no head'}"}
    broken = {"checkpoint", "tiles"} & checker.findings.counts.keys()
    verdict = "broken" if broken else "same" if tree.compared else "no checkpoint"
    return {"verdict": verdict, "heads": tree.compared, "tiles": tree.tiles or store.reason}


def begin(control: Control, env: str) -> Heads:
    """Of the log that control names."""
    return Heads(control.log_id, env, checkpoints.keys_of(control), own=control.own_log)
