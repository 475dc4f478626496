"""Requests that a client may send again: the same key and body find the first one's answer, another body is a conflict (409).

    Idempotency-Key: KEY            or `intent_id` in the body of `/v1/intents`, or the header `x-sluicegate-intent`

Kept by the ledger, not here: any gateway answers, also after a restart, for 24 h. A key is of its agent and of one kind of request.
Never decides whether two requests are the same: the ledger compares digests (`schemas/requests.py`). Next: `doors.py`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

import orjson
from aiohttp import web
from sluicegate.gateway.problems import problem
from sluicegate.streams.sdk.asking import is_id
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.once import Once

KEY = "Idempotency-Key"
LEFT_OUT = frozenset(("intent_id", "timeout_s", "wait", "stream", "stream_options", "agent_id"))
"""Of a body: they say how the answer is wanted, not what is asked for."""


def once(request: web.Request, door: str, body: Mapping[str, Json], named: str = "") -> Once:
    """The request's id and what it asks for; without a key an id of its own. Raises a problem for two keys, or none that could be one."""
    keys = request.headers.getall(KEY, [])
    if len(keys) > 1 or (keys and named and keys[0] != named):
        raise problem(400, "bad_request", f"send one id: `{KEY}` or the intent's")
    key = keys[0] if keys else ""
    if keys and not is_id(key):
        raise problem(400, "bad_request", f"`{KEY}` is 1 to 256 printable characters")
    if not key and not named:
        return Once(uuid.uuid4().hex, "")
    ident = named or f"{door}-{_digest(door.encode(), key.encode())}"
    told = {name: value for name, value in body.items() if name not in LEFT_OUT}
    # With the key, which nobody else knows: what is left on the ledger after an erasure must not be guessed by trying texts.
    about = (door.encode(), (key or named).encode(), orjson.dumps(told, option=orjson.OPT_SORT_KEYS))
    return Once(ident, _digest(*about))


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:32]
