"""`tests/driver.py` in signed mode: what agents, channels, executors and people send is signed as they would.

    d = SignedDriver()
    d.open_session()         # by the channel's key
    d.call("desk.read")      # by the agent's: kid `agent:<agent_id>`

Keys follow from their kid, so runs repeat byte for byte. Bytes are sent as they are, so that a test may forge.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import Decision
from sluicegate.schemas import codec, signing

from tests.driver import AGENT, OTHER_AGENT, Driver

FOREVER = 2**53 - 1
CHANNEL, EXECUTOR, PERSON, PIPELINE = "channel:front", "executor:1", "person:person-2", "pipeline:1"


def secret_of(kid: str) -> bytes:
    """32 bytes."""
    return hashlib.sha256(kid.encode()).digest()


def key_body(kid: str, principal: str, role: str, *, until: int = FOREVER) -> dict[str, object]:
    """The body of a `key.added`: Ed25519, but MAC for executors and the pipeline."""
    alg = "HS256" if role in ("executor", "pipeline") else "Ed25519"
    public = Ed25519PrivateKey.from_private_bytes(secret_of(kid)).public_key().public_bytes_raw()
    return {
        "kid": kid, "principal": principal, "role": role, "alg": alg, "not_before": 0, "not_after": until,
        "public": public.hex() if alg == "Ed25519" else "",
    }  # fmt: skip


class SignedDriver(Driver):
    """A ledger partition of a signed environment."""

    def __init__(self, *, agents: tuple[str, ...] = (AGENT, OTHER_AGENT)) -> None:
        super().__init__(signing="signed")
        for agent in agents:
            self.control_event("key.added", **key_body(f"agent:{agent}", agent, "agent"))
        self.control_event("key.added", **key_body(CHANNEL, "front", "channel"))
        self.control_event("key.added", **key_body(EXECUTOR, "executor", "executor"))
        self.control_event("key.added", **key_body(PERSON, "person-2", "person"))
        self.control_event("key.added", **key_body(PIPELINE, "pipeline", "pipeline"))
        self.control.mac_keys = {kid: secret_of(kid) for kid in (EXECUTOR, PIPELINE)}

    def sign(self, record: object, topic: str, kid: str = "") -> bytes:
        """The envelope whoever may write this topic would send."""
        kid = kid or {"messages": CHANNEL, "receipts": EXECUTOR, "reviews": PERSON}.get(
            topic,
            PIPELINE if topic in ("dispatches", "transfers") else f"agent:{getattr(record, 'agent_id', '')}",
        )
        alg = self.control.keys[kid].alg if kid in self.control.keys else "Ed25519"
        return signing.sign(codec.encode(record), kid, alg, secret_of(kid), f"test/{topic}", self.now)

    def feed(
        self, topic: str, record: object, *, stale: bool = False, control: Control | None = None
    ) -> Decision:
        """As the driver's, signed; bytes go as they are."""
        value = record if isinstance(record, bytes) else self.sign(record, topic)
        return super().feed(topic, value, stale=stale, control=control)
