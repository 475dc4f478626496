"""Folds that were ended half-way, kept in the state directory: `rebuild --resume` goes on with them.

A cache and nothing else: what is read is taken only for the same log, store, partition and version of the code, whole by
its digest; and the next record must name its hash. Next: `rebuild/rebuild.py` (who keeps).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from sluicegate.processors import snapshot
from sluicegate.processors.state import PartitionState
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import SluicegateError

KEEP_EVENTS = 1_000_000
"""Events between two: some twenty seconds of work, the most that an interruption costs."""


@dataclass(slots=True)
class Kept:
    """A fold as far as it had come. `cursor`: where its store goes on."""

    state: PartitionState
    cursor: int
    checkpoints: dict[int, str]


def _path(folder: Path, source: str, partition: int) -> Path:
    return folder / f"{source}-{partition}.fold"


def keep(folder: Path, source: str, kept: Kept) -> None:
    """Store it, in place of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    data = snapshot.encode(kept.state)
    about = {
        "log_id": kept.state.log_id.hex(), "engine": ENGINE, "cursor": kept.cursor, "checkpoints": kept.checkpoints,
        "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    path = _path(folder, source, kept.state.partition)
    new = path.with_suffix(".new")
    new.write_bytes(json.dumps(about).encode() + b"\n" + zlib.compress(data, 1))
    new.replace(path)


def load(folder: Path, source: str, partition: int, log_id: bytes) -> Kept | None:
    """What was kept, or None where there is nothing that can be used."""
    try:
        about, _, packed = _path(folder, source, partition).read_bytes().partition(b"\n")
        said = json.loads(about)
        data = zlib.decompress(packed)
        same = (said["log_id"], said["engine"]) == (log_id.hex(), ENGINE)
        if not same or hashlib.sha256(data).hexdigest() != said["sha256"]:
            return None
        checkpoints = {int(seq): str(link) for seq, link in said["checkpoints"].items()}
        return Kept(snapshot.decode(data), int(said["cursor"]), checkpoints)
    except (OSError, ValueError, KeyError, zlib.error, SluicegateError):
        return None


def forget(folder: Path, source: str, partition: int) -> None:
    """It was folded to its end."""
    _path(folder, source, partition).unlink(missing_ok=True)
