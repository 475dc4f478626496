"""Intake: bytes of an input become a record that this topic accepts from this signer.

Type × topic × signer (DESIGN §3): what a topic may carry is in `schemas/topics.py`, who may sign is in control's
fold. What fails here is an outcome `unreadable` and a dead letter with the reason, so that whoever looks after the agents sees
a key that is missing or wrong; never an exception. Nobody is told: who asked is not known.
Next: `pipeline.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

from sluicegate.processors.control.control import Control
from sluicegate.processors.state import ACCEPT_WINDOW_US
from sluicegate.schemas import codec, signing
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import (
    Envelope,
    Exchange,
    Intent,
    Message,
    Receipt,
    Resolution,
    Review,
    Score,
    Transfer,
)
from sluicegate.schemas.struct_reader import decode
from sluicegate.schemas.topics import BY_NAME, MAX_INTENT_BYTES

DEAD_LETTER_HEAD_BYTES = 4_096
"""How much of an unreadable value is kept."""

InputRecord = Intent | Message | Receipt | Resolution | Review | Score | Transfer | Exchange


_INPUT_RECORDS = frozenset(get_args(InputRecord))
_ACCEPTS = {topic: dict(about.accepts) for topic, about in BY_NAME.items()}


@dataclass(frozen=True, slots=True)
class Taken:
    """A readable record.

    Attributes:
        authenticated: a registered key signed it.
        proof: in signed environments, the whole envelope.
    """

    record: InputRecord
    payload: bytes
    authenticated: bool
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why it was not taken. `dead`: it goes to the dead letters, as nobody is told."""

    reason: str
    detail: str
    dead: bool = True


def take(control: Control, topic: str, value: bytes, now: int | None) -> Taken | Problem:
    """Read and authenticate one input. Never raises.

    `now` None: as of when the record says it was issued. For a record that was taken once already: a key that ended
    since was valid for it; a revoked one is valid for nothing.
    """
    if len(value) > MAX_INTENT_BYTES:
        return Problem("too_large", f"the record has {len(value)} bytes, the limit is {MAX_INTENT_BYTES}")
    try:
        record = decode(value)
        envelope: Envelope | None = None
        payload = value
        if isinstance(record, Envelope):
            envelope, payload = record, record.payload
            record = decode(payload)
    except Unreadable as error:
        return Problem(error.reason, str(error))
    roles = _ACCEPTS[topic].get(codec.schema_of(type(record)).name)
    if roles is None or type(record) not in _INPUT_RECORDS:
        return Problem("unexpected_type", f"topic `{topic}` does not accept a {type(record).__name__}")
    record = cast(InputRecord, record)
    signed = control.signing == "signed"
    if envelope is None:
        if signed:
            return Problem("unsigned", "this environment takes signed records only")
        return Taken(record, payload, False)
    if now is None:
        now = record.started_at if isinstance(record, Receipt) else record.issued_at
    problem = _check(control, topic, envelope, record, roles, now)
    if problem is None:
        return Taken(record, payload, True, value if signed else b"")
    if not signed and problem.reason == "unknown_key":
        return Taken(record, payload, False)
    return problem


def _check(
    control: Control, topic: str, envelope: Envelope, record: InputRecord, roles: tuple[str, ...], now: int
) -> Problem | None:
    problem = check_envelope(control, topic, envelope, roles, now)
    if problem is not None:
        return problem
    key = control.keys[envelope.kid]
    named = record.agent_id
    if isinstance(record, Review | Resolution):
        named = record.reviewer
    elif isinstance(record, Score):
        named = record.scorer
        if key.role != record.kind:
            return Problem(
                "wrong_signer",
                f"a key of role `{key.role}` may not sign a score of kind `{record.kind[:20]}`",
            )
    if key.role in ("agent", "person") and key.principal != named:
        return Problem("wrong_signer", f"key `{envelope.kid}` belongs to `{key.principal}`")
    # A receipt may be late: it tells what happened. What asks for something may not.
    if not isinstance(record, Receipt) and abs(now - envelope.signed_at) > ACCEPT_WINDOW_US:
        return Problem("too_old", "it was signed over 24 h from now, sign it anew")
    return None


def check_envelope(
    control: Control, topic: str, envelope: Envelope, roles: tuple[str, ...], now: int
) -> Problem | None:
    """What is wrong with a signature on a record of `topic`, or None. What is in the envelope is not looked at."""
    key = control.keys.get(envelope.kid)
    if key is None:
        return Problem("unknown_key", f"key `{envelope.kid[:80]}` is not registered")
    if not key.not_before <= envelope.signed_at < key.not_after or now >= key.not_after:
        return Problem("key_not_valid", f"key `{envelope.kid}` is revoked or not valid now")
    if envelope.audience != f"{control.env}/{topic}":
        return Problem(
            "bad_signature",
            f"audience `{envelope.audience[:80]}` is not `{control.env}/{topic}`",
        )
    if envelope.expires_at and envelope.expires_at < now:
        return Problem("bad_signature", "the signature expired")
    secret = control.mac_keys.get(envelope.kid, b"") if key.alg == "HS256" else key.public
    if not secret or not signing.verify(envelope, key.alg, secret):
        return Problem(
            "bad_signature",
            f"the signature does not verify under key `{envelope.kid}`",
        )
    if key.role not in roles:
        return Problem("wrong_signer", f"a key of role `{key.role}` may not sign this record")
    return None
