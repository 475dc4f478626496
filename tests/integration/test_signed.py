"""An environment that takes signed records only: who signed what, for which topic, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.control.control import Control
from sluicegate.processors.validate import action_digest
from sluicegate.schemas import codec, signing
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import (
    Dispatch,
    Envelope,
    IntakeFacts,
    Intent,
    IntentFacts,
    Message,
    SessionFacts,
)
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import kafka
from sluicegate.streams.keys import mac_keys
from sluicegate.streams.scan import scan, stretches

from tests.driver import AGENT
from tests.integration import gate as gates
from tests.integration.gate import RESULT, Gate, Loop, intent, new_id, now_us

FOREVER = 2**53 - 1
SECRETS = {
    "agent-1": os.urandom(32),
    "agent-2": os.urandom(32),
    "channel-1": os.urandom(32),
    "old": os.urandom(32),
}
MAC, PIPELINE_MAC = os.urandom(32), os.urandom(32)
PARTITIONS = 2
NEIGHBOUR = next(
    name
    for name in ("banking-agent-command-r", "banking-agent-claude-3-opus-20240229", "banking-agent-claude-3-haiku-20240307")
    if partition_of(name, PARTITIONS) == partition_of(AGENT, PARTITIONS)
)  # fmt: skip
"""Another agent of the same partition."""


def key_added(kid: str, principal: str, role: str, alg: str = "Ed25519", until: int = FOREVER) -> tuple[str, dict[str, object]]:  # fmt: skip
    public = b""
    if alg == "Ed25519":
        public = Ed25519PrivateKey.from_private_bytes(SECRETS[kid]).public_key().public_bytes_raw()
    return (
        "key.added",
        {
            "kid": kid,
            "principal": principal,
            "role": role,
            "alg": alg,
            "public": public.hex(),
            "not_before": 0,
            "not_after": until,
        },
    )


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    home = tmp_path_factory.mktemp("signed")
    write_macs(home, {"executor-1": MAC.hex(), "pipeline-1": PIPELINE_MAC.hex()})
    settings = gates.new_settings(kafka, home, PARTITIONS)
    control = [
        key_added("agent-1", AGENT, "agent"),
        key_added("agent-2", NEIGHBOUR, "agent"),
        key_added("channel-1", "chat", "channel"),
        key_added("old", AGENT, "agent", until=1),
        key_added("executor-1", "executor", "executor", "HS256"),
        key_added("pipeline-1", "pipeline", "pipeline", "HS256"),
    ]
    with gates.running(settings, signing="signed", control=control) as (loop, gate):
        gate.wrap = lambda value, topic: signed(
            gate, value, topic, "channel-1" if topic == "messages" else "agent-1"
        )
        loop.run(gate.open_session())
        yield loop, gate


def write_macs(home: Path, secrets: object) -> None:
    (home / "keys").mkdir(exist_ok=True)
    (home / "keys" / "mac.json").write_text(json.dumps(secrets))


def signed(gate: Gate, value: bytes, topic: str, kid: str, audience: str = "", expires_at: int = 0) -> bytes:
    audience = audience or f"{gate.settings.env}/{topic}"
    return signing.sign(value, kid, "Ed25519", SECRETS[kid], audience, now_us(), expires_at)


def tampered(value: bytes) -> bytes:
    """The same envelope around another amount."""
    envelope = codec.decode_as(Envelope, value)
    changed = envelope.payload.replace(b"mine", b"thei")
    assert changed != envelope.payload
    return codec.encode(replace(envelope, payload=changed))


def renamed(value: bytes) -> bytes:
    """The same signature under another key's name."""
    return codec.encode(replace(codec.decode_as(Envelope, value), kid="agent-2"))


def by_mac(gate: Gate, value: bytes) -> bytes:
    """An Ed25519 public key used as a MAC secret: the algorithm is the registry's, not the envelope's."""
    public = Ed25519PrivateKey.from_private_bytes(SECRETS["agent-1"]).public_key().public_bytes_raw()
    return signing.sign(value, "agent-1", "HS256", public, f"{gate.settings.env}/intents", now_us())


BAD: dict[str, tuple[Callable[[Gate, bytes], bytes], str]] = {
    "not signed": (lambda g, v: v, "unsigned"),
    "unknown key": (lambda g, v: signing.sign(v, "nobody", "Ed25519", MAC, f"{g.settings.env}/intents", now_us()), "unknown_key"),
    "another key under this name": (lambda g, v: signing.sign(v, "agent-1", "Ed25519", MAC, f"{g.settings.env}/intents", now_us()), "bad_signature"),
    "key no longer valid": (lambda g, v: signed(g, v, "intents", "old"), "key_not_valid"),
    "signed before the key's end, sent after it": (lambda g, v: signing.sign(v, "old", "Ed25519", SECRETS["old"], f"{g.settings.env}/intents", 0), "key_not_valid"),
    "another topic's": (lambda g, v: signed(g, v, "messages", "agent-1"), "bad_signature"),
    "another environment's": (lambda g, v: signed(g, v, "", "agent-1", "prod/intents"), "bad_signature"),
    "expired": (lambda g, v: signed(g, v, "intents", "agent-1", expires_at=1), "bad_signature"),
    "another agent's key": (lambda g, v: signed(g, v, "intents", "agent-2"), "wrong_signer"),
    "a channel's key": (lambda g, v: signed(g, v, "intents", "channel-1"), "wrong_signer"),
    "tampered": (lambda g, v: tampered(signed(g, v, "intents", "agent-1")), "bad_signature"),
    "renamed": (lambda g, v: renamed(signed(g, v, "intents", "agent-1")), "bad_signature"),
    "public key as a secret": (by_mac, "bad_signature"),
}  # fmt: skip


def payment() -> Intent:
    return intent("desk.pay", {"value": "mine"})


def test_signed_passes(shared: tuple[Loop, Gate]) -> None:
    """Signed by the agent, executed, and the executor's receipts are signed too."""
    loop, gate = shared

    async def scenario() -> None:
        record = payment()
        reply = await gate.ask(record)
        assert (reply.status, reply.result) == ("released", RESULT), reply
        facts = [e.facts for _, e in gate.events if e.header.intent_id == record.intent_id]
        assert isinstance(facts[0], IntentFacts)
        assert facts[0].authenticated is True
        assert gate.life(record.intent_id)[-2:] == ["claimed", "released"]
        [opened] = [e.facts for _, e in gate.events if e.header.status == "opened"]
        assert isinstance(opened, SessionFacts)
        assert opened.authenticated is True
        again = await gate.ask(record)  # another signature, the same intent
        assert (again.status, again.result, again.duplicate) == ("released", RESULT, True)

    loop.run(scenario())


@pytest.mark.parametrize("name", BAD)
def test_refused(shared: tuple[Loop, Gate], name: str) -> None:
    """Refused with its reason, and nothing is called."""
    loop, gate = shared
    make, reason = BAD[name]

    async def scenario() -> None:
        calls = gate.adapter.called.total()
        record = payment()
        place = await gate.put("intents", make(gate, codec.encode(record)))
        [event] = await gate.decided(place)
        assert (event.header.stage, event.header.status, event.header.reason) == (
            "intake",
            "unreadable",
            reason,
        )
        assert isinstance(event.facts, IntakeFacts)
        assert (await gate.letter(place)).reason == reason
        assert gate.service.lanes[place.partition].metrics.rejected[reason] > 0
        assert (await gate.ask(payment())).status == "released"
        assert gate.adapter.called.total() == calls + 1
        assert gate.life(record.intent_id) == []

    loop.run(scenario())


def test_an_agent_is_no_channel(shared: tuple[Loop, Gate]) -> None:
    """What the user said counts from a channel only."""
    loop, gate = shared

    async def scenario() -> None:
        message = Message(new_id(), AGENT, gates.SESSION, "session.user_said", now_us(), text="please pay")
        place = await gate.put("messages", signed(gate, codec.encode(message), "messages", "agent-1"))
        [event] = await gate.decided(place)
        assert (event.header.status, event.header.reason) == ("unreadable", "wrong_signer")

    loop.run(scenario())


def _as_it_is(gate: Gate, value: bytes) -> bytes:
    return codec.encode(_altered(gate, value))


def _altered(gate: Gate, value: bytes) -> Dispatch:
    """Another call, and a lease that lasts."""
    dispatch = codec.decode_as(Dispatch, codec.decode_as(Envelope, value).payload)
    return replace(
        dispatch, dispatch_id=os.urandom(16), idempotency_key=new_id(), not_after=now_us() + 10_000_000
    )


def _by_the_secret(gate: Gate, value: bytes) -> bytes:
    """Whoever has the pipeline's secret, but not the agent's key."""
    mine = replace(_altered(gate, value), arguments=b'{"value":"theirs"}')
    forged = codec.encode(replace(mine, action_digest=action_digest(mine.tool, mine.version, mine.arguments)))
    audience = f"{gate.settings.env}/dispatches"
    return signing.sign(forged, "pipeline-1", "HS256", PIPELINE_MAC, audience, now_us())


def _another_call(gate: Gate, value: bytes) -> bytes:
    """The same, with other arguments than the digest says."""
    forged = codec.encode(replace(_altered(gate, value), arguments=b'{"value":"theirs"}'))
    audience = f"{gate.settings.env}/dispatches"
    return signing.sign(forged, "pipeline-1", "HS256", PIPELINE_MAC, audience, now_us())


@pytest.mark.parametrize(
    ("forge", "reason"),
    [(_as_it_is, "unsigned"), (_by_the_secret, "bad_signature"), (_another_call, "call_changed"), (lambda g, v: v[:-1] + bytes([v[-1] ^ 1]), "bad_signature")],
)  # fmt: skip
def test_a_forged_dispatch_has_no_effect(
    shared: tuple[Loop, Gate], forge: Callable[[Gate, bytes], bytes], reason: str
) -> None:
    """It is set aside as a dead letter, and the tool is not called."""
    loop, gate = shared

    async def scenario() -> None:
        assert (await gate.ask(payment())).status == "released"
        real = await last_dispatch(gate)
        calls = gate.adapter.called.total()
        place = await gate.put("dispatches", forge(gate, real))
        letter = await gate.letter(place)
        assert letter.reason == reason
        assert (await gate.ask(payment())).status == "released"
        assert gate.adapter.called.total() == calls + 1

    loop.run(scenario())


def test_a_copy_of_a_dispatch_is_not_called_again(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared

    async def scenario() -> None:
        assert (await gate.ask(payment())).status == "released"
        calls = gate.adapter.called.total()
        await gate.put("dispatches", await last_dispatch(gate))
        assert (await gate.ask(payment())).status == "released"
        assert gate.adapter.called.total() == calls + 1

    loop.run(scenario())


async def last_dispatch(gate: Gate) -> bytes:
    """The newest record of `dispatches` in the agent's partition."""
    place = TopicPartition(f"{gate.settings.env}.dispatches", partition_of(AGENT, PARTITIONS))
    consumer = await kafka.connect(kafka.consumer(gate.settings, fetch_wait_ms=20))
    try:
        [stretch] = await stretches(consumer, [place])
        found = [r async for batch in scan(consumer, place, stretch.begin, stretch.end) for r in batch]
        return bytes(found[-1].value)
    finally:
        await consumer.stop()


def test_intact(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    loop.run(gate.intact())


def test_key_file(tmp_path: Path) -> None:
    """No file is no key; a file of another form stops the process instead of meaning nothing."""
    assert mac_keys.load(tmp_path) == {}
    write_macs(tmp_path, {"k": MAC.hex()})
    assert mac_keys.load(tmp_path) == {"k": MAC}
    for wrong in ({"k": "xyz"}, {"k": 1}, ["k"], {"k": "00"}):
        write_macs(tmp_path, wrong)
        with pytest.raises(Terminal, match=r"mac\.json"):
            mac_keys.load(tmp_path)
    assert Control().mac_keys == {}
