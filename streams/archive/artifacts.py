"""The artifact store: large results under the digest of their sealed bytes, in a folder or an object store.

    SLUICEGATE_ARTIFACTS     the folder (default: `artifacts` in the state directory), or s3://bucket/prefix with the extra `s3`

What is stored is ciphertext under a key that stands in the reference and nowhere else; what is fetched is checked twice, as
stored and as opened. Content-addressed, so nothing is ever overwritten by something else. `Artifacts` is the port for another
store (`archive/artifact_objects.py`). Deletes by name, which an erasure does (`erasures.py`), and by age (`archive/artifact_sweep.py`). Next:
`processors/artifacts.py` (references), docs/artifacts.md.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sluicegate.processors.artifacts import KEY_BYTES, Reference, digest_of, reference_of
from sluicegate.processors.large_arguments import NONCE
from sluicegate.processors.large_arguments import seal as sealed_with
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import MAX_ARTIFACT_BYTES
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.settings import Settings

VARIABLE = "SLUICEGATE_ARTIFACTS"
SEAL_BYTES = 16
"""What sealing adds."""


class Artifacts(Protocol):
    """Where sealed artifacts stand, by name."""

    async def put(self, name: str, sealed: bytes) -> None:
        """Store bytes under their digest; again does nothing. Raises `Retryable` or `OSError`."""
        ...

    async def get(self, name: str) -> bytes | None:
        """The bytes of that name, or None when there are none."""
        ...

    async def delete(self, name: str) -> None:
        """Forget them; nothing when there are none. Raises `Retryable` or `OSError`."""
        ...

    async def sweep(self, before_s: float) -> int:
        """Forget what was stored before this time, in seconds since 1970; how many. Raises `Retryable` or `OSError`."""
        ...


class FolderArtifacts:
    """A folder, on one machine or on a disk that all roles and agents mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, name: str) -> Path:
        digest = name.removeprefix("sha256:")
        return self._folder / digest[:2] / digest

    async def put(self, name: str, sealed: bytes) -> None:
        """Write beside, then rename: a reader sees all of it or nothing."""
        await asyncio.to_thread(self._put, self._path(name), sealed)

    def _put(self, path: Path, sealed: bytes) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, beside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    async def get(self, name: str) -> bytes | None:
        """Read it."""
        return await asyncio.to_thread(self._get, self._path(name))

    async def delete(self, name: str) -> None:
        """Unlink it."""
        await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def sweep(self, before_s: float) -> int:
        """Unlink what was last written before; what a crash left half written is among it."""
        return await asyncio.to_thread(self._sweep, before_s)

    def _sweep(self, before_s: float) -> int:
        found = 0
        for shelf in self._shelves():
            with os.scandir(shelf) as entries:
                for entry in entries:
                    try:
                        if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before_s:
                            Path(entry.path).unlink()
                            found += 1
                    except FileNotFoundError:
                        continue  # another sweeper, or an erasure, was there first
        return found

    def _shelves(self) -> list[Path]:
        """The folders that `_path` makes, and no other: the folder may hold what is not ours."""
        return [path for n in range(256) if (path := self._folder / f"{n:02x}").is_dir()]

    def _get(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                return file.read(MAX_ARTIFACT_BYTES + SEAL_BYTES + 1)
        except FileNotFoundError:
            return None


def store_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> Artifacts:
    """The store this process was told of. Raises `Terminal` for one that cannot be used here."""
    where = environ.get(VARIABLE, "").strip()
    if "://" in where:
        from sluicegate.streams.archive.artifact_objects import ObjectArtifacts  # which needs an extra

        return ObjectArtifacts.at(where)
    return FolderArtifacts(Path(where).expanduser().absolute() if where else settings.home / "artifacts")


def seal(content: bytes) -> tuple[Reference, bytes]:
    """A reference to this content, and what is stored."""
    return sealed_with(content, secrets.token_bytes(KEY_BYTES))


def unseal(reference: Reference, sealed: bytes) -> bytes:
    """The content. Raises `Terminal` when it is not what the reference says."""
    if digest_of(sealed) != reference.stored:
        raise Terminal(f"what is stored as `{reference.stored}` is something else, restore it from a backup")
    try:
        content = AESGCM(reference.key).decrypt(NONCE, sealed, None)
    except InvalidTag as error:
        raise Terminal(
            f"artifact `{reference.digest}` does not open with the key of its reference"
        ) from error
    if digest_of(content) != reference.digest or len(content) != reference.size:
        raise Terminal(f"artifact `{reference.digest}` is not what its reference says")
    return content


async def fetch(store: Artifacts, value: object) -> bytes:
    """The content that a released result refers to, checked. Raises `Terminal`, or `Retryable` while it is not there."""
    reference = reference_of(value)
    if reference is None:
        raise Terminal("this result is no reference to an artifact, it is the result itself")
    sealed = await store.get(reference.stored)
    if sealed is None:
        raise Retryable(
            f"artifact `{reference.digest}` is not in the store: set {VARIABLE} as the executors have it"
        )
    return await asyncio.to_thread(unseal, reference, sealed)


async def opened(settings: Settings, result: Json) -> Json:
    """A released result; where it is a reference, what that refers to. Raises as `fetch`."""
    if reference_of(result) is None:
        return result
    return cast(Json, orjson.loads(await fetch(store_of(settings), result)))
