"""Sessions of one partition: those in use as objects, those that rest packed, in a store that may be a file.

A mapping like any other; who reads it cannot tell which is which. `rest` packs sessions that nobody used for an hour; asking for
one unpacks it, and it stays an object. What is packed are its canonical bytes (`snapshot.py`), so state bytes and decisions are
the same either way (tests/properties/test_resting.py). The store holds nothing that the ledger does not: it is filled again by
recovery. Never decides what rests in a way that a decision could see. Next: `sessions/closed.py` (who calls `rest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast, overload

from sluicegate.processors.sessions.session import Session

REST_US = 3_600_000_000
"""A session nobody used for this long rests: 1,700 bytes as an object, 370 packed."""


class Store(Protocol):
    """Where packed sessions rest, by a handle that it gave."""

    def put(self, packed: bytes) -> object:
        """Keep bytes; the handle to them."""
        ...

    def get(self, handle: object) -> bytes:
        """The bytes."""
        ...

    def drop(self, handle: object) -> None:
        """They are not needed any more."""
        ...


class InMemory:
    """The handle is the bytes."""

    def put(self, packed: bytes) -> object:
        """Themselves."""
        return packed

    def get(self, handle: object) -> bytes:
        """Themselves."""
        return cast(bytes, handle)

    def drop(self, handle: object) -> None:
        """Nothing to do."""


_NOT_GIVEN = Session("", "", "", "", "", 0, 0)


class Sessions:
    """Name -> session. INVARIANT: it holds what a dictionary would hold (tests/properties/test_resting.py)."""

    __slots__ = ("_awake", "_resting", "_store")

    def __init__(self, store: Store | None = None) -> None:
        self._store: Store = store or InMemory()
        self._awake: dict[str, Session] = {}
        self._resting: dict[str, tuple[int, str, object]] = {}
        """Name -> (last_at, release, handle)."""

    @overload
    def get(self, name: str) -> Session | None: ...
    @overload
    def get(self, name: str, default: Session) -> Session: ...
    def get(self, name: str, default: Session | None = None) -> Session | None:
        """The session, awake from now on."""
        found = self._awake.get(name)
        if found is not None:
            return found
        return self._wake(name) if name in self._resting else default

    def _wake(self, name: str) -> Session:
        *_, handle = self._resting.pop(name)
        session = self._awake[name] = _unpack(self._store.get(handle))
        self._store.drop(handle)
        return session

    def __getitem__(self, name: str) -> Session:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, session: Session) -> None:
        self._forget(name)
        self._awake[name] = session

    def __delitem__(self, name: str) -> None:
        if self._awake.pop(name, None) is None and not self._forget(name):
            raise KeyError(name)

    def _forget(self, name: str) -> bool:
        row = self._resting.pop(name, None)
        if row is not None:
            self._store.drop(row[2])
        return row is not None

    @overload
    def pop(self, name: str) -> Session: ...
    @overload
    def pop(self, name: str, default: None) -> Session | None: ...
    def pop(self, name: str, default: Session | None = _NOT_GIVEN) -> Session | None:
        """Take it out."""
        found = self.get(name)
        if found is None:
            if default is _NOT_GIVEN:
                raise KeyError(name)
            return default
        del self._awake[name]
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._awake or name in self._resting

    def __len__(self) -> int:
        return len(self._awake) + len(self._resting)

    def __iter__(self) -> Iterator[str]:
        yield from self._awake
        yield from self._resting

    def values(self) -> Iterator[Session]:
        """All of them; those that rest as copies, which are not to be changed."""
        return (session for _, session in self.items())

    def items(self) -> Iterator[tuple[str, Session]]:
        """All of them; those that rest as copies, which are not to be changed."""
        yield from list(self._awake.items())
        for name, (*_, handle) in list(self._resting.items()):
            yield name, _unpack(self._store.get(handle))

    def peek(self, name: str) -> Session:
        """One of them, as a copy where it rests: it goes on resting."""
        found = self._awake.get(name)
        return found if found is not None else _unpack(self._store.get(self._resting[name][2]))

    def packed(self, name: str) -> bytes:
        """The canonical bytes of one of them."""
        found = self._awake.get(name)
        return _pack(found) if found is not None else self._store.get(self._resting[name][2])

    def releases(self) -> set[str]:
        """Releases that any of them stands on."""
        return {session.release for session in self._awake.values()} | {
            row[1] for row in self._resting.values()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sessions) and dict(self.items()) == dict(other.items())

    def idle(self, since: int) -> list[str]:
        """Names of those nobody used since then, in the order of their names."""
        found = [name for name, session in self._awake.items() if session.last_at < since]
        return sorted(found + [name for name, row in self._resting.items() if row[0] < since])

    def rest(self, since: int) -> None:
        """Pack those nobody used since then. Nobody may hold one of them meanwhile."""
        for name in [name for name, session in self._awake.items() if session.last_at < since]:
            session = self._awake.pop(name)
            self._resting[name] = session.last_at, session.release, self._store.put(_pack(session))

    @property
    def resting(self) -> int:
        """How many rest."""
        return len(self._resting)

    def move(self, store: Store) -> None:
        """Let those that rest do so in another store."""
        for name, (last_at, release, handle) in self._resting.items():
            self._resting[name] = last_at, release, store.put(self._store.get(handle))
            self._store.drop(handle)
        self._store = store


def _pack(session: Session) -> bytes:
    from sluicegate.processors import snapshot  # it names every field of the state, this one, too

    return snapshot.pack_session(session)


def _unpack(packed: bytes) -> Session:
    from sluicegate.processors import snapshot

    return snapshot.unpack_session(packed)
