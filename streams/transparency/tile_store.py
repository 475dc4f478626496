"""Where trees are kept: tiles and the newest checkpoint of each log, in a folder, laid out as C2SP tlog-tiles.

    SLUICEGATE_TILES     the folder (default: `tiles` in the state directory), or s3://bucket/prefix with the extra `s3`

    <folder>/<environment>/<log id>/<partition>/checkpoint            the last signed note
                                               /tile/<L>/<N>[.p/<W>]  hashes
                                               /position              where the last leaf is in Kafka; a hint, may be lost

Any web server can serve the folder as it is to any C2SP client. `TileStore` is the port for another store. A written tile
never changes. Never judges what it keeps. Next: `processors/transparency/tiles.py` (what tiles are), `transparency/log_tree.py` (who writes them), `transparency/object_store.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Protocol

from sluicegate.processors.transparency.checkpoints import ORIGIN_PREFIX
from sluicegate.processors.transparency.tiles import WIDTH, Read, Tile, TileFault
from sluicegate.schemas.errors import Retryable
from sluicegate.streams.settings import Settings

VARIABLE = "SLUICEGATE_TILES"
CHECKPOINT, POSITION = "checkpoint", "position"
AT_ONCE = 256
"""Files that are open together when many are written."""
MAX_FILE_BYTES = 300 * 1024 * 1024
"""A tile has 8 kB, a note with 100 signatures 15; a file of the archive (`archive/archive.py`) at most 256 of the largest records."""


class TileStore(Protocol):
    """Small files under names with slashes."""

    def get(self, name: str) -> bytes | None:
        """The bytes of that name, or None where there are none. Raises `Retryable`."""
        ...

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Keep files; each is whole or not there, and all are durable when it returns. Raises `Retryable`."""
        ...

    def drop(self, name: str) -> None:
        """Forget everything below a name. Raises `Retryable`."""
        ...


class FolderStore:
    """A folder, on one machine or on a disk that is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> bytes | None:
        """Read it."""
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(MAX_FILE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Retryable(f"`{self.folder / name}` cannot be read: {error.strerror}") from error

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write beside, make durable, then rename: a reader sees all of a file or nothing."""
        folders: set[Path] = set()
        rest = iter(files)
        try:
            while some := list(islice(rest, AT_ONCE)):
                self._put(some, folders)
            for folder in folders:
                _sync_folder(folder)
        except OSError as error:
            raise Retryable(
                f"tiles cannot be written to `{self.folder}`: {error.strerror}, make room or check its rights"
            ) from error

    def _put(self, files: list[tuple[str, bytes]], folders: set[Path]) -> None:
        """All are written before the first is synced: the disk then has most of them, and the syncs cost a twentieth."""
        written: list[tuple[int, Path, Path]] = []
        try:
            for name, data in files:
                path = self.folder / name
                if path.parent not in folders:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    folders.add(path.parent)
                handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".part-")
                written.append((handle, Path(beside), path))
                if os.write(handle, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for handle, _, _ in written:
                os.fsync(handle)
            for _, part, path in written:
                part.replace(path)
        except BaseException:
            for _, part, _ in written:
                part.unlink(missing_ok=True)
            raise
        finally:
            for handle, _, _ in written:
                os.close(handle)

    def drop(self, name: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self.folder / name, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """So that the names are durable too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class MemoryStore:
    """For tests and benches."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Look it up."""
        return self.files.get(name)

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Keep them."""
        self.files.update(files)

    def drop(self, name: str) -> None:
        """Forget them."""
        self.files = {n: data for n, data in self.files.items() if not n.startswith(f"{name}/")}


def folder_of(origin: str) -> str:
    """A log's folder in a store: its name without the part that all have."""
    return origin.removeprefix(ORIGIN_PREFIX)


def reader(store: TileStore, origin: str) -> Read:
    """A function that reads one log's tiles, for `tiles.TileNodes`. Raises `TileFault` for one that is not there."""
    folder = folder_of(origin)

    def read(tile: Tile) -> bytes:
        data = store.get(f"{folder}/{tile.path}")
        if data is None and tile.width < WIDTH:  # a partial tile goes once the full one is there
            data = store.get(f"{folder}/{Tile(tile.level, tile.n).path}")
        if data is None:
            raise TileFault(
                f"tile `{tile.path}` of `{origin}` is not there: restore it from a copy, or remove the log's folder and "
                "let `checkpointer` build it again from the ledger"
            )
        return data

    return read


def store_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> TileStore:
    """The store this process was told of. Raises `Terminal` for one that cannot be used here."""
    where = environ.get(VARIABLE, "").strip()
    if "://" in where:
        from sluicegate.streams.transparency.object_store import ObjectStore

        return ObjectStore.at(where)
    return FolderStore(Path(where).expanduser().absolute() if where else settings.home / "tiles")
