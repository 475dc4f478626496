"""Artifacts in an object store: `SLUICEGATE_ARTIFACTS=s3://bucket/prefix`, with the extra `s3` (obstore).

Credentials and endpoint come from obstore's own variables (`AWS_*` and so on). Agents need to read only, executors to write, and to
list and delete for the retention; a rule of the bucket can do that instead. Next: `archive/artifacts.py` (the port), `transparency/object_store.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, cast

from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.topics import MAX_ARTIFACT_BYTES
from sluicegate.streams.archive.artifacts import SEAL_BYTES
from sluicegate.streams.transparency.object_store import first_line, opened

PAGE = 1_000
"""Objects listed, and deleted, at a time: what one request to S3 holds."""


class ObjectArtifacts:
    """`Artifacts` over one of obstore's stores."""

    def __init__(self, store: Any) -> None:
        import obstore

        self._api: Any = obstore
        self._store = store

    @classmethod
    def at(cls, url: str) -> ObjectArtifacts:
        """The store of a url. Raises `Terminal` for one that cannot be used here."""
        return cls(opened(url, "artifacts"))

    async def put(self, name: str, sealed: bytes) -> None:
        """An object is whole or not there. Again writes the same bytes."""
        await _answer(self._api.put_async(self._store, _key(name), sealed), f"`{name}` cannot be stored")

    async def get(self, name: str) -> bytes | None:
        """At most what an artifact can have."""
        most = MAX_ARTIFACT_BYTES + SEAL_BYTES + 1
        try:
            found = cast(
                Any, await _answer(self._api.get_async(self._store, _key(name)), f"`{name}` cannot be read")
            )
            if found.meta["size"] >= most:
                return b""  # no artifact: its digest will not fit
            return bytes(cast(Any, await _answer(found.bytes_async(), f"`{name}` cannot be read")))
        except FileNotFoundError:
            return None

    async def delete(self, name: str) -> None:
        """Delete it."""
        try:
            await _answer(self._api.delete_async(self._store, _key(name)), f"`{name}` cannot be deleted")
        except FileNotFoundError:
            return

    async def sweep(self, before_s: float) -> int:
        """A page at a time."""
        found = 0
        pages = aiter(self._api.list(self._store, chunk_size=PAGE))
        while (page := await _answer(anext(pages, None), "artifacts cannot be listed")) is not None:
            rows = cast("list[dict[str, Any]]", page)
            old = [
                row["path"]
                for row in rows
                if _is_key(row["path"]) and cast(datetime, row["last_modified"]).timestamp() < before_s
            ]
            if old:
                try:
                    await _answer(self._api.delete_async(self._store, old), "artifacts cannot be deleted")
                except FileNotFoundError:
                    continue  # another sweeper has begun; the next time finds the rest
                found += len(old)
        return found


async def _answer(work: Awaitable[object], what: str) -> object:
    try:
        return await work
    except FileNotFoundError:
        raise
    except (
        Exception
    ) as error:  # obstore's classes are many, and all say: not now, or not with these credentials
        raise Retryable(f"{what} in the object store: {first_line(error)}") from error


def _key(name: str) -> str:
    digest = name.removeprefix("sha256:")
    return f"{digest[:2]}/{digest}"


def _is_key(path: str) -> bool:
    """Whether an object is an artifact: the prefix may hold what is not ours."""
    shelf, _, digest = path.rpartition("/")
    return (
        len(digest) == 64
        and shelf.rpartition("/")[2] == digest[:2]
        and set(digest) <= set("0123456789abcdef")
    )
