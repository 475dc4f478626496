"""What executor tests share: dispatches, adapters that do as they are told, and a partition without Kafka."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sluicegate.executors.adapter import Answer, Finished
from sluicegate.executors.claim_log import Claim, Fetched
from sluicegate.schemas import codec, signing
from sluicegate.schemas.records import Dispatch, Receipt
from sluicegate.streams.transactions import Headers

SECOND_US = 1_000_000


def now_us() -> int:
    return time.time_ns() // 1000


def dispatch(
    number: int = 0,
    *,
    tool_class: str = "irreversible",
    lease_s: float = 5.0,
    timeout_ms: int = 2_000,
    key: str = "",
    agent: str = "agent-1",
    executor: bytes = b'{"kind":"fake"}',
    arguments: bytes = b"{}",
    attempt: int = 1,
    intent_id: str = "",
    traceparent: str = "",
) -> Dispatch:
    """Dispatch `number`, leased from now on."""
    ident = hashlib.sha256(f"{number}/{attempt}/{agent}".encode()).digest()
    return Dispatch(
        ident[:16], intent_id or f"intent-{number}", agent, "session-1", "acme", "a.tool", tool_class, executor,
        arguments, ident, key or f"key-{agent}-{number}", attempt, timeout_ms, now_us() + int(lease_s * SECOND_US),
        traceparent,
    )  # fmt: skip


def mac_signer(env: str, kid: str, key: bytes, clock: Callable[[], int]) -> Callable[[bytes], bytes]:
    """Signs receipts with a MAC, without a control ledger that says with which."""
    return lambda payload: signing.sign(payload, kid, "HS256", key, f"{env}/receipts", clock())


class FakeAdapter:
    """Counts calls by idempotency key; what a call does is `behave`'s business."""

    def __init__(self, behave: Callable[[Dispatch], Awaitable[Answer]] | None = None) -> None:
        self.called: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.began: dict[str, float] = {}
        self.closed = False
        self._behave = behave

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        self.called[dispatch.idempotency_key] += 1
        self.began[dispatch.idempotency_key] = time.monotonic()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self._behave is not None:
                return await self._behave(dispatch)
            return Finished(b'"ok"')
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed = True


def sleeping(seconds: float) -> Callable[[Dispatch], Awaitable[Answer]]:
    """A tool that takes this long."""

    async def behave(_: Dispatch) -> Answer:
        await asyncio.sleep(seconds)
        return Finished(b'"slept"')

    return behave


@dataclass
class FakeLog:
    """One partition in memory: a list of records, committed claims, and trouble on demand."""

    records: list[Fetched] = field(default_factory=list)
    committed: int = 0
    claimed: list[tuple[list[Receipt], int]] = field(default_factory=list)
    token: str = ""
    before_commit: Callable[[], Awaitable[None]] | None = None
    after_commit: Callable[[], Awaitable[None]] | None = None
    fetch_error: Exception | None = None
    opened: int = 0
    closed: int = 0
    claimed_before: frozenset[bytes] = frozenset()
    _position: int = 0
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, *dispatches: Dispatch | bytes, appended_at: int | None = None) -> None:
        for one in dispatches:
            value = one if isinstance(one, bytes) else codec.encode(one)
            stamp = now_us() if appended_at is None else appended_at
            self.records.append(Fetched(len(self.records), stamp, value))
        self._more.set()

    async def open(self) -> int:
        self.opened += 1
        self._position = self.committed
        return self._position

    async def fetch(self, limit: int) -> list[Fetched]:
        await asyncio.sleep(0.001)  # a network never answers at once: others go first
        if self.fetch_error is not None:
            error, self.fetch_error = self.fetch_error, None
            raise error
        if self._position >= len(self.records):
            self._more.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._more.wait()
            except TimeoutError:
                return []
        found = self.records[self._position : self._position + limit]
        self._position += len(found)
        return found

    async def claim(self, claims: list[Claim], offset: int, token: str) -> None:
        if self.before_commit is not None:
            await self.before_commit()
        self.commit(claims, offset, token)
        if self.after_commit is not None:
            await self.after_commit()

    def commit(self, claims: list[Claim], offset: int, token: str) -> None:
        receipts = [codec.decode_as(Receipt, claim.value) for claim in claims]
        self.claimed.append((receipts, offset))
        self.committed, self.token = offset, token

    async def last_token(self) -> str:
        return self.token

    async def close(self) -> None:
        self.closed += 1

    @property
    def claims(self) -> list[Receipt]:
        """Every committed claim."""
        return [receipt for receipts, _ in self.claimed for receipt in receipts]


class FakeReports:
    """Receipts in a list; `hold` is Kafka being away."""

    def __init__(self, bound: int = 10_000) -> None:
        self.receipts: list[Receipt] = []
        self.waiting = 0
        self._bound = bound
        self._here = asyncio.Event()
        self._here.set()

    def hold(self) -> None:
        self._here.clear()

    def let_go(self) -> None:
        self._here.set()

    @property
    def full(self) -> bool:
        return self.waiting >= self._bound

    async def room(self) -> None:
        while self.full:
            await asyncio.sleep(0.005)

    async def send(self, partition: int, key: bytes, value: bytes, headers: Headers) -> None:
        self.waiting += 1
        await self._here.wait()
        self.waiting -= 1
        self.receipts.append(codec.decode_as(Receipt, value))


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for a condition; fails when it does not come true."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)
