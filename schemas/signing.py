"""The signing envelope: who says so, checked without the broker's word for it.

`sign` wraps a record's bytes; `verify` checks them against one key. The signature covers the single-object
encoding of the `Envelope` with an empty signature, so kid, audience and times are covered too. Which key belongs
to whom is control's business (`processors/intake.py`). Never generates keys. Algorithms: Ed25519 (RFC 8032) for
agents, channels and people; HS256 (HMAC-SHA256) between our own processes.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sluicegate.schemas import codec
from sluicegate.schemas.records import ControlFacts, Envelope

ALGORITHMS = ("Ed25519", "HS256")


def _unsigned(envelope: Envelope) -> bytes:
    return codec.encode(
        Envelope(
            envelope.kid, envelope.alg, envelope.audience, envelope.signed_at, envelope.expires_at, envelope.payload, b""
        )
    )  # fmt: skip


def sign(
    payload: bytes, kid: str, alg: str, secret: bytes, audience: str, signed_at: int, expires_at: int = 0
) -> bytes:
    """The encoded envelope. `secret`: 32 bytes of Ed25519 private key, or the MAC key."""
    envelope = Envelope(kid, alg, audience, signed_at, expires_at, payload, b"")
    message = _unsigned(envelope)
    if alg == "Ed25519":
        envelope.signature = Ed25519PrivateKey.from_private_bytes(secret).sign(message)
    elif alg == "HS256":
        envelope.signature = hmac.new(secret, message, hashlib.sha256).digest()
    else:
        raise ValueError(f"algorithm `{alg}` is not one of {', '.join(ALGORITHMS)}")
    return codec.encode(envelope)


def verify(envelope: Envelope, alg: str, key: bytes) -> bool:
    """Whether the signature is right under `alg`, which comes from the registry and never from the envelope."""
    if envelope.alg != alg:
        return False
    message = _unsigned(envelope)
    if alg == "Ed25519":
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(envelope.signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True
    return alg == "HS256" and hmac.compare_digest(
        hmac.new(key, message, hashlib.sha256).digest(), envelope.signature
    )


CONTROL_DOMAIN = b"sluicegate/control/1\0"
"""Before what an operator signs, so that no other signature of the same key fits a control event."""


def _control_message(log_id: bytes, seq: int, facts: ControlFacts) -> bytes:
    texts = (facts.kind, facts.who, facts.why, facts.kid)
    place = codec.encode_bytes(log_id) + codec.encode_long(seq)
    return b"".join((CONTROL_DOMAIN, place, *map(codec.encode_string, texts), codec.encode_bytes(facts.body)))


def sign_control(facts: ControlFacts, log_id: bytes, seq: int, kid: str, secret: bytes) -> ControlFacts:
    """The event signed for one place in one log: it cannot be written again, or elsewhere."""
    signed = ControlFacts(facts.kind, facts.who, facts.why, facts.body, kid)
    message = _control_message(log_id, seq, signed)
    signed.signature = Ed25519PrivateKey.from_private_bytes(secret).sign(message)
    return signed


def verify_control(facts: ControlFacts, log_id: bytes, seq: int, public: bytes) -> bool:
    """Whether the event was signed for this place by the key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(facts.signature, _control_message(log_id, seq, facts))
    except (InvalidSignature, ValueError):
        return False
    return True


def _pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: no other signature of the same key fits it."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_dsse(payload_type: str, payload: bytes, secret: bytes) -> bytes:
    """A DSSE v1 signature with Ed25519."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign(_pae(payload_type, payload))


def verify_dsse(payload_type: str, payload: bytes, signature: bytes, public: bytes) -> bool:
    """Whether the payload was signed by the key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _pae(payload_type, payload))
    except (InvalidSignature, ValueError):
        return False
    return True
