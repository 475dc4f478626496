"""Budgets in a snapshot: canonical bytes of accounts, homes, reservations and who waits in which order.

Every field of `budget/state.py` is written; a test holds the two together. Next: `snapshot.py` (who calls this).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

from sluicegate.processors.budget.fold import join
from sluicegate.processors.budget.state import Account, Home, Lease, Reservation, Waiter
from sluicegate.processors.entries import PartitionState
from sluicegate.schemas.codec import encode_long, encode_string

_ACCOUNT, _LEASE = ([f.name for f in fields(kind)] for kind in (Account, Lease))
_HOME = [f.name for f in fields(Home) if f.name != "leases"]


class Reader(Protocol):
    """What reads the bytes again."""

    def long(self) -> int: ...
    def text(self) -> str: ...
    def raw(self, size: int) -> bytes: ...


def encode(state: PartitionState) -> Iterator[bytes]:
    """The canonical bytes, in pieces."""
    yield encode_long(len(state.accounts))
    for name in sorted(state.accounts):
        yield encode_string(name) + _longs(state.accounts[name], _ACCOUNT)
    yield encode_long(len(state.homes))
    for name in sorted(state.homes):
        home = state.homes[name]
        leases = [encode_long(p) + _longs(home.leases[p], _LEASE) for p in sorted(home.leases)]
        yield encode_string(name) + _longs(home, _HOME) + encode_long(len(leases)) + b"".join(leases)
    yield encode_long(len(state.reservations))
    for key in sorted(state.reservations):
        rows = [
            encode_long(r.attempt) + encode_string(r.account) + encode_long(r.window) + encode_long(r.amount)
            for r in state.reservations[key]
        ]
        yield key + encode_long(len(rows)) + b"".join(rows)
    yield encode_long(len(state.waiters))
    for key, waiter in state.waiters.items():  # their order is who is served first
        yield key + encode_string(waiter.account) + encode_long(waiter.need) + encode_long(waiter.until)


def decode(read: Reader, state: PartitionState) -> None:
    """Fill a state."""
    for _ in range(read.long()):
        name = read.text()
        state.accounts[name] = Account(*(read.long() for _ in _ACCOUNT))
    for _ in range(read.long()):
        name = read.text()
        window, cap, frozen_at, frozen_cap = (read.long() for _ in _HOME)
        home = state.homes[name] = Home(window, cap, frozen_at, frozen_cap)
        for _ in range(read.long()):
            partition = read.long()
            home.leases[partition] = Lease(*(read.long() for _ in _LEASE))
    for _ in range(read.long()):
        key = read.raw(16)
        state.reservations[key] = tuple(
            Reservation(read.long(), read.text(), read.long(), read.long()) for _ in range(read.long())
        )
    for _ in range(read.long()):
        join(state, read.raw(16), Waiter(read.text(), read.long(), read.long()))


def _longs(record: object, names: list[str]) -> bytes:
    return b"".join(encode_long(getattr(record, name)) for name in names)
