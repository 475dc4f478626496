"""A lane: one partition of `dispatches`, as long as this process owns it, and the claim protocol in five steps.

    1. Fetch    committed dispatches, as many as there are free slots; what is past its `not_after` is dropped, what
                is not the pipeline's or not what the agent signed is set aside (`verifier.py`)
    2. Claim    `claimed` receipts of everything but reads, and the group's offset, in one transaction
    3. Commit   only a known commit, and only before `not_after`, permits the call
    4. Call     through the adapter, cut at `timeout_ms`
    5. Report   the receipt, until Kafka has it

The docs, the failpoints and the crash tests use these numbers; steps 4 and 5 are in `calls.py`. A read needs no claim:
it starts at step 4 as soon as it is fetched, and never waits for a claim. Claims that arrive while a transaction is under way
go together into the next one. Any error taints the lane: what was not known to be committed is never called, the
producer is replaced, reading goes on at the committed offset. If the claim turns out to be committed after all, a
receipt says that nothing was sent.
Never publishes for what it drops: the ledger's tick offers it again. Next: `claim_log.py`, `dispatcher.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from aiokafka.errors import KafkaError, ProducerFenced
from sluicegate.executors.calls import Calls, Offer
from sluicegate.executors.claim_log import Claim, ClaimLog, Fetched
from sluicegate.executors.reports import packed
from sluicegate.executors.verifier import ReadsOnly, Verifier
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal, Unreadable
from sluicegate.schemas.records import Receipt
from sluicegate.streams.failpoints import hit

OFFSETS_EVERY_S = 1.0
"""After reads alone, the group's offset trails by this much; a successor repeats those reads at most."""
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
"""Pause after a taint, doubled each time."""
FENCED_PAUSE_S = 2.0
"""Pause after being fenced: two heartbeats, in which a zombie learns that the partition is not its own any more
instead of fencing its successor back."""
TOKEN_BYTES = 8
"""Random; names one claim transaction."""
NO_CLAIM = "read_only"
"""The class that may repeat without anybody asking."""

LaneError = (KafkaError, SluicegateError, TimeoutError, AssertionError, OSError, ValueError)


class Lane:
    """One partition."""

    def __init__(
        self,
        index: int,
        open_log: Callable[[int], ClaimLog],
        calls: Calls,
        on_unreadable: Callable[[int, Fetched, Unreadable], None],
        verifier: Verifier | None = None,
    ) -> None:
        self.index = index
        self.stopped_because = ""
        self.progress_at = time.monotonic()
        self.behind_us = 0
        self._open_log = open_log
        self._calls = calls
        self._on_unreadable = on_unreadable
        self._verifier = verifier or ReadsOnly()
        self._log = logging.getLogger("sluicegate.executor")
        self._claims: list[Offer] = []
        self._unknown: tuple[str, list[Offer]] = ("", [])
        self._taken = self._committed = 0
        self._claimed_before: frozenset[bytes] = frozenset()
        self._wake = asyncio.Event()
        self._closing = False
        self._fetching: asyncio.Task[None] | None = None
        self._pause_s = RETRY_MIN_S

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the partition until `finish` is called or the task is cancelled. Errors taint; they never end the lane."""
        while not self._closing:
            log = self._open_log(self.index)
            try:
                self._taken = self._committed = await log.open()
                self._claimed_before = log.claimed_before
                self._pause_s = RETRY_MIN_S
                await self._settle(log)
                await self._serve(log)
            except Terminal as error:
                self.stopped_because = str(error)
                self._log.error("partition %d stopped: %s", self.index, error)
                return
            except LaneError as error:
                await self._taint(error)
            finally:
                for offer in self._claims:
                    self._calls.drop(offer)
                self._claims = []
                await log.close()

    def finish(self) -> None:
        """Ask the lane to end: nothing more is fetched, what was taken in is claimed."""
        self._closing = True
        if self._fetching is not None:
            self._fetching.cancel()
        self._wake.set()

    async def _taint(self, error: Exception) -> None:
        self._calls.counters.taints += 1
        self._log.warning("partition %d tainted by %s: %s", self.index, type(error).__name__, error)
        if self._closing:
            return
        await asyncio.sleep(FENCED_PAUSE_S if isinstance(error, ProducerFenced) else self._pause_s)
        self._pause_s = min(RETRY_MAX_S, self._pause_s * 2)

    async def _settle(self, log: ClaimLog) -> None:
        """Find out about a claim whose commit was not known. `open` has ended that transaction one way or the other.

        The token is in the offset's metadata, atomic with the claim: if it is the last one, the claim is committed, it is
        ours, and nobody claimed after it. Else these dispatches are read again, or belong to a successor.
        """
        token, offers = self._unknown
        if offers and await log.last_token() == token:
            for offer in offers:
                self._calls.report_unsent(offer)
        self._unknown = ("", [])

    async def _serve(self, log: ClaimLog) -> None:
        """Fetch and claim side by side; the first error of either ends both."""
        self._fetching = asyncio.create_task(self._fetch_on(log), name=f"fetch-{self.index}")
        claiming = asyncio.create_task(self._claim_on(log), name=f"claim-{self.index}")
        both = (self._fetching, claiming)
        try:
            if self._closing:
                self.finish()
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in both:
                task.cancel()
            results = await asyncio.gather(*both, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    # -- step 1 -------------------------------------------------------------------------------------------------

    async def _fetch_on(self, log: ClaimLog) -> None:
        while not self._closing:
            room = await self._calls.room()
            records = await log.fetch(room)
            self.progress_at = time.monotonic()
            if not records:
                continue
            hit("claim.1.fetched")
            self._calls.counters.fetched += len(records)
            wall, arrived = self._calls.clock(), time.monotonic()
            # INVARIANT: a clock behind the ledger's never lengthens a lease: a record from the future shows by how much
            # it is behind, at least, and from then on that much is added (test_clock_behind_the_ledger_does_not_lengthen_a_lease).
            # A clock that is ahead only drops offers that were still good.
            self.behind_us = max(self.behind_us, records[-1].appended_at - wall)
            for record in records:
                await self._take(record, wall, arrived)
                self._taken = record.offset + 1
            self._wake.set()

    async def _take(self, record: Fetched, wall: int, arrived: float) -> None:
        try:
            dispatch = await self._verifier.open(self.index, record.value)
        except Unreadable as error:
            self._calls.counters.unreadable += 1
            self._on_unreadable(self.index, record, error)
            return
        except Retryable as error:  # not to be judged now: the ledger's tick offers it again
            self._calls.counters.unverified += 1
            self._log.warning("dispatch %d/%d is left: %s", self.index, record.offset, error)
            return
        # Measured once against the wall clock; from here on a monotonic clock counts.
        left_us = dispatch.not_after - (wall + self.behind_us)
        offer = Offer(dispatch, self.index, arrived + left_us / 1e6)
        if dispatch.dispatch_id in self._claimed_before:
            self._calls.counters.duplicates += 1
            return
        if not await self._calls.admit(offer):
            return
        if dispatch.tool_class == NO_CLAIM:
            self._calls.start(offer)  # a quarantined read is reported as such by the call
        else:
            self._claims.append(offer)
            self._wake.set()

    # -- steps 2 and 3 ------------------------------------------------------------------------------------------

    async def _claim_on(self, log: ClaimLog) -> None:
        while True:
            if not self._claims and not self._closing:
                await self._next_claims()
            self._wake.clear()
            # INVARIANT: offset and claims are taken in one breath: every dispatch below the offset is a read, was
            # dropped, or is claimed by this very transaction or an earlier one (test_offset_covers_claims).
            offers, self._claims, offset = self._claims, [], self._taken
            if offers or offset > self._committed:
                await self._claim(log, offers, offset)
            elif self._closing:
                return

    async def _next_claims(self) -> None:
        """Return when there is something to claim, or reads alone have waited long enough for their offset."""
        due = time.monotonic() + OFFSETS_EVERY_S
        while not self._claims and not self._closing:
            self._wake.clear()
            trailing = self._taken > self._committed
            try:
                async with asyncio.timeout(due - time.monotonic() if trailing else None):
                    await self._wake.wait()
            except TimeoutError:
                return
            if not trailing:
                due = time.monotonic() + OFFSETS_EVERY_S

    async def _claim(self, log: ClaimLog, offers: list[Offer], offset: int) -> None:
        calls = self._calls
        live: list[Offer] = []
        for offer in offers:
            if offer.late:
                calls.counters.late += 1
                calls.drop(offer)
            elif self._verifier.stale:
                calls.counters.unverified += 1
                calls.drop(offer)
            elif calls.stopped(offer.dispatch):
                # INVARIANT: what is quarantined is not claimed (tests/unit/test_quarantine.py). Nothing is said either:
                # a receipt without a claim could overtake another executor's claim. The ledger's tick ends it.
                calls.counters.quarantined += 1
                calls.drop(offer)
            else:
                live.append(offer)
        waiting = iter(live)
        token = f"{calls.name}/{os.urandom(TOKEN_BYTES).hex()}"
        self._unknown = (token, live)
        try:
            await log.claim([self._claimed(offer) for offer in live], offset, token)
            hit("claim.3.committed")
            self._unknown = ("", [])
            calls.counters.claim_transactions += 1
            calls.counters.claims += len(live)
            self._committed = offset
            for offer in waiting:
                # INVARIANT: a call begins only after a known commit and before `not_after`
                # (test_late_claim_never_calls, test_unknown_commit_never_calls).
                if offer.late:
                    calls.give_back(offer)
                else:
                    calls.start(offer)
        finally:
            for offer in waiting:
                calls.drop(offer)

    def _claimed(self, offer: Offer) -> Claim:
        dispatch = offer.dispatch
        offer.started_at = self._calls.clock() + self.behind_us
        offer.cut_at = time.monotonic() + dispatch.timeout_ms / 1000
        receipt = Receipt(
            dispatch.dispatch_id, dispatch.intent_id, dispatch.agent_id, dispatch.session_id, "claimed",
            dispatch.attempt, self._calls.name, offer.started_at, 0,
        )  # fmt: skip
        value, headers = packed(receipt, self._calls.source, self._calls.signer, dispatch.traceparent)
        return Claim(dispatch.agent_id.encode(), value, headers)
