"""What signatures cost: the ledger's check of an intent, and the executor's check of a dispatch, in microseconds.

No Kafka here; the whole ledger with signed intents is a row of `bench/ledger.py`, which takes its keys from here too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.conform import parse
from sluicegate.processors.control import control as fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.intake import Problem, take
from sluicegate.processors.permits import agents_word, open_dispatch
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r
from sluicegate.schemas.records import Intent, Message
from sluicegate.streams.control import identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result

COUNT = int(os.environ.get("BENCH_COUNT", "2000"))
RUNS = int(os.environ.get("BENCH_RUNS", "7"))
ROLES = ("banking", "slack", "retail", "airline")
Event = tuple[str, dict[str, object]]


@dataclass
class Signers:
    """Keys of agents and of one channel, made up from their names."""

    env: str
    private: dict[str, bytes] = field(default_factory=dict)

    def events(self, agents: list[str]) -> list[Event]:
        """`key.added` of each agent and of the channel."""
        rows = [(f"agent:{a}", a, "agent") for a in agents] + [("channel", "front", "channel")]
        for kid, _, _ in rows:
            self.private[kid] = hashlib.sha256(kid.encode()).digest()
        return [
            ("key.added", _body(kid, principal, role, self.private[kid])) for kid, principal, role in rows
        ]

    def sign(self, record: Intent | Message) -> bytes:
        """The record in its signer's envelope."""
        topic = "intents" if isinstance(record, Intent) else "messages"
        kid = f"agent:{record.agent_id}" if isinstance(record, Intent) else "channel"
        now = time.time_ns() // 1000
        return signing.sign(
            codec.encode(record), kid, "Ed25519", self.private[kid], f"{self.env}/{topic}", now
        )


def _body(kid: str, principal: str, role: str, private: bytes) -> dict[str, object]:
    mac = role in identities.MAC_ROLES
    public = b"" if mac else Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return {
        "kid": kid, "principal": principal, "role": role, "alg": "HS256" if mac else "Ed25519",
        "public": public.hex(), "not_before": 0, "not_after": identities.FOREVER_US,
    }  # fmt: skip


def register(settings: Settings) -> Signers:
    """Give every agent of the example release a key."""
    signers = Signers(settings.env)
    events = signers.events([a for role in ROLES for a in common.agents(role)])
    keys = Keys(settings.home)
    asyncio.run(control_log.append(settings, keys, events, who="bench", why="bench"))
    keys.close()
    return signers


def _control() -> tuple[Control, Signers]:
    agent = common.agents("banking")[0]
    signers = Signers("bench")
    pipeline = hashlib.sha256(b"pipeline").digest()
    events: list[Event] = [
        ("genesis", {"log_id": "00" * 16, "env": "bench", "partitions": 1, "signing": "signed"}),
        ("agents.registered", {"agents": [{"agent_id": agent, "roles": ["banking"]}]}),
        *signers.events([agent]),
        ("key.added", _body("pipeline", "pipeline", "pipeline", pipeline)),
    ]
    control = Control(mac_keys={"pipeline": pipeline})
    for kind, body in events:
        facts = r.ControlFacts(kind, "bench", "bench", rfc8785.dumps(body))  # type: ignore[arg-type]
        control = fold.fold(control, control.head + 1, facts)
    return control, signers


def us_each(work: Callable[[bytes], object], values: list[bytes]) -> float:
    """Median over runs of microseconds a value."""
    found = []
    for _ in range(RUNS):
        started = time.perf_counter()
        for value in values:
            work(value)
        found.append((time.perf_counter() - started) / len(values) * 1e6)
    return statistics.median(found)


def main() -> None:
    """Run and write the results."""
    control, signers = _control()
    agent = common.agents("banking")[0]
    now = time.time_ns() // 1000
    calls = [c for c in common.tool_calls(COUNT * 4) if c[2] == "banking"][:COUNT]
    records = [
        Intent(f"i{i}", agent, "s", "tool_call", tool, json.dumps(args).encode(), now)
        for i, (tool, args, _) in enumerate(calls)
    ]
    plain = [codec.encode(x) for x in records]
    signed = [signers.sign(x) for x in records]
    dev = Control(env="bench")
    dispatches = [_dispatch(control, x, proof) for x, proof in zip(records, signed, strict=True)]

    def opened(value: bytes) -> None:
        found = open_dispatch(control, 0, value, now)
        assert not isinstance(found, Problem), found
        assert agents_word(control, found, now) is None

    def taken(value: bytes) -> None:
        assert not isinstance(take(control, "intents", value, now), Problem)

    conditions = f"{len(records):,} recorded banking calls, medians of {RUNS} runs, {common.machine()}"
    unsigned_us = us_each(lambda v: take(dev, "intents", v, now), plain)
    signed_us = us_each(taken, signed)
    permit_us = us_each(opened, dispatches)
    dispatch_us = us_each(codec.decode, [codec.decode_as(r.Envelope, d).payload for d in dispatches])
    common.write(
        "signed",
        [
            Result("signed.us_per_intent_at_the_ledger", signed_us, "us", conditions, "unsigned intake", signed_us / unsigned_us),
            Result("signed.us_per_dispatch_at_the_executor", permit_us, "us", conditions, "reading it unchecked", permit_us / dispatch_us),
            Result("signed.us_per_dispatch_to_sign", us_each(lambda v: _mac(control, v), plain), "us", conditions),
        ],
    )  # fmt: skip


def _mac(control: Control, payload: bytes) -> bytes:
    return signing.sign(
        payload, "pipeline", "HS256", control.mac_keys["pipeline"], "bench/dispatches", time.time_ns() // 1000
    )


def _dispatch(control: Control, intent: Intent, proof: bytes) -> bytes:
    parsed = parse(intent.arguments)
    assert isinstance(parsed, tuple)
    dispatch = r.Dispatch(
        hashlib.sha256(intent.intent_id.encode()).digest()[:16], intent.intent_id, intent.agent_id, "s", "default",
        intent.tool, "irreversible", b"{}", parsed[1], bytes(32), "k", 1, 1_000, intent.issued_at + 5_000_000, "",
        control.head, proof,
    )  # fmt: skip
    return _mac(control, codec.encode(dispatch))


if __name__ == "__main__":
    main()
