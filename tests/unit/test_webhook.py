"""The webhook: signed, repeated within a bound, to allowed addresses only."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web
from sluicegate.executors.egress import Egress
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.watch import webhook
from sluicegate.streams.watch.webhook import ATTEMPTS, Webhook, WebhookSettings, signature

SECRET = b"0123456789abcdef0123456789abcdef"
T = TypeVar("T")


class Hook:
    """A server that answers with statuses in turn, the last one for ever, and remembers what it got."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.statuses = list(statuses)
        self.headers = headers or {}
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == 0:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=status or 200, headers=self.headers)

    async def __aenter__(self) -> Hook:
        app = web.Application()
        app.router.add_post("/held", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.place = f"127.0.0.1:{self._runner.addresses[0][1]}"
        self.url = f"http://{self.place}/held"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


def told(hook: Hook, *, egress: str = "", body: bytes = b'{"a":1}', **more: object) -> bool:
    """Whether an event is taken, with short pauses."""

    async def main() -> bool:
        async with hook:
            settings = WebhookSettings(hook.url, SECRET)
            one = Webhook(settings, Egress(egress or hook.place), pause_s=0.001, **more)  # type: ignore[arg-type]
            try:
                return await one.tell("ab12", body)
            finally:
                await one.close()

    return asyncio.run(main())


def test_what_is_sent_is_signed_with_its_time() -> None:
    hook = Hook(204)
    assert told(hook, clock=lambda: 1_795_000_000.9)
    [(headers, body)] = hook.got
    assert body == b'{"a":1}' and headers["Content-Type"] == "application/json"
    assert headers["X-Sluicegate-Event"] == "ab12"
    mac = hmac.new(SECRET, b"1795000000." + body, hashlib.sha256).hexdigest()
    assert headers["X-Sluicegate-Signature"] == f"t=1795000000,v1={mac}"
    assert signature(SECRET, 1_795_000_000, b"{}") != signature(b"x" * 32, 1_795_000_000, b"{}")


@pytest.mark.parametrize("first", [500, 503, 429, 408, 0])
def test_what_may_pass_later_is_tried_again(first: int) -> None:
    hook = Hook(first, first, 200)
    assert told(hook)
    assert len(hook.got) == 3
    assert {h["X-Sluicegate-Event"] for h, _ in hook.got} == {"ab12"}


def test_it_gives_up_after_the_bound() -> None:
    hook = Hook(500)
    assert not told(hook)
    assert len(hook.got) == ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 404, 410, 301, 302])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    hook = Hook(status, 200, headers={"Location": "/held"})
    assert not told(hook)
    assert len(hook.got) == 1


def test_an_answer_that_never_comes_is_tried_again() -> None:
    hook = Hook(200)
    stuck = asyncio.Event

    async def answer(request: web.Request) -> web.Response:
        hook.got.append((dict(request.headers), b""))
        if len(hook.got) < 3:
            await stuck().wait()
        return web.Response()

    hook._answer = answer  # type: ignore[method-assign]
    assert told(hook, timeout_s=0.05)
    assert len(hook.got) == 3


def test_the_pause_grows_and_retry_after_is_obeyed() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    assert told(Hook(503, 503, 503, 200), sleep=sleep)
    assert [0.0005 * 2**n <= s <= 0.001 * 2**n for n, s in enumerate(slept)] == [True] * 3
    assert told(Hook(429, 200, headers={"Retry-After": "7"}), sleep=sleep)
    assert slept[-1] == 7.0
    assert told(Hook(429, 200, headers={"Retry-After": "999999"}), sleep=sleep)
    assert slept[-1] == webhook.RETRY_AFTER_MAX_S


def test_an_address_that_is_not_allowed_is_not_reached() -> None:
    hook = Hook(200)
    assert not told(hook, egress="hooks.example.com")
    assert hook.got == []


GOOD = {"SLUICEGATE_WEBHOOK_URL": "https://hooks.example.com/held"}


def environ(tmp_path: Path, secret: bytes = SECRET, **more: str) -> dict[str, str]:
    (tmp_path / "secret").write_bytes(secret)
    return {**GOOD, "SLUICEGATE_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"), **more}


def test_settings(tmp_path: Path) -> None:
    assert WebhookSettings.from_env({}) is None
    found = WebhookSettings.from_env(environ(tmp_path, SECRET + b"\n"))
    assert found == WebhookSettings(GOOD["SLUICEGATE_WEBHOOK_URL"], SECRET, False)
    assert "hooks" not in repr(found) and "0123" not in repr(found)
    found = WebhookSettings.from_env(environ(tmp_path, SLUICEGATE_WEBHOOK_CONTENT="TRUE"))
    assert found is not None and found.content


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "x", "http://", "https://user:pass@hooks.example.com/", "http://x:99999/", "http://x:0/"],
)
def test_a_wrong_address_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(Terminal, match="SLUICEGATE_WEBHOOK_URL") as raised:
        WebhookSettings.from_env(environ(tmp_path, SLUICEGATE_WEBHOOK_URL=url))
    assert "pass" not in str(raised.value).replace("password", "")


def test_a_wrong_secret_or_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="SECRET_FILE"):
        WebhookSettings.from_env(GOOD)
    with pytest.raises(Terminal, match="cannot be read"):
        WebhookSettings.from_env({**GOOD, "SLUICEGATE_WEBHOOK_SECRET_FILE": str(tmp_path / "none")})
    for secret in (b"", b"short", b"x" * 5_000):
        with pytest.raises(Terminal, match="openssl rand"):
            WebhookSettings.from_env(environ(tmp_path, secret))
    with pytest.raises(Terminal, match="true or false"):
        WebhookSettings.from_env(environ(tmp_path, SLUICEGATE_WEBHOOK_CONTENT="1"))
