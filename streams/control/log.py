"""The `control` ledger: read by everybody, appended by operators.

`ControlReader` folds it, keeps the compiled release at hand, and knows how fresh it is: a worker that could not
confirm the head for 5 s refuses permits. `append` adds one chained event in a transaction. Never decides anything.
Next: `processors/control/control.py` (the fold), `ledger.py` (who asks).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import rfc8785
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.control import control as fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import in_use
from sluicegate.processors.control.policy import not_signed
from sluicegate.processors.control.rules import rules_alone
from sluicegate.processors.outcomes import ZERO_HASH, Origin, Outcome, event_id, header_hash, seal
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.seam import generations
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.control import operators, releases
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys import mac_keys
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.repartition import generation
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import COMMIT_LIMIT_S, Transaction, close_quietly, cloud_event

log = logging.getLogger("sluicegate.control")

STALE_AFTER_S = 5.0
CONFIRM_EVERY_S = 1.0
POLL_MS = 100
MAX_BEHIND_US = 5_000_000
"""A clock that is further behind control's newest event is worth a word; as a worker stops then."""
MARKER_POLL_S = 0.005
READ_LIMIT_S = 30.0
"""For reading control to its end at start."""

MAX_BODY_BYTES = 512 * 1024
"""One control event; registering more agents than fit takes several."""


class ControlReader:
    """Control as it is now, kept up to date by a task."""

    def __init__(self, settings: Settings, *, keep_history: bool = False, with_release: bool = True) -> None:
        self._settings = settings
        self._place = TopicPartition(full_name(settings.space, "control"), 0)
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._confirmed_at = 0.0
        self._with_release = with_release
        self._compiled: dict[str, CompiledRelease] = {}
        self._rules: dict[str, CompiledRelease | None] = {}
        self.control = Control(mac_keys=mac_keys.load(settings.home))
        self.prev_hash = ZERO_HASH
        self.history: list[Control] | None = [] if keep_history else None
        self.changed = asyncio.Event()

    @property
    def stale(self) -> bool:
        """Whether the head could not be confirmed lately."""
        return time.monotonic() - self._confirmed_at > STALE_AFTER_S

    async def start(self, *, follow: bool = True) -> None:
        """Read to the end, then follow. Raises `Retryable` when that takes too long."""
        self._consumer = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=POLL_MS))
        self._consumer.assign([self._place])
        await self._consumer.seek_to_beginning(self._place)
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                while not await self._confirm():
                    await self._poll()
        except TimeoutError as error:
            raise Retryable(f"control was not read within {READ_LIMIT_S:.0f} s, check Kafka") from error
        await self._attach_release()
        if follow:
            self._task = asyncio.create_task(self._follow(), name="control-reader")

    async def stop(self) -> None:
        """Stop following and close."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        # INVARIANT: whoever reads control ends while Kafka is away, too (tests/integration/test_client_away.py).
        await stop_consumer(self._consumer)

    async def wait_for(self, head: int, limit_s: float = READ_LIMIT_S) -> None:
        """Wait until control has been read up to `head`. Raises `Retryable` past the limit."""
        deadline = time.monotonic() + limit_s
        while self.control.head < head:
            self.changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.changed.wait()
            except TimeoutError as error:
                raise Retryable(f"control event {head} did not arrive within {limit_s:.0f} s") from error

    async def confirmed(self, limit_s: float = READ_LIMIT_S) -> None:
        """Wait until the head is known to be the newest. Raises `Retryable` past the limit."""
        deadline = time.monotonic() + limit_s
        while self.stale:
            if time.monotonic() > deadline:
                raise Retryable(f"control's head was not confirmed within {limit_s:.0f} s, check Kafka")
            await asyncio.sleep(POLL_MS / 1_000)

    async def until_visible(self, offset: int) -> None:
        """Wait until who reads control finds it: a transaction's marker comes up to 21 ms after its commit was answered.

        INVARIANT: who reads after an append reads what was appended (tests/integration/test_bad_input.py).
        """
        assert self._consumer is not None
        while (await self._consumer.end_offsets([self._place]))[self._place] <= offset:
            await asyncio.sleep(MARKER_POLL_S)

    async def _follow(self) -> None:
        while True:
            try:
                await self._poll()
                if time.monotonic() - self._confirmed_at > CONFIRM_EVERY_S:
                    await self._confirm()
            except (KafkaError, OSError):
                await asyncio.sleep(CONFIRM_EVERY_S)  # staleness is what the others see
            except Terminal as error:
                log.error("alarm: control cannot be read on, nothing is permitted any more: %s", error)
                return
            except Exception:
                # INVARIANT: no passing fault ends it or leaves an event out (tests/unit/test_control_reader.py).
                log.exception("control was not read on, trying again")
                await asyncio.sleep(CONFIRM_EVERY_S)

    async def _confirm(self) -> bool:
        assert self._consumer is not None
        asked_at = time.monotonic()
        end = (await self._consumer.end_offsets([self._place]))[self._place]
        if await self._consumer.position(self._place) < end:
            return False
        self._confirmed_at = asked_at
        return True

    async def _poll(self) -> None:
        assert self._consumer is not None
        batch = await self._consumer.getmany(self._place, timeout_ms=POLL_MS)
        for record in batch.get(self._place, []):
            try:
                await self._fold(record.value)
            except Exception:
                self._consumer.seek(self._place, record.offset)  # what could not be folded is read again
                raise

    async def _fold(self, value: bytes) -> None:
        outcome = codec.decode_as(r.Outcome, value)
        header = codec.decode_as(r.Header, outcome.header)
        if header.prev_hash != self.prev_hash or header.seq != self.control.head + 1:
            raise Terminal(
                f"the control ledger is broken at seq {header.seq}, run `sluicegate ledger verify`"
            )
        facts = codec.decode_as(r.ControlFacts, outcome.facts)
        if reason := not_signed(self.control, header.seq, facts):
            log.error("alarm: control event %d (`%s`) has no effect: %s", header.seq, facts.kind[:40], reason)
        if facts.kind in fold.ASKS_RELEASE:
            await self._attach_rules(self.control)
        new, wrong = fold.fold_any(self.control, header.seq, facts, header.decided_at)
        if wrong:
            log.error(
                "alarm: control event %d (`%s`) has no effect: its body has another form (%s)",
                header.seq, facts.kind[:40], wrong,
            )  # fmt: skip
        if not self._with_release:
            new.release = None
        if facts.kind == "key.added":  # a MAC key's secret was put into this home before
            new.mac_keys = mac_keys.load(self._settings.home)
        if self._task is not None or self.history is not None:
            await self._attach_release(new)
        self.control, self.prev_hash = new, header_hash(outcome.header)
        if self.history is not None:
            self.history.append(new)
        self.changed.set()

    async def _attach_rules(self, control: Control) -> None:
        """What the fold of an event asks: the release, or for a reader that wants none its `control.cedar` alone, which takes
        a thousandth of the time."""
        if self._with_release or not control.deployed:
            await self._attach_release(control)
            return
        if control.deployed not in self._rules:
            files = await releases.fetch(self._settings, control.deployed)
            self._rules[control.deployed] = rules_alone(files)
        control.release = self._rules[control.deployed]

    async def _attach_release(self, control: Control | None = None) -> None:
        target = control or self.control
        if not self._with_release or not target.deployed:
            return
        if target.release is None or in_use(target) - self._compiled.keys():
            await self._compile(in_use(target))
            target.release, target.releases = self._compiled[target.deployed], self._compiled
        if self.history is None:  # nobody can be decided under the others any more
            kept = {*in_use(target), *target.previous}
            for digest in self._compiled.keys() - kept:
                del self._compiled[digest]

    async def have(self, digests: Iterable[str]) -> None:
        """Have at hand what sessions of before stand on, as far as they may be decided under it still."""
        control = self.control
        await self._compile({digest for digest in digests if digest in control.previous})

    async def _compile(self, digests: set[str]) -> None:
        for digest in sorted(digests - self._compiled.keys()):
            files = await releases.fetch(self._settings, digest)
            self._compiled[digest] = compile_release(files, proven=True)


async def read(
    settings: Settings,
    *,
    keep_history: bool = False,
    with_release: bool = False,
    any_generation: bool = False,
) -> ControlReader:
    """A stopped reader that has read control to its end: as the settings' generation stands under it, unless any is good."""
    reader = ControlReader(settings, keep_history=keep_history, with_release=with_release)
    try:
        await reader.start(follow=False)
    finally:
        await reader.stop()
    if any_generation:
        return reader
    reader.control = generation.seen(settings, reader.control)
    if reader.history is not None:
        reader.history = generations.all_seen_from(reader.history, settings.generation)
    return reader


async def append(
    settings: Settings,
    keys: Keys,
    events: list[tuple[str, dict[str, object]]],
    *,
    who: str,
    why: str,
    expected_head: int | None = None,
    key: key_files.PrivateKey | None = None,
) -> int:
    """Append control events in one transaction; returns the new head.

    Starting the producer under its fixed id fences any other operator in mid-append, so the chain has one writer.
    `key`: signs in place of the operator's at this keyboard. Raises `Terminal` when `expected_head` is no longer the head.
    """
    producer = await kafka.connect(
        kafka.producer(settings, transactional_id=f"sluicegate.{settings.env}.control")
    )
    reader = ControlReader(settings, with_release=False)
    try:
        await reader.start(follow=False)
        control = reader.control
        if expected_head is not None and control.head != expected_head:
            raise Terminal(f"control moved from {expected_head} to {control.head}, look at it and try again")
        transaction = Transaction(producer)
        prev = reader.prev_hash
        if (behind := control.at - time.time_ns() // 1000) > MAX_BEHIND_US:
            log.warning(
                "this clock is %.0f s behind control's newest event, which is what counts: look at NTP",
                behind / 1e6,
            )
        key = key or operators.key_for(settings, control)
        for kind, body in events:
            log_id = control.own_log or bytes.fromhex(str(body["log_id"]))
            facts = r.ControlFacts(kind, who, why, rfc8785.dumps(body))  # type: ignore[arg-type]
            if key is not None:
                facts.who = control.keys[key.kid].principal
                facts = signing.sign_control(facts, log_id, control.head + 1, key.kid, key.secret)
            value, prev, now = _chain(control, log_id, prev, facts, keys)
            headers = cloud_event(
                event_id(log_id, 0, control.head + 1, "control", 0), b"/control", b"ai.sluicegate.control"
            )
            transaction.add(full_name(settings.space, "control"), 0, None, value, now // 1000, headers)
            control = replace(fold.fold(control, control.head + 1, facts, now), release=None)
        async with asyncio.timeout(COMMIT_LIMIT_S):
            last = await transaction.append()
            await transaction.commit()
            await reader.until_visible(max(last.values(), default=-1))
        return control.head
    except KafkaError as error:
        raise Retryable(f"the control event was not written: {error}, try again") from error
    finally:
        await reader.stop()
        await close_quietly(producer)


def clock(control: Control) -> int:
    """The time of an event that is written now, in microseconds: this machine's, but never before the event that stands there."""
    # INVARIANT: control's time never runs backwards, whoever's clock does (tests/unit/test_changes.py).
    return max(time.time_ns() // 1000, control.at)


def _chain(
    control: Control, log_id: bytes, prev: bytes, facts: r.ControlFacts, keys: Keys
) -> tuple[bytes, bytes, int]:
    if len(facts.body) > MAX_BODY_BYTES:
        raise Terminal(
            f"the control event has {len(facts.body)} bytes, the limit is {MAX_BODY_BYTES}, split it"
        )
    seq = control.head + 1
    now = clock(control)
    origin = Origin(
        "", "", facts.who, "", SYSTEM, now, "control", 0, seq, control.head, control.deployed, ENGINE
    )
    ident = event_id(log_id, 0, seq, "control", 0)
    outcome = Outcome(origin, ident, "control", "recorded", facts.kind, facts)
    value, digest = seal(outcome, log_id, 0, seq, prev, keys.seal)
    return value, digest, now


async def ensure_genesis(
    settings: Settings, keys: Keys, partitions: int, mode: str = "dev", operator: str = "",
    then: Sequence[tuple[str, dict[str, object]]] = (),
) -> Control:  # fmt: skip
    """Write the log's first control event unless there is one. Returns control.

    `mode`: dev or signed. `operator`: who may change modes. `then`: events of the same transaction, such as the
    operator's key.
    """
    try:
        reader = await read(settings)
        if reader.control.head >= 0:
            return reader.control
        body: dict[str, object] = {
            "log_id": secrets.token_hex(16),
            "env": settings.env,
            "partitions": partitions,
            "signing": mode,
            "operator": operator,
        }
        await append(
            settings, keys, [("genesis", body), *then], who="sluicegate", why="first start", expected_head=-1
        )
    except SluicegateError:
        again = await read(settings)  # another process may have been first
        if again.control.head < 0:
            raise
        return again.control
    return (await read(settings)).control
