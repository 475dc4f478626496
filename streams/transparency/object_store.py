"""Trees in an object store: `SLUICEGATE_TILES=s3://bucket/prefix`, with the extra `s3` (obstore).

Whatever obstore reaches by url will do: s3, gs, az; credentials and endpoint come from its own variables (`AWS_*` and so on), never
from ours. An object is whole or not there, and durable when the store has answered. Next: `transparency/tile_store.py` (the port).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sluicegate.schemas.errors import Retryable, Terminal

AT_ONCE = 16
"""Objects written at a time: 80 tiles a second at 20,000 events a second, 20 ms each, take two."""


class ObjectStore:
    """`TileStore` over one of obstore's stores."""

    def __init__(self, store: Any) -> None:
        import obstore

        self._api: Any = obstore
        self._store = store

    @classmethod
    def at(cls, url: str) -> ObjectStore:
        """The store of a url. Raises `Terminal` for one that cannot be used here."""
        return cls(opened(url, "tiles"))

    def get(self, name: str) -> bytes | None:
        """Read it."""
        try:
            return bytes(self._api.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise Retryable(f"`{name}` cannot be read from the object store: {first_line(error)}") from error

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write them, some at a time; what fails leaves the others, which are right anyway."""
        with ThreadPoolExecutor(AT_ONCE, "tiles") as pool:
            done = [pool.submit(self._api.put, self._store, name, data) for name, data in files]
        for one in done:
            if (error := one.exception()) is not None:
                raise Retryable(
                    f"tiles cannot be written to the object store: {first_line(error)}"
                ) from error

    def drop(self, name: str) -> None:
        """Delete what is below it."""
        try:
            for page in self._api.list(self._store, f"{name}/"):
                self._api.delete(self._store, [row["path"] for row in page])
        except FileNotFoundError:
            return
        except Exception as error:
            raise Retryable(
                f"`{name}` cannot be deleted from the object store: {first_line(error)}"
            ) from error


def opened(url: str, what: str) -> Any:
    """obstore's store of a url, to keep `what` in. Raises `Terminal` for one that cannot be used here."""
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise Terminal(
            f"`{url.partition('://')[0]}://` needs a package more: pip install 'sluicegate[s3]', or name a folder"
        ) from error
    try:
        return from_url(url)
    except Exception as error:  # its own classes, ValueError for a scheme that it does not know
        raise Terminal(f"{what} cannot be kept at `{url}`: {first_line(error)}, correct the url") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
