"""What every door has at hand: the hub, control, and who is asking. Never decides. Next: `doors.py`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import orjson
from aiohttp import web
from sluicegate.gateway.access import Caller, Rates, caller_of
from sluicegate.gateway.connections import Connections
from sluicegate.gateway.hub import Hub
from sluicegate.gateway.problems import problem
from sluicegate.processors.control.api_keys import CHANNEL
from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas.errors import Retryable
from sluicegate.streams.control import releases
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.oidc import IssuerKeys
from sluicegate.streams.sdk.asking import Asker, Key
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.once import NEW, Once
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S, Session
from sluicegate.streams.settings import Settings

READ_LIMIT_S = 10.0
"""For a request's body: who sends slower is cut off."""
MAX_SHARED = 100_000
"""Shared sessions remembered, about 200 bytes each: 20 MB; one that is forgotten is opened again, and found open."""
MAX_WAIT_S = 600.0
"""The longest a request may wait for an end."""
CONFIRM_WAIT_S = 2.0
"""For a process that stood still, or was busy with a new release, to learn where control is: it takes a moment, once it runs."""


@dataclass(slots=True)
class Gate:
    """One gateway's parts.

    Attributes:
        counts: answers by class of status.
        under_way_of, streams_of: of these, how many of a key.
        streams: ends an open event stream, one for each.
        waiting_bytes: of results that wait for clients of event streams.
        origins: of pages that may ask at `/mcp`, besides those of this machine.
        opened: key -> the session its completions share.
        issuer_keys: what issuers publish, of those that may be asked.
        written: the deployed release's contracts, once somebody asked for them.
    """

    settings: Settings
    hub: Hub
    control_log: ControlReader
    rates: Rates
    clock: Callable[[], int]
    counts: Counter[str]
    under_way: int = 0
    closing: bool = False
    under_way_of: Counter[str] = field(default_factory=Counter)
    streams: set[Callable[[], None]] = field(default_factory=set)
    streams_of: Counter[str] = field(default_factory=Counter)
    waiting_bytes: int = 0
    origins: frozenset[str] = frozenset()
    connections: Connections = field(default_factory=Connections)
    opened: dict[str, str] = field(default_factory=dict)
    written: dict[str, dict[str, dict[str, Json]]] = field(default_factory=dict)
    issuer_keys: IssuerKeys = field(default_factory=IssuerKeys)

    @property
    def control(self) -> Control:
        """As of now."""
        return self.control_log.control

    async def contracts(self, digest: str) -> dict[str, dict[str, Json]]:
        """The contracts of a release as they were written, by name. Raises `Retryable` without Kafka."""
        found = self.written.get(digest)
        if found is None:
            files = await releases.fetch(self.settings, digest)
            rows = [orjson.loads(text) for path, text in files.items() if path.startswith("contracts/")]
            found = {str(row["name"]): row for row in rows}
            self.written.clear()  # one release is asked for at a time
            self.written[digest] = found
        return found

    def remember(self, key_id: str, session_id: str) -> None:
        """A session that this key's completions share."""
        self.opened.pop(key_id, None)
        self.opened[key_id] = session_id
        if len(self.opened) > MAX_SHARED:
            del self.opened[next(iter(self.opened))]

    @property
    def release(self) -> CompiledRelease:
        """The deployed one. Raises a problem while there is none."""
        found = self.control.release
        if found is None:
            raise problem(503, "no_release", "nothing is deployed yet: sluicegate deploy RELEASE")
        return found


MAX_REQUESTS_OF_KEY = 1_000
"""Of a gateway's `MAX_REQUESTS`, for one key."""
_KEY: web.RequestKey[str] = web.RequestKey("key", str)
_HERE: web.RequestKey[bool] = web.RequestKey("under_way", bool)

GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)


def gate_of(request: web.Request) -> Gate:
    """The gateway that a request came to."""
    return request.app[GATE]


async def asked_by(request: web.Request, scope: str) -> Caller:
    """Who asks, with a key of this scope. Raises a problem."""
    gate = gate_of(request)
    await confirmed(gate)
    caller = caller_of(request, gate.control, gate.clock(), gate.rates)
    caller.needs(scope)
    counted(request, caller.key.key_id)
    return caller


async def confirmed(gate: Gate) -> None:
    """Return while it is known whether a key was revoked. Raises a problem where that is not known within `CONFIRM_WAIT_S`."""
    # INVARIANT: nobody is let in, and nothing called permitted, by a control that may be old (tests/unit/test_gateway_access.py).
    if not gate.control_log.stale:
        return
    try:
        await gate.control_log.confirmed(CONFIRM_WAIT_S)
    except Retryable as error:
        text = "control cannot be confirmed: ask again"
        raise problem(503, "control_stale", text, {"Retry-After": "1"}) from error


def enter(request: web.Request) -> None:
    """A request begins."""
    gate_of(request).under_way += 1
    request[_HERE] = True


def counted(request: web.Request, key_id: str) -> None:
    """Count a request for its key, or its person. Raises a problem when too many of theirs are under way."""
    gate = gate_of(request)
    # INVARIANT: one key does not take the room of all (tests/unit/test_gateway_access.py).
    if gate.under_way_of[key_id] >= MAX_REQUESTS_OF_KEY:
        raise problem(429, "too_many_requests", f"{MAX_REQUESTS_OF_KEY} requests of this key wait here", {"Retry-After": "1"})  # fmt: skip
    if _KEY not in request:
        request[_KEY] = key_id
        gate.under_way_of[key_id] += 1


def leave(request: web.Request) -> None:
    """A request ends, or waits for nothing any more. Again does nothing."""
    gate = gate_of(request)
    if request.get(_HERE):
        request[_HERE] = False
        gate.under_way -= 1
    if key_id := request.get(_KEY):
        request[_KEY] = ""
        gate.under_way_of[key_id] -= 1
        if not gate.under_way_of[key_id]:
            del gate.under_way_of[key_id]


async def body_of(request: web.Request) -> dict[str, Json]:
    """The request's JSON object. Raises a problem for anything else, for one that is too large or comes too slowly."""
    try:
        if (
            request.content.is_eof()
        ):  # it is here already, as nearly always: a timer costs more than the rest of this
            raw = await request.read()
        else:
            async with asyncio.timeout(READ_LIMIT_S):
                raw = await request.read()
    except TimeoutError as error:
        raise problem(408, "too_slow", f"the body did not come within {READ_LIMIT_S:.0f} s") from error
    try:
        found = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise problem(400, "malformed_json", f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise problem(400, "malformed_json", "the body is no JSON object")
    return cast("dict[str, Json]", found)


def text_in(body: dict[str, Json], name: str, *, needed: bool = False) -> str:
    """A text of the body, or empty. Raises a problem for what is no text."""
    value = body.get(name, "")
    if not isinstance(value, str) or (needed and not value):
        raise problem(400, "bad_request", f"`{name}` must be a text")
    return value


def seconds_in(value: object, default: float = CALL_TIMEOUT_S) -> float:
    """A time-out of the body or the query. Raises a problem for one that is out of bounds."""
    if value in (None, ""):
        return default
    try:
        seconds = float(cast("float", value))
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        raise problem(400, "bad_request", f"a time-out is 0 to {MAX_WAIT_S:.0f} seconds")
    return seconds


async def asker_of(gate: Gate, caller: Caller) -> Asker:
    """Who asks for this agent. In a signed environment with the keys that lie in the gateway's home."""
    signed = gate.control.signing == "signed"
    agent = _key_of(gate, caller.agent.agent_id, "agent") if signed else None
    channel = None
    if signed and CHANNEL in caller.key.scopes:
        channel = _key_of(gate, "gateway", "channel")
    return await gate.hub.asker(caller.agent.agent_id, agent, channel)


def _key_of(gate: Gate, principal: str, role: str) -> Key:
    now = gate.clock()
    for key in reversed(gate.control.keys.values()):
        path = key_files.default_path(gate.settings.home, key.kid)
        if (
            (key.principal, key.role) == (principal, role)
            and key.not_before <= now < key.not_after
            and path.exists()
        ):
            mine = key_files.load(path)
            return mine.kid, mine.secret
    # INVARIANT: whose key is missing here is not told that the request is wrong (tests/integration/test_gateway_people.py).
    raise problem(
        503, "no_key",
        f"no valid key of `{principal[:80]}` lies in the gateway's home: sluicegate keys new {principal[:80]} --role {role}",
    )  # fmt: skip


async def session_of(
    gate: Gate, caller: Caller, session_id: str, *, goal: str = "", on_behalf_of: str = "", subject: str = "",
    token: str = "", new: bool = False, speaks: bool = False, timeout_s: float = CALL_TIMEOUT_S, once: Once = NEW,
    task: Mapping[str, Json] | None = None,
) -> Session:  # fmt: skip
    """A session of the caller's agent; `new` ones are opened, and `speaks` is for the channel. Raises `Refused`."""
    channel = speaks or (new and CHANNEL in caller.key.scopes)
    session = Session(
        await asker_of(gate, caller), session_id=session_id, goal=goal, on_behalf_of=on_behalf_of, subject=subject,
        token=token, channel=channel, timeout_s=timeout_s, joined=not new, task=task,
    )  # fmt: skip
    await session.open(once)
    return session
