"""Secrets from a function of the operator's own: asked at each call, bounded, and never told to anybody."""

from __future__ import annotations

import asyncio
import logging
import time

import orjson
import pytest
from sluicegate.executors import secret_plugins
from sluicegate.executors.adapter import Failed, Finished
from sluicegate.executors.secret_refs import NoSecret, fetch

from tests.unit.secret_vault import CANARY, asked, hang
from tests.unit.test_http_adapter import Tool, answering

FROM = {secret_plugins.VARIABLE: "vault=tests.unit.secret_vault:vault, odd=tests.unit.secret_vault:odd"}


def test_it_is_asked_for_what_stands_behind_its_kind_at_every_call() -> None:
    asked.clear()
    for _ in range(2):
        assert asyncio.run(fetch("vault:payments/key", FROM)) == CANARY
    assert asked == ["payments/key"] * 2


@pytest.mark.parametrize(
    "reference",
    ["vault:no-such", "vault:", "odd:7", "odd:raises", "safe:x", "env:", "file:relative", "vault", ""],
)
def test_no_secret_is_said_by_its_name_only(reference: str) -> None:
    with pytest.raises(NoSecret) as caught:
        asyncio.run(fetch(reference, FROM))
    assert CANARY not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text", ["vault", "vault=no-function", "env=a.b:c", "file=a.b:c", "V=a:b", "vault=a.b:c d=e"]
)
def test_the_variable_must_mean_something(text: str) -> None:
    with pytest.raises(NoSecret, match="write `kind="):
        asyncio.run(fetch("vault:payments/key", {secret_plugins.VARIABLE: text}))


def test_one_that_hangs_is_given_up_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_plugins, "LIMIT_S", 0.05)
    hang.clear()

    async def scenario() -> None:
        before = time.monotonic()
        for _ in range(secret_plugins.MAX_THREADS):
            with pytest.raises(NoSecret, match="did not answer"):
                await fetch("vault:hangs", FROM)
        assert time.monotonic() - before < 15
        with pytest.raises(NoSecret, match="questions open"):
            await fetch("vault:payments/key", FROM)
        hang.set()
        while True:  # the threads end
            try:
                assert await fetch("vault:payments/key", FROM) == CANARY
                return
            except NoSecret:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_it_reaches_the_tool_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tool = Tool(answering(body=orjson.dumps({"your key": CANARY})), FROM)
    answers: list[object] = []

    async def scenario(_: Tool) -> None:
        answers.append(await tool.call(headers={"X-Key": "${secret:vault:payments/key}"}))
        answers.append(await tool.call(headers={"X-Key": "${secret:vault:no-such}"}))

    tool.run(scenario)
    good, bad = answers
    assert isinstance(good, Finished) and b"***" in good.result and CANARY.encode() not in good.result
    assert isinstance(bad, Failed) and not bad.sent
    assert [request.headers["X-Key"] for request in tool.requests] == [CANARY]
    assert CANARY not in caplog.text and CANARY not in bad.error
