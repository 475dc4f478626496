"""A gate in this process, on a real broker: one LedgerService, a tool that always answers, and an agent to ask.

    with running(settings) as (loop, gate):
        reply = loop.run(gate.ask(gate.intent("desk.read")))

The release is `tests/driver.py`'s. An input goes to its topic as bytes, so a test may send anything at all; what came
of it is read back from Kafka: replies, committed ledger records, dead letters. It waits for those, never for luck.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata
from click.testing import Result
from sluicegate.executors.adapter import Adapter, Answer, Finished
from sluicegate.executors.artifact_keeper import Keeper
from sluicegate.executors.dispatcher import Executor
from sluicegate.executors.gates import ReleaseGates
from sluicegate.executors.large_arguments import Fetcher
from sluicegate.executors.verifier import Follower, SignedVerifier
from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency import checkpoints
from sluicegate.schemas import codec
from sluicegate.schemas.records import DeadLetter, Dispatch, Intent, Message, Reply
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka, stack, topics
from sluicegate.streams.archive.artifacts import store_of
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.role_keys import RoleSigner
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.service import LedgerService, wall_clock
from sluicegate.streams.settings import Settings
from sluicegate.streams.verify.ledger import Report, verify
from typer.testing import CliRunner

from tests.driver import AGENT, Event, Record, agents, read, release, release_files
from tests.executor_fakes import FakeAdapter

LIMIT_S = 60.0
"""Nothing takes this long but what never comes: a loaded machine may need 20 s for a rebalance."""
POLL_S = 0.01
RESULT = b'{"ok":true}'
SESSION = "session-1"

T = TypeVar("T")
Command = Callable[..., str]
"""`command("agents", "list", code=1)`: what it said, in one line unless it is JSON; fails at another exit code."""


async def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for a condition; fails, with its name, when it does not come true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)


def now_us() -> int:
    return time.time_ns() // 1000


def new_id() -> str:
    return uuid.uuid4().hex[:12]


def new_settings(bootstrap: str, home: object, partitions: int = 2) -> Settings:
    """An environment nobody else has."""
    return Settings(env=f"gate-{new_id()}", kafka=bootstrap, home=home, partitions=partitions)  # type: ignore[arg-type]


def intent(
    tool: str = "desk.read", arguments: bytes | dict[str, object] = b"{}", *, agent: str = AGENT,
    intent_id: str = "", session: str = SESSION, issued_at: int = 0, deadline_at: int | None = None,
) -> Intent:  # fmt: skip
    """A tool call, not sent."""
    raw = arguments if isinstance(arguments, bytes) else orjson.dumps(arguments)
    return Intent(
        intent_id or new_id(), agent, session, "tool_call", tool, raw, issued_at or now_us(), deadline_at
    )


async def _answer(_: Dispatch) -> Answer:
    return Finished(RESULT)


@dataclass
class Gate:
    """A running gate.

    Attributes:
        replies: (partition it was read from, reply), as they came.
        events: (ledger partition, committed record), as they came.
    """

    settings: Settings
    service: LedgerService
    keys: Keys
    adapter: FakeAdapter = field(default_factory=lambda: FakeAdapter(_answer))
    replies: list[tuple[int, Reply]] = field(default_factory=list)
    events: list[tuple[int, Event]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    """Ids of `events`."""
    wrap: Callable[[bytes, str], bytes] = lambda value, topic: value
    """What happens to a record's bytes before they are sent: nothing, or a signature."""
    _producer: AIOKafkaProducer | None = None

    # -- asking -------------------------------------------------------------------------------------------------

    async def put(
        self, topic: str, value: bytes | None, *, agent: str = AGENT, partition: int | None = None
    ) -> RecordMetadata:
        """Publish bytes; by default where the agent's records belong."""
        assert self._producer is not None
        where = partition_of(agent, self.settings.partitions) if partition is None else partition
        name = full_name(self.settings.space, topic)
        return await self._producer.send_and_wait(name, value, key=agent.encode(), partition=where)

    async def ask(self, record: Intent, *, partition: int | None = None, value: bytes | None = None) -> Reply:
        """Publish an intent, or `value` in its place, and wait for the next reply about its id."""
        before = len(self.replies)
        sent = self.wrap(codec.encode(record), "intents") if value is None else value
        await self.put("intents", sent, agent=record.agent_id, partition=partition)
        return (await self.answer(record.intent_id, before))[1]

    async def answer(self, ident: str, since: int = 0) -> tuple[int, Reply]:
        """The first reply about this id since the `since`th, and the partition it came from."""
        found: list[tuple[int, Reply]] = []

        def there() -> bool:
            found[:] = [pair for pair in self.replies[since:] if pair[1].intent_id == ident]
            return bool(found)

        await until(there, f"a reply about `{ident}`")
        # What it follows from is committed with it, and may be read a moment later.
        told = found[0][1].event_id
        await until(lambda: told in self.seen, f"the outcome of `{ident}`")
        return found[0]

    async def open_session(self, agent: str = AGENT, session: str = SESSION) -> None:
        """A channel opens a session."""
        ident = new_id()
        message = Message(ident, agent, session, "session.open", now_us(), on_behalf_of="person-1")
        await self.put("messages", self.wrap(codec.encode(message), "messages"), agent=agent)
        assert (await self.answer(ident))[1].status == "opened"

    async def caught_up(self) -> None:
        """All that was decided before is in `events`: a client may be told a moment before it is read here."""
        for agent in self.everywhere():  # a partition is read in order
            reply = await self.ask(intent("desk.read", agent=agent, session="nobody-opened-this"))
            assert reply.status == "refused", reply

    async def good(self) -> None:
        """An ordinary call on every partition goes through."""
        for agent in self.everywhere():
            reply = await self.ask(intent("desk.read", {"value": "good"}, agent=agent))
            assert (reply.status, reply.result) == ("released", RESULT), reply

    def everywhere(self) -> list[str]:
        """A banking agent of every partition, `AGENT` among them."""
        names = [AGENT, *(str(a["agent_id"]) for a in agents() if str(a["agent_id"]).startswith("banking-"))]
        chosen: dict[int, str] = {}
        for name in names:
            chosen.setdefault(partition_of(name, self.settings.partitions), name)
        assert len(chosen) == self.settings.partitions
        return list(chosen.values())

    # -- looking ------------------------------------------------------------------------------------------------

    async def decided(self, place: RecordMetadata) -> list[Event]:
        """What the ledger committed about one input: all of it is in one transaction, which was read."""
        topic = place.topic.rpartition(".")[2]
        where = (topic, place.partition, place.offset)

        def mine() -> list[Event]:
            headers = [(e, e.header) for _, e in list(self.events)]
            return [e for e, h in headers if (h.input_topic, h.input_partition, h.input_offset) == where]

        await until(mine, f"a decision about {where}")
        return mine()

    async def letter(self, place: RecordMetadata) -> DeadLetter:
        """The one dead letter of one input."""
        where = (place.topic.removeprefix(f"{self.settings.env}."), place.partition, place.offset)

        def mine() -> list[DeadLetter]:
            return [d for d in self.letters if (d.topic, d.partition, d.offset) == where]

        await until(mine, f"a dead letter of {where}")
        [found] = mine()
        return found

    def life(self, ident: str) -> list[str]:
        """The statuses of an intent as the ledger has them, in order."""
        return [e.header.status for _, e in self.events if e.header.intent_id == ident]

    async def intact(self) -> Report:
        """`ledger verify` finds nothing."""
        report = await verify(self.settings, clickhouse=False)
        assert report.ok, report.as_json()
        return report

    async def follow(self, consumer: AIOKafkaConsumer) -> None:
        """Read what comes out, for as long as the gate runs."""
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=100)
            except KafkaError:  # the broker is being restarted
                await asyncio.sleep(POLL_S)
                continue
            for place, found in batches.items():
                for record in found:
                    self._take(place, record.offset, record.value)

    def _take(self, place: TopicPartition, offset: int, value: bytes) -> None:
        if place.topic.endswith(".outcomes"):
            event = read(Record(offset, value))
            self.events.append((place.partition, event))
            self.seen.add(event.header.event_id)
        elif place.topic.endswith(".replies"):
            self.replies.append((place.partition, codec.decode_as(Reply, value)))
        else:
            self.letters.append(codec.decode_as(DeadLetter, value))


def invoker(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[str], int], tuple[Result, str]]:
    """Commands in the gate's environment that end with this code; the second is all that was said, of an exception, too."""
    for name, value in {**stack.environment_of(gate.settings), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)

    def invoked(words: Sequence[str], code: int) -> tuple[Result, str]:
        found = CliRunner().invoke(app, list(words))
        said = found.output + (str(found.exception) if found.exception else "")
        assert found.exit_code == code, said
        return found, said

    return invoked


def commands(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Commands in the gate's environment."""
    invoked = invoker(gate, monkeypatch)

    def run(*words: str, code: int = 0) -> str:
        found, said = invoked(words, code)
        return found.output if "json" in words else " ".join(said.split())

    return run


def head_key(home: Path) -> tuple[str, dict[str, object]]:
    """A key that signs heads, as control learns of it."""
    public = key_files.create(key_files.default_path(home, "log.1"), "log.1").public.hex()
    return "key.added", {
        "kid": "log.1", "principal": "checkpointer", "role": checkpoints.ROLE, "alg": "Ed25519", "public": public,
        "not_before": 0, "not_after": 2**53 - 1,
    }  # fmt: skip


async def prepare(
    settings: Settings, keys: Keys, signing: str = "dev", files: dict[str, str] | None = None
) -> None:
    """Topics, genesis, the example's agents and the test release, or another one of these files."""
    await topics.create(settings)
    await control_log.ensure_genesis(settings, keys, settings.partitions, signing)
    digest = await releases.publish(settings, files or release_files())
    about = {"digest": digest, "name": release().name, "version": release().version}
    events: list[tuple[str, dict[str, object]]] = [
        ("agents.registered", {"agents": agents()}),
        ("release.published", about),
        ("release.deployed", {"digest": digest}),
    ]
    await control_log.append(settings, keys, events, who="a test", why="a test")


@contextlib.asynccontextmanager
async def gate(
    settings: Settings,
    *,
    signing: str = "dev",
    control: list[tuple[str, dict[str, object]]] | None = None,
    clock: Callable[[], int] = wall_clock,
    files: dict[str, str] | None = None,
    adapters: dict[str, Adapter] | None = None,
    executor: bool = True,
) -> AsyncIterator[Gate]:
    """A gate in the running loop, with a session open for nobody yet. `control`: further events before it starts;
    `files`: another release; `adapters`: further ones, closed with the gate; `executor`: False for tests that bring theirs."""
    async with contextlib.AsyncExitStack() as stack:
        keys = Keys(settings.home)
        stack.callback(keys.close)
        await prepare(settings, keys, signing, files)
        if control:
            await control_log.append(settings, keys, control, who="a test", why="a test")
        made = Gate(settings, LedgerService(settings, keys, clock=clock), keys)
        made._producer = await kafka.connect(kafka.producer(settings))
        stack.push_async_callback(made._producer.stop)
        consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
        stack.push_async_callback(consumer.stop)
        places = [TopicPartition(full_name(settings.env, "dead-letters"), 0)]
        for name in ("outcomes", "replies"):
            places += [TopicPartition(full_name(settings.space, name), p) for p in range(settings.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        following = asyncio.create_task(made.follow(consumer))
        stack.push_async_callback(_end, following)
        await made.service.start()
        stack.push_async_callback(lambda: made.service.stop())  # the one it has by then
        if not executor:
            yield made
            return
        source = _Control(made)
        signed = source.control.signing == "signed"
        ours = Executor(
            settings, {"http": made.adapter, **(adapters or {})}, name="gate",
            signer=RoleSigner(settings.home, "executor", "receipts", lambda: source.control, clock),
            verifier=SignedVerifier(source, clock) if signed else Follower(source),
            keep=Keeper(store_of(settings, {}), ReleaseGates(settings)).keep, whole=Fetcher(store_of(settings, {})).whole,
        )  # fmt: skip
        await ours.start()
        stack.push_async_callback(ours.stop)
        for adapter in (adapters or {}).values():
            stack.push_async_callback(adapter.close)
        yield made


class _Control:
    """Control as the gate's service has it, whichever service that is by then."""

    def __init__(self, made: Gate) -> None:
        self._made = made

    @property
    def control(self) -> Control:
        return self._made.service.control.control

    @property
    def stale(self) -> bool:
        return self._made.service.control.stale

    async def wait_for(self, head: int, limit_s: float = LIMIT_S) -> None:
        await self._made.service.control.wait_for(head, limit_s)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Loop:
    """An event loop in a thread of its own, so that a module's tests share what runs in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate-loop")
        self._thread.start()

    def run(self, work: Coroutine[object, object, T], limit_s: float = 150.0) -> T:
        """Run to its end and return what it returned."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def running(settings: Settings, **options: object) -> Iterator[tuple[Loop, Gate]]:
    """A gate for the tests of one module, every agent of `everywhere` in session."""
    loop = Loop()
    context = gate(settings, **options)  # type: ignore[arg-type]
    try:
        made = loop.run(context.__aenter__())
        try:
            yield loop, made
        finally:
            loop.run(context.__aexit__(None, None, None))
    finally:
        loop.close()
