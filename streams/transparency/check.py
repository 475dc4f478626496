"""Check checkpoints: signatures, witnesses, that each continues the one before, and that the tiles lead to the root.

What is in the ledger itself is `ledger verify`'s to check. Never writes. Next: `commands/checkpoint.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.transparency import checkpoints, merkle, proofs
from sluicegate.processors.transparency.checkpoints import CheckpointFault, LogKey, Signed
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.tiles import TileFault, TileNodes, check_all
from sluicegate.processors.transparency.witness_policy import Policy
from sluicegate.streams.transparency import tile_store
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.tile_store import TileStore


@dataclass(slots=True)
class Checked:
    """One log, or one file."""

    origin: str
    signed: Signed | None = None
    witnesses: list[str] = field(default_factory=list)
    count: int = 0
    """Checkpoints that were looked at."""
    index: int | None = None
    """Of a proof: which event of the log it is about."""
    fault: str = ""
    code: str = ""

    @property
    def event(self) -> str:
        """The event that is proved, as `sluicegate prove` takes it; empty for a checkpoint."""
        return "" if self.index is None else f"{self.origin.rpartition('/')[2]}:{self.index}"

    @property
    def verdict(self) -> str:
        """`VALID`, `NONE` where there is no checkpoint, or `INVALID`."""
        return "INVALID" if self.fault else "VALID" if self.signed else "NONE"

    def fail(self, error: CheckpointFault | TileFault) -> None:
        """Keep the first fault."""
        self.fault = self.fault or str(error)
        self.code = self.code or (error.code if isinstance(error, CheckpointFault) else "tiles")


async def check_logs(
    consumer: AIOKafkaConsumer, log: LogFile, policy: Policy, store: TileStore | None, *, every: bool = False,
    deep: bool = False,
) -> list[Checked]:  # fmt: skip
    """Each log's newest checkpoint, or with `every` all of them.

    `store`: None leaves the tiles alone. `deep`: each tile is checked, not only those that roots are made of.
    """
    found = await checkpoint_topic.newest(consumer, log.env, log.origins, log.keys, every=every)
    return [
        await asyncio.to_thread(_check_log, o, all_of, log.keys, policy, store, deep)
        for o, all_of in found.items()
    ]


def _check_log(
    origin: str, all_of: list[Signed], keys: tuple[LogKey, ...], policy: Policy, store: TileStore | None,
    deep: bool,
) -> Checked:  # fmt: skip
    done = Checked(origin, count=len(all_of))
    try:
        done.signed = checkpoints.newest(all_of)
        if done.signed is None:
            return done
        done.witnesses = list(policy.check(done.signed.note, checkpoints.key_of(done.signed, keys)))
        if store is not None:
            _check_tiles(done.signed, all_of, store, deep)
    except (CheckpointFault, TileFault) as error:
        done.fail(error)
    return done


def _check_tiles(newest: Signed, all_of: list[Signed], store: TileStore, deep: bool) -> None:
    """The tiles lead to the newest root, and from it back to every older one. Raises."""
    read = tile_store.reader(store, newest.head.origin)
    if deep:
        for _ in check_all(newest.head.size, read):
            pass
    nodes = TileNodes(newest.head.size, read)
    for one in (newest, *all_of):
        if merkle.root_at(one.head.size, nodes) != one.head.root:
            raise CheckpointFault(
                "forked",
                f"the tiles of `{one.head.origin}` do not lead to the root of its checkpoint {one.head.size}: they were changed, "
                "or the log was forked; run `sluicegate ledger verify`",
            )


def check_text(text: str, log: LogFile, policy: Policy) -> list[Checked]:
    """A checkpoint or proofs as a file holds them: offline, by the description of the log alone."""
    return [_check_one(part, log, policy) for part in proofs.split(text)]


def _check_one(text: str, log: LogFile, policy: Policy) -> Checked:
    done = Checked("")
    try:
        if text.startswith(("{", proofs.TLOG_PROOF)):
            made = proofs.parse(text)
            head, _ = checkpoints.read(str(made.note))
            done.origin, done.count, done.index = head.origin, 1, made.index
            signed = made.verify(log.keys, _known(head.origin, log), policy)
        else:
            head, _ = checkpoints.read(text)
            done.origin, done.count = head.origin, 1
            signed = checkpoints.verify(text, log.keys, _known(head.origin, log))
            policy.check(signed.note, checkpoints.key_of(signed, log.keys))
        done.signed, done.witnesses = signed, list(policy.times(signed.note))
    except CheckpointFault as error:
        done.fail(error)
    return done


def _known(origin: str, log: LogFile) -> str:
    """Raises `CheckpointFault` for a log of somebody else."""
    if origin not in log.origins:
        raise CheckpointFault(
            "other_log",
            f"`{origin}` is none of the logs of `{log.env}` with log id {log.log_id.hex()}: take the right description",
        )
    return origin
