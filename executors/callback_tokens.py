"""Tokens of callbacks: whoever holds one may end exactly the call it was made for, whichever executor is asked.

A token is the call's own names and a MAC over them, so no executor keeps anything, and one that was restarted knows
what another one gave out. How often it is used, the ledger sees: only the first end counts, the rest is noted.
Never logged, never recorded: it is a secret between an executor and a tool. Next: `callbacks.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

import orjson
from sluicegate.processors.artifacts import limit_of
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES

MIN_KEY_BYTES = 32
MAC_BYTES = 32
MAX_TOKEN_CHARS = 4_096
"""Three ids of 256 characters of at most four bytes each, in JSON and base64: 4.1 kB; longer ids cannot be called back."""


@dataclass(frozen=True, slots=True)
class Called:
    """The call a token belongs to."""

    dispatch_id: bytes
    intent_id: str
    agent_id: str
    session_id: str
    attempt: int
    tool: str = ""
    release: str = ""
    """Named where the contract lets the result be large: then it is validated here, under that release."""


class Tokens:
    """Makes and opens tokens. `key`: at least 32 bytes, the same for all executors of an environment."""

    def __init__(self, key: bytes, env: str) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise Terminal(f"the callback key has {len(key)} bytes, make one of at least {MIN_KEY_BYTES}")
        self._key = hashlib.sha256(b"sluicegate callback\0" + env.encode() + b"\0" + key).digest()

    def make(self, dispatch: Dispatch) -> str:
        """The token of one attempt of one call. Raises `ValueError` when its ids are too long for one."""
        d = dispatch
        names = [d.dispatch_id.hex(), d.intent_id, d.agent_id, d.session_id, d.attempt]
        if limit_of(d.executor) > MAX_RESULT_BYTES:
            names += [d.tool, d.release]
        payload = orjson.dumps(names)
        token = base64.urlsafe_b64encode(self._mac(payload) + payload).decode().rstrip("=")
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError("the call's ids are too long to be called back, use ascii characters")
        return token

    def open(self, token: str) -> Called | None:
        """The call of a token; None for one that nobody gave out."""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            return None
        mac, payload = data[:MAC_BYTES], data[MAC_BYTES:]
        # INVARIANT: nothing of a token is looked at before its MAC is right (tests/unit/test_callbacks.py).
        if not hmac.compare_digest(mac, self._mac(payload)):
            return None
        dispatch_id, *rest = orjson.loads(payload)
        return Called(bytes.fromhex(dispatch_id), *rest)

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")
