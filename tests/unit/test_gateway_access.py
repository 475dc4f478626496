"""Who asks a gateway: the key's agent, whatever the request says; and how often it may."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway import context, events, mcp
from sluicegate.gateway.access import BURST, Caller, Rates, caller_of, stands, token_in
from sluicegate.gateway.context import GATE, MAX_REQUESTS_OF_KEY, Gate, asked_by, enter, leave
from sluicegate.gateway.hub import Hub
from sluicegate.gateway.server import Gateway
from sluicegate.processors.control.api_keys import digest_of, token_of
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import Envelope, Intent, Reply
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.sdk.asking import Asker
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, Driver

KEY = {
    "key_id": "k",
    "sha256": digest_of("s"),
    "agent_id": AGENT,
    "scopes": ["agent"],
    "rate_per_s": 2,
    "not_after": 2**53 - 1,
}
TOKEN = token_of("test", "k", "s")


def asked(**headers: str) -> web.Request:
    return make_mocked_request(
        "GET", "/v1/models", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def control_with_key() -> Driver:
    driver = Driver()
    driver.control_event("api_key.added", **KEY)
    return driver


def test_the_agent_is_the_keys() -> None:
    driver = control_with_key()
    for headers in (
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN}"},
        {"x_api_key": TOKEN},
    ):
        caller = caller_of(asked(agent_id="other", **headers), driver.control, driver.now, Rates())
        assert caller.agent.agent_id == AGENT
        with pytest.raises(web.HTTPForbidden):
            caller.needs("channel")
        caller.needs("agent")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic x"}, {"Authorization": TOKEN + "x"}])
def test_no_key_no_caller(headers: dict[str, str]) -> None:
    driver = control_with_key()
    with pytest.raises(web.HTTPUnauthorized):
        caller_of(asked(**headers), driver.control, driver.now, Rates())


def test_two_keys_are_none() -> None:
    with pytest.raises(web.HTTPUnauthorized):
        token_in(asked(Authorization=f"Bearer {TOKEN}", x_api_key=TOKEN))


def test_an_agent_that_is_suspended_or_gone() -> None:
    driver = control_with_key()
    driver.control_event("agent.suspended", agent_id=AGENT)
    with pytest.raises(web.HTTPForbidden) as stopped:
        caller_of(asked(x_api_key=TOKEN), driver.control, driver.now, Rates())
    assert "suspended_agent" in str(stopped.value.text)


def test_rates() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    key, other = ("a", 2), ("b", 2)
    assert [rates.take(*key) for _ in range(2 * BURST)] == [0.0] * 2 * BURST
    assert rates.take(*key) == pytest.approx(0.5)
    assert rates.take(*other) == 0.0  # each key has its own
    now[0] = 0.5
    assert rates.take(*key) == 0.0 and rates.take(*key) > 0
    now[0] = 100.0
    assert [rates.take(*key) for _ in range(2 * BURST + 1)].count(0.0) == 2 * BURST


def a_gate(driver: Driver, home: Path, *, stale: bool = False) -> Gate:
    """A gateway's parts, connected to nothing."""
    settings = Settings(home=home)
    reader = ControlReader(settings)
    reader.control = driver.control
    if not stale:
        reader._confirmed_at = time.monotonic()
    return Gate(settings, Hub(settings), reader, Rates(), lambda: driver.now, Counter())


def at_the_door(gate: Gate) -> web.Request:
    app = web.Application()
    app[GATE] = gate
    return make_mocked_request("POST", "/access/v1/evaluation", headers={"x-api-key": TOKEN}, app=app)


def test_a_control_that_may_be_old_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka away: a key that was revoked, or an agent that was quarantined meanwhile, is not known here."""
    monkeypatch.setattr(context, "CONFIRM_WAIT_S", 0.0)
    with pytest.raises(web.HTTPServiceUnavailable) as away:
        asyncio.run(asked_by(at_the_door(a_gate(control_with_key(), tmp_path, stale=True)), "agent"))
    assert "control_stale" in str(away.value.text) and away.value.headers["Retry-After"] == "1"


def test_who_comes_while_control_is_read_again_waits_and_is_judged_by_it(tmp_path: Path) -> None:
    """A gateway that compiled a release for seconds, or stood still: nobody is sent away, and what came meanwhile counts."""
    driver = control_with_key()
    gate = a_gate(driver, tmp_path, stale=True)

    async def ask(*meanwhile: tuple[str, dict[str, object]]) -> Caller:
        asking = asyncio.create_task(asked_by(at_the_door(gate), "agent"))
        await asyncio.sleep(0)  # it waits by now
        assert not asking.done()
        for kind, body in meanwhile:
            driver.control_event(kind, **body)
        gate.control_log.control = driver.control
        gate.control_log._confirmed_at = time.monotonic()
        return await asking

    assert asyncio.run(ask()).key.key_id == "k"
    gate.control_log._confirmed_at = 0.0
    with pytest.raises(web.HTTPUnauthorized):
        asyncio.run(ask(("api_key.revoked", {"key_id": "k"})))


class Slow:
    """A control whose release took too long to compile, and a hub; what was done to them."""

    def __init__(self, fails: bool = False) -> None:
        self.done: list[str] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            self.done.append(name)
            if self._fails and name == "confirmed":
                raise Retryable("control's head was not confirmed within 30 s, check Kafka")

        return step


def test_it_listens_once_control_is_known_and_leaves_nothing_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gateway(parts: Slow) -> Gateway:
        made = Gateway(Settings(home=tmp_path))
        monkeypatch.setattr(made, "_control", parts)
        monkeypatch.setattr(made, "_hub", parts)
        monkeypatch.setattr(made, "listen", lambda app: parts.listen())
        return made

    well, badly = Slow(), Slow(fails=True)
    asyncio.run(gateway(well).start())
    assert well.done == ["start", "open", "confirmed", "listen"]
    with pytest.raises(Retryable):
        asyncio.run(gateway(badly).start())
    assert badly.done == ["start", "open", "confirmed", "stop", "stop"]


def test_one_key_does_not_take_the_room_of_all(tmp_path: Path) -> None:
    gate = a_gate(control_with_key(), tmp_path)
    gate.under_way_of["k"] = MAX_REQUESTS_OF_KEY - 1
    request = at_the_door(gate)
    enter(request)
    assert asyncio.run(asked_by(request, "agent")).key.key_id == "k"
    with pytest.raises(web.HTTPTooManyRequests) as full:
        asyncio.run(asked_by(at_the_door(gate), "agent"))
    assert "too_many_requests" in str(full.value.text)
    leave(request)
    leave(request)  # an event stream leaves early, and once
    assert (gate.under_way, gate.under_way_of["k"]) == (0, MAX_REQUESTS_OF_KEY - 1)


class Written(web.StreamResponse):
    """What a client of events was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)


@pytest.mark.parametrize("kind", ["api_key.revoked", "agent.suspended"])
def test_an_open_event_stream_ends_with_its_key_and_its_agent(kind: str, tmp_path: Path) -> None:
    driver, response = control_with_key(), Written()
    caller = caller_of(asked(x_api_key=TOKEN), driver.control, driver.now, Rates())

    async def run() -> None:
        stream = events.Stream(a_gate(driver, tmp_path))

        def may() -> bool:
            return stands(caller, driver.control, driver.now)

        reply = Reply(bytes(16), "i", AGENT, "s", "heard", "session", "", [], 1)
        stream.offer(0, reply)
        following = asyncio.create_task(events._follow(response, stream, 0, -1, may))
        while not response.sent:
            await asyncio.sleep(0)
        assert response.sent.startswith(b"id: 0-0")
        driver.control_event(kind, **({"key_id": "k"} if kind.startswith("api") else {"agent_id": AGENT}))
        stream.offer(1, reply)
        await following

    asyncio.run(run())
    assert b"id: 0-1" not in response.sent


def test_the_gateway_signs_with_the_keys_of_now(tmp_path: Path) -> None:
    """The first request of an agent fixes neither its key, which may be rotated, nor that no channel speaks for it."""
    hub = Hub(Settings(home=tmp_path))

    async def run() -> list[str]:
        asker = await hub.asker(AGENT, ("old", bytes(32)), None)
        signed = [_kid(asker, "intents")]
        asker = await hub.asker(AGENT, ("new", bytes(32)), ("channel", bytes(32)))
        signed += [_kid(asker, "intents"), _kid(asker, "messages")]
        asker = await hub.asker(AGENT, ("new", bytes(32)), None)  # of a key without the scope `channel`
        return [*signed, _kid(asker, "messages")]

    assert asyncio.run(run()) == ["old", "new", "channel", "channel"]


def _kid(asker: Asker, topic: str) -> str:
    record = Intent("i", AGENT, "s", "tool_call", "t", b"{}", 1)
    return codec.decode_as(Envelope, asker._encode(topic, record, "i")).kid


@pytest.mark.parametrize("cursor", ["\u00b2", "9" * 5_000, "-1", ""])
def test_a_cursor_of_mcp_is_a_number_or_refused(cursor: str) -> None:
    assert mcp.CURSOR.fullmatch(cursor) is None
