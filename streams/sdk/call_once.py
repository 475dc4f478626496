"""Ask once, however often one asks: the second request for the same intent id waits for the end of the first.

For frameworks that run a step again (a resumed graph, a retried node). The id is made of all that makes the call what it is
(`intent_id_of`), so it serves as the digest by which the ledger tells a repetition from another request, too; for 24 h, as any id.
Never retries a call. Next: `sdk/once.py`, `sdk/asking.py`, `sdk/session.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

import orjson
from sluicegate.schemas.kinds import TOOL_CALL
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.asking import Asker, refused
from sluicegate.streams.sdk.in_process import LocalFunction
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

ID_CHARS = 40
"""Of sha256 in hex: 160 bits."""


class CallsOnce(Protocol):
    """What adapters need of a session: `client_session.Session`, or `gateway_client.GatewaySession`."""

    session_id: str

    async def call_once(
        self, name: str, arguments: Mapping[str, Json], *, intent_id: str, run: LocalFunction | None = None,
        kind: str = TOOL_CALL, timeout_s: float = ...,
    ) -> Json | Held:  # fmt: skip
        """See `Session.call_once`."""


def intent_id_of(session_id: str, call_id: str, name: str, arguments: Mapping[str, Json]) -> str:
    """The intent id of a framework's call: the same for the same call, and no other's.

    Tool and arguments are part of it, so that a model that gives a call id twice does not get another call's result.
    Raises `Refused` for a call without an id, or with arguments that are not JSON.
    """
    if not call_id:
        raise refused(
            "bad_identifier", "", f"the call of `{name[:80]}` has no id to tell it from another: give it one"
        )
    parts: list[Json] = [session_id, call_id, name, dict(arguments)]
    try:
        client_json.dumps(parts)
        data = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError) as error:
        raise refused(
            "arguments_not_json", "", f"the arguments of `{name[:80]}` are not JSON: {error}"
        ) from error
    return hashlib.sha256(data).hexdigest()[:ID_CHARS]


async def call_once(
    asker: Asker,
    session_id: str,
    name: str,
    arguments: Mapping[str, Json],
    intent_id: str,
    run: LocalFunction | None,
    kind: str,
    timeout_s: float,
) -> Json | Held:
    """See `Session.call_once`."""
    if asker.inbox.asks(intent_id):  # the same call, in this process and right now
        return await asker.result(intent_id, timeout_s)
    return await asker.call_tool(session_id, name, arguments, timeout_s, intent_id, "", run, kind, intent_id)
