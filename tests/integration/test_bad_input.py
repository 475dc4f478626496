"""Whatever comes in, the partition goes on: every bad input has its outcome, and nothing else happens.

One broker and one gate for the module. The last test asks `ledger verify` about everything that the others left behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import fastavro
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from sluicegate.processors.intake import DEAD_LETTER_HEAD_BYTES
from sluicegate.schemas import codec
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import IntakeFacts, Intent, Message
from sluicegate.schemas.topics import MAX_INTENT_BYTES, RECORD_LIMIT_BYTES, full_name, partition_of
from sluicegate.streams import kafka as clients
from sluicegate.streams import ledger
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.service import LedgerService

from tests.driver import AGENT, OTHER_AGENT
from tests.integration import gate as gates
from tests.integration.gate import RESULT, SESSION, Gate, Loop, intent, new_id, now_us, until
from tests.kafka_fixture import delete_group

MB = 1024 * 1024
DAY_US = 24 * 3_600 * 1_000_000
PAYMENT = {"recipient": "X", "amount": 1.0, "subject": "rent", "date": "2022-01-01"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker of this module's own: it is killed."""
    made = EmbeddedBroker(tmp_path_factory.mktemp("kafka-bad-input"))
    made.start()
    yield made
    made.stop()
    made.wipe()


@pytest.fixture(scope="module")
def shared(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(broker.bootstrap, tmp_path_factory.mktemp("bad-input"))
    with gates.running(settings) as (loop, gate):

        async def sessions() -> None:
            for agent in gate.everywhere():
                await gate.open_session(agent)

        loop.run(sessions())
        yield loop, gate


# -- bytes that are no record of ours -------------------------------------------------------------------------------


def future_intent() -> bytes:
    """An intent of a later version, which has one more field, hence another fingerprint."""
    schema = json.loads(resources.files("sluicegate.schemas").joinpath("avro", "intent.avsc").read_text())
    schema["fields"].append({"name": "mood", "type": "string", "default": "calm"})
    parsed = fastavro.parse_schema(schema)
    digest = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
    body = io.BytesIO()
    names = codec.field_names(Intent)
    record = intent()
    fastavro.schemaless_writer(body, parsed, {**{n: getattr(record, n) for n in names}, "mood": "merry"})
    return codec.MAGIC + bytes.fromhex(digest) + body.getvalue()


def broken_text() -> bytes:
    """An intent whose id is no UTF-8: a lone surrogate, as some languages write it."""
    return codec.encode(intent(intent_id="abc")).replace(b"abc", b"\xed\xa0\x80")


UNREADABLE = {
    "text": (b"hello", "not_avro"),
    "json": (b'{"intent_id":"i-1"}', "not_avro"),
    "nothing": (b"", "not_avro"),
    "half a prefix": (codec.MAGIC + b"\0\0", "not_avro"),
    "unknown fingerprint": (codec.MAGIC + bytes(8) + b"body", "unknown_schema"),
    "future schema": (future_intent(), "unknown_schema"),
    "cut off": (codec.encode(intent())[:-3], "malformed_record"),
    "trailing bytes": (codec.encode(intent()) + b"\0", "malformed_record"),
    "lone surrogate in an id": (broken_text(), "malformed_record"),
    "another record": (codec.encode(Message("m", AGENT, "s", "session.open", 1)), "unexpected_type"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(shared: tuple[Loop, Gate], name: str) -> None:
    """Nobody is told, the ledger and the dead letters are, and the partition goes on."""
    loop, gate = shared
    value, reason = UNREADABLE[name]

    async def scenario() -> None:
        before = len(gate.replies)
        place = await gate.put("intents", value)
        [event] = await gate.decided(place)
        assert (event.header.stage, event.header.status, event.header.reason) == (
            "intake",
            "unreadable",
            reason,
        )
        assert isinstance(event.facts, IntakeFacts)
        assert (event.facts.length, event.facts.digest) == (len(value), hashlib.sha256(value).digest()[:16])
        letter = await gate.letter(place)
        assert (letter.reason, letter.length, letter.head) == (reason, len(value), value)
        assert letter.sha256 == hashlib.sha256(value).digest()
        assert len(gate.replies) == before
        await gate.good()

    loop.run(scenario())


def test_no_value(shared: tuple[Loop, Gate]) -> None:
    """A record without a value, as a compacted topic's tombstone."""
    loop, gate = shared

    async def scenario() -> None:
        [event] = await gate.decided(await gate.put("intents", None))
        assert event.header.reason == "not_avro"
        await gate.good()

    loop.run(scenario())


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_larger_than_the_topic_allows(shared: tuple[Loop, Gate]) -> None:
    """The broker refuses it; with a higher limit it is a dead letter, of which 4,096 bytes are kept."""
    loop, gate = shared
    topic = full_name(gate.settings.env, "intents")
    value = bytes(range(256)) * (10 * MB // 256)

    async def limit(max_bytes: int) -> None:
        admin: AIOKafkaAdminClient = await clients.connect(clients.admin(gate.settings))
        try:
            configs = {"max.message.bytes": str(max_bytes)}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        finally:
            await admin.close()

    async def send() -> object:
        producer = await clients.connect(clients.producer(gate.settings, max_request_bytes=12 * MB))
        try:
            return await producer.send_and_wait(topic, value, partition=0)
        finally:
            await producer.stop()

    async def scenario() -> None:
        with pytest.raises(MessageSizeTooLargeError):
            await send()
        await limit(11 * MB)
        try:
            place = await send()
        finally:
            await limit(RECORD_LIMIT_BYTES)
        [event] = await gate.decided(place)  # type: ignore[arg-type]
        assert (event.header.status, event.header.reason) == ("unreadable", "too_large")
        letter = await gate.letter(place)  # type: ignore[arg-type]
        assert (letter.length, letter.head) == (10 * MB, value[:DEAD_LETTER_HEAD_BYTES])
        assert letter.sha256 == hashlib.sha256(value).digest()
        await gate.good()

    loop.run(scenario())


def test_the_largest_intent(shared: tuple[Loop, Gate]) -> None:
    """An intent of exactly the limit passes with all of its arguments; one more byte is too large."""
    loop, gate = shared

    def sized(size: int) -> Intent:
        record = intent("banking.send_money", {**PAYMENT, "subject": "x" * (size - 1_000)})
        missing = size - len(codec.encode(record))
        subject = "x" * (size - 1_000 + missing)
        return replace(
            record, arguments=json.dumps({**PAYMENT, "subject": subject}, separators=(",", ":")).encode()
        )

    async def scenario() -> None:
        said = Message(new_id(), AGENT, SESSION, "session.user_said", now_us(), text="pay my rent")
        await gate.put("messages", codec.encode(said))  # the example's policy wants that before a payment
        assert (await gate.answer(said.message_id))[1].status == "heard"
        largest = sized(MAX_INTENT_BYTES)
        assert len(codec.encode(largest)) == MAX_INTENT_BYTES
        reply = await gate.ask(largest)
        assert reply.status == "released", reply
        place = await gate.put("intents", codec.encode(sized(MAX_INTENT_BYTES + 1)))
        [event] = await gate.decided(place)
        assert event.header.reason == "too_large"

    loop.run(scenario())


# -- arguments ------------------------------------------------------------------------------------------------------

DEEP = b'{"value":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
ARGUMENTS = {
    "10,000 levels": (DEEP, "arguments_too_deep"),
    "10,000 levels, not closed": (DEEP[:9_000], "arguments_too_deep"),
    "10,000 objects": (b'{"value":' * 10_000 + b"1" + b"}" * 10_000, "arguments_too_deep"),
    "65 levels": (b'{"value":' * 65 + b"1" + b"}" * 65, "arguments_too_deep"),
    "NaN": (b'{"value":NaN}', "arguments_not_json"),
    "Infinity": (b'{"value":-Infinity}', "arguments_not_json"),
    "lone surrogate, escaped": (b'{"value":"\\ud800"}', "arguments_not_json"),
    "lone surrogate, as bytes": (b'{"value":"\xed\xa0\x80"}', "arguments_not_json"),
    "a key twice": (b'{"value":"yes","value":"no"}', "duplicate_key"),
    "a key twice, the same": (b'{"value":"no","value":"no"}', "duplicate_key"),
    "a key twice, one escaped": (b'{"value":"yes","\\u0076alue":"no"}', "duplicate_key"),
    "no object": (b"[1]", "arguments_not_json"),
    "nothing": (b"", "arguments_not_json"),
    "an undeclared name": (b'{"valve":"yes"}', "schema_violation"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(shared: tuple[Loop, Gate], name: str) -> None:
    """Arguments that do not conform are refused before any policy sees them."""
    loop, gate = shared
    raw, reason = ARGUMENTS[name]

    async def scenario() -> None:
        calls = gate.adapter.called.total()
        record = intent("desk.pay", raw)
        reply = await gate.ask(record)
        assert (reply.status, reply.stage, reply.reason) == ("refused", "conform", reason)
        assert gate.life(record.intent_id) == ["routed", "refused"]
        assert gate.adapter.called.total() == calls
        await gate.good()

    loop.run(scenario())


@pytest.mark.parametrize("amount", ["5000", "1", "", True, [1], {"amount": 1}, None])
def test_not_a_number(shared: tuple[Loop, Gate], amount: object) -> None:
    """`"5000"` where a policy bounds a number is no number: a comparison that errs would be skipped by Cedar."""
    loop, gate = shared
    record = intent("banking.send_money", {**PAYMENT, "amount": amount})

    async def scenario() -> None:
        reply = await gate.ask(record)
        assert (reply.status, reply.stage, reply.reason) == ("refused", "conform", "schema_violation")
        assert gate.life(record.intent_id) == ["routed", "refused"]  # never permitted

    loop.run(scenario())


@pytest.mark.parametrize(
    ("amount", "stage", "reason"),
    [
        (b"5000", "authorize", "forbidden"),
        (b"1000.00001", "conform", "not_representable"),
        (b"1e300", "conform", "not_representable"),
        (b"1e400", "conform", "arguments_not_json"),
        (b"99999999999999999999999", "conform", "not_representable"),
    ],
)
def test_numbers_at_the_bound(shared: tuple[Loop, Gate], amount: bytes, stage: str, reason: str) -> None:
    """Too much is forbidden; what cannot be compared exactly never reaches the policy."""
    loop, gate = shared
    raw = json.dumps({**PAYMENT, "amount": 1.0}).encode().replace(b"1.0", amount)

    async def scenario() -> None:
        reply = await gate.ask(intent("banking.send_money", raw))
        assert (reply.status, reply.stage, reply.reason) == ("refused", stage, reason)

    loop.run(scenario())


# -- who, where, when -----------------------------------------------------------------------------------------------


def test_wrong_partition(shared: tuple[Loop, Gate]) -> None:
    """Refused with what to do about it, and told where the agent reads."""
    loop, gate = shared
    own = partition_of(AGENT, gate.settings.partitions)

    async def scenario() -> None:
        record = intent()
        await gate.put("intents", codec.encode(record), partition=1 - own)
        partition, reply = await gate.answer(record.intent_id)
        assert partition == own
        assert (reply.status, reply.reason) == ("refused", "misrouted")
        assert REASONS["misrouted"].remedy in reply.for_developer
        assert "murmur2" in reply.for_developer
        # Its id was not used up: in the right place the same bytes pass.
        again = await gate.ask(record)
        assert (again.status, again.duplicate) == ("released", False)

    loop.run(scenario())


def test_misrouted_message(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    own = partition_of(AGENT, gate.settings.partitions)

    async def scenario() -> None:
        message = Message(new_id(), AGENT, new_id(), "session.open", now_us())
        place = await gate.put("messages", codec.encode(message), partition=1 - own)
        [event] = await gate.decided(place)
        assert (event.header.status, event.header.reason) == ("unreadable", "misrouted")

    loop.run(scenario())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"agent_id": "nobody"}, "unknown_agent"),
        ({"tool": "no.such.tool"}, "unknown_tool"),
        ({"tool": ""}, "unknown_tool"),
        ({"session_id": "no-such-session"}, "unknown_session"),
        ({"agent_id": OTHER_AGENT}, "unknown_session"),  # another agent's session is none of its own
        ({"kind": "no.such.kind"}, "unknown_kind"),
        ({"issued_at": 2**63 - 1}, "from_the_future"),
        ({"issued_at": -(2**63)}, "too_old"),
        ({"issued_at": 0}, "too_old"),
        ({"deadline_at": 1}, "deadline_passed"),
        ({"deadline_at": -(2**63)}, "deadline_passed"),
    ],
)
def test_who_and_when(shared: tuple[Loop, Gate], change: dict[str, object], reason: str) -> None:
    loop, gate = shared

    async def scenario() -> None:
        record = replace(intent("desk.pay"), **change)  # type: ignore[arg-type]
        reply = await gate.ask(record)
        assert (reply.status, reply.reason) == ("refused", reason) or (
            reply.status, reply.reason) == ("session_refused", reason)  # fmt: skip
        assert "permitted" not in gate.life(record.intent_id)

    loop.run(scenario())


def test_the_window_of_ids(shared: tuple[Loop, Gate]) -> None:
    """A day less a minute is taken, a day and a minute is not, on both sides."""
    loop, gate = shared
    minute = 60_000_000

    async def scenario() -> None:
        for shift, reason in (
            (-DAY_US - minute, "too_old"),
            (DAY_US + minute, "from_the_future"),
            (-DAY_US + minute, ""),
            (DAY_US - minute, ""),
        ):
            far = now_us() + 3_600_000_000
            reply = await gate.ask(intent(issued_at=now_us() + shift, deadline_at=far))
            assert reply.reason == reason, shift
            assert reply.status == ("refused" if reason else "released")

    loop.run(scenario())


@pytest.mark.parametrize("ident", ["", "x" * 257, "a\nb", "a\0b"])
def test_identifiers(shared: tuple[Loop, Gate], ident: str) -> None:
    loop, gate = shared

    async def scenario() -> None:
        record = replace(intent(), intent_id=ident)
        [event] = await gate.decided(await gate.put("intents", codec.encode(record)))
        assert (event.header.status, event.header.reason) == ("unreadable", "bad_identifier")

    loop.run(scenario())


def test_same_id(shared: tuple[Loop, Gate]) -> None:
    """The same bytes are answered with the first answer; other bytes under the id are a conflict; nothing runs again."""
    loop, gate = shared

    async def scenario() -> None:
        record = intent("desk.pay", {"value": "once"})
        first = await gate.ask(record)
        assert (first.status, first.result, first.duplicate) == ("released", RESULT, False)
        calls = gate.adapter.called.total()
        for _ in range(2):
            again = await gate.ask(record)
            assert (again.status, again.result, again.duplicate) == ("released", RESULT, True)
        other = await gate.ask(replace(record, arguments=b'{"value":"twice"}'))
        assert (other.status, other.reason) == ("refused", "id_conflict")
        assert other.result is None
        refused = intent("desk.never")
        assert (await gate.ask(refused)).reason == "no_permit"
        again = await gate.ask(refused)
        assert (again.status, again.reason, again.duplicate) == ("refused", "no_permit", True)
        assert gate.adapter.called.total() == calls

    loop.run(scenario())


# -- the machinery around it ----------------------------------------------------------------------------------------


def test_empty_topics(shared: tuple[Loop, Gate], tmp_path: Path) -> None:
    """Without any input a ledger has its genesis, is healthy and intact."""
    loop, gate = shared

    async def scenario() -> None:
        settings = replace(gates.new_settings(gate.settings.kafka or "", tmp_path), partitions=2)
        async with gates.gate(settings) as fresh:
            await until(lambda: len(fresh.events) == 2, "two genesis records")
            assert [e.header.status for _, e in fresh.events] == ["genesis", "genesis"]
            assert fresh.service.alive == ""
            report = await fresh.intact()
            assert [p.events for p in report.partitions] == [1, 1]
            await fresh.open_session()  # and it takes the very first input
            assert (await fresh.ask(intent())).status == "released"

    loop.run(scenario())


def test_group_deleted(shared: tuple[Loop, Gate]) -> None:
    """Positions come from the ledger: without the consumer group's offsets nothing is decided again."""
    loop, gate = shared

    async def scenario() -> None:
        await gate.good()
        await gate.service.stop()
        counts = [(p.partition, p.seq) for p in (await gate.intact()).partitions]
        calls = gate.adapter.called.total()
        await delete_group(gate.settings, f"sluicegate.{gate.settings.env}.ledger")
        gate.service = LedgerService(gate.settings, Keys(gate.settings.home))
        await gate.service.start()
        await until(lambda: len(gate.service.lanes) == 2, "both partitions are owned")
        # Each lane polls its inputs at least once: it makes progress without deciding anything.
        await until(
            lambda: all(lane.state.seq and not lane.metrics.inputs for lane in gate.service.lanes.values()),
            "both partitions recovered",
        )
        assert [(p.partition, p.seq) for p in (await gate.intact()).partitions] == counts
        await gate.good()
        after = [(p.partition, p.seq) for p in (await gate.intact()).partitions]
        assert gate.adapter.called.total() == calls + 2
        # One read is six outcomes at most; a second reading of everything would be hundreds.
        assert all(0 < new[1] - old[1] <= 6 for old, new in zip(counts, after, strict=True))
        assert all(lane.metrics.inputs == 2 for lane in gate.service.lanes.values())

    loop.run(scenario())


def test_broker_killed(
    shared: tuple[Loop, Gate], broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that dies between append and commit taints; everything sent is answered once it is back, and once only."""
    loop, gate = shared

    async def scenario() -> None:
        taints = sum(lane.metrics.taints for lane in gate.service.lanes.values())
        asking = True
        killed: list[str] = []

        def hit(point: str) -> None:
            if point == "ledger.4.appended" and not killed:
                killed.append(point)
                broker.kill()

        asked: list[Intent] = []

        async def ask(agent: str) -> None:
            while asking:
                record = intent("desk.set", agent=agent)
                asked.append(record)
                # A call that the outage cut off may end as failed; what matters is that each ends once.
                assert (await gate.ask(record)).status in ("released", "failed")

        askers = [asyncio.create_task(ask(a)) for a in gate.everywhere() for _ in range(4)]
        await until(lambda: len(asked) > 40, "traffic")
        monkeypatch.setattr(ledger, "hit", hit)  # from here on the next step 4 is the broker's last
        await until(lambda: killed, "the broker is killed")
        await asyncio.to_thread(broker.start)
        since = len(asked)
        await until(lambda: len(asked) > since + 40, "traffic again", 60)
        asking = False
        await asyncio.gather(*askers)
        assert sum(lane.metrics.taints for lane in gate.service.lanes.values()) > taints
        for record in asked:
            ends = [s for s in gate.life(record.intent_id) if s in ("released", "failed")]
            assert len(ends) == 1
        assert gate.service.alive == ""
        await gate.good()

    loop.run(scenario())


def test_who_reads_control_after_an_append_reads_it(shared: tuple[Loop, Gate]) -> None:
    """A commit is answered before its marker is written: `append` waits for it."""
    loop, gate = shared

    async def scenario() -> None:
        for n in range(15):
            stop = ("quarantine.added", {"scope": "session", "value": f"nobody-{n}", "why": "a test"})
            head = await control_log.append(gate.settings, gate.keys, [stop], who="a test", why="a test")
            assert (await control_log.read(gate.settings)).control.head == head

    loop.run(scenario())


def test_intact_at_the_end(shared: tuple[Loop, Gate]) -> None:
    """After all of the above: the ledger is intact, and a good intent passes on every partition."""
    loop, gate = shared

    async def scenario() -> None:
        await gate.good()
        report = await gate.intact()
        whole = sum(p.events for p in report.partitions)
        await until(lambda: len(gate.events) >= whole, "all of it is read")
        assert len(gate.events) == whole
        assert all(topic["verdict"] == "same" for p in report.partitions for topic in p.inputs.values())
        assert not any(lane.metrics.machinery_failed for lane in gate.service.lanes.values())

    loop.run(scenario())
