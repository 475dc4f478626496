"""The executors' endpoint for tools that call back: tokens, bodies, bounds, and what it never says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.executors.artifact_keeper import Keeper
from sluicegate.executors.callback_tokens import MAX_TOKEN_CHARS, Tokens
from sluicegate.executors.callbacks import PATH, Address, Callbacks, address_from
from sluicegate.executors.calls import Keep
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Receipt
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.archive.artifacts import FolderArtifacts, fetch

from tests.executor_fakes import dispatch
from tests.unit.test_artifacts import TOOL, Gates
from tests.unit.test_artifacts import files as artifact_files

KEY = b"k" * 32
ONE = dispatch(1, agent="agent-1", attempt=2)


def test_a_token_is_of_one_attempt_of_one_call_in_one_environment() -> None:
    tokens = Tokens(KEY, "prod")
    token = tokens.make(ONE)
    called = tokens.open(token)
    assert called is not None
    assert (called.dispatch_id, called.intent_id, called.agent_id, called.attempt) == (
        ONE.dispatch_id, ONE.intent_id, ONE.agent_id, 2
    )  # fmt: skip
    assert Tokens(KEY, "prod").open(token) == called, "an executor that was restarted knows it"
    assert Tokens(KEY, "test").open(token) is None
    assert Tokens(b"x" * 32, "prod").open(token) is None
    with pytest.raises(Terminal):
        Tokens(b"short", "prod")


@given(st.integers(0, 200), st.sampled_from("ABC-_9"))
def test_a_changed_token_opens_nothing(at: int, letter: str) -> None:
    tokens = Tokens(KEY, "prod")
    token = tokens.make(ONE)
    changed = token[: at % len(token)] + letter + token[at % len(token) + 1 :]
    assert changed == token or tokens.open(changed) is None or tokens.open(changed) == tokens.open(token)


@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str) -> None:
    assert Tokens(KEY, "prod").open(text) is None


def test_tokens_are_bounded() -> None:
    assert Tokens(KEY, "prod").open("a" * (MAX_TOKEN_CHARS + 1)) is None
    with pytest.raises(ValueError, match="too long"):
        Tokens(KEY, "prod").make(
            replace(dispatch(1, agent="😀" * 256, intent_id="😀" * 256), session_id="😀" * 256)
        )


Post = Callable[[str, object], Awaitable[tuple[int, str]]]


def serving(
    scenario: Callable[[Callbacks, Post], Awaitable[None]], keep: Keep | None = None
) -> list[Receipt]:
    """Run against an endpoint on loopback; the receipts it sent."""
    sent: list[Receipt] = []

    async def send(receipt: Receipt) -> None:
        sent.append(receipt)

    async def main() -> None:
        callbacks = Callbacks(Address("http://here", "127.0.0.1", 0, KEY), "prod", "one", lambda: 5, keep)
        await callbacks.start(send)
        async with aiohttp.ClientSession() as session:

            async def post(token: str, body: object) -> tuple[int, str]:
                url = f"http://127.0.0.1:{callbacks.port}{PATH}{token}"
                data = {"data": body} if isinstance(body, bytes) else {"json": body}
                async with session.post(url, **data) as response:  # type: ignore[arg-type]
                    return response.status, await response.text()

            await scenario(callbacks, post)
        await callbacks.stop()

    asyncio.run(main())
    return sent


def token_of(callbacks: Callbacks) -> str:
    return callbacks.url_for(ONE).removeprefix("http://here" + PATH)


def test_an_end_and_a_sign_of_life_become_receipts() -> None:
    async def scenario(callbacks: Callbacks, post: Post) -> None:
        token = token_of(callbacks)
        for body in ({"state": "running"}, {"result": {"a": 1}}, {"error": "no money"}, {"result": None}):
            assert (await post(token, body))[0] == 202
        assert callbacks.taken == 4

    running, finished, failed, none = serving(scenario)
    assert (running.kind, running.error_class, running.attempt) == ("progress", "", 2)
    assert (finished.kind, finished.result, finished.dispatch_id) == ("finished", b'{"a":1}', ONE.dispatch_id)
    assert (failed.kind, failed.error_class) == ("failed", "refused_by_tool")
    assert "no money" in failed.error
    assert none.result == b"null"


def test_a_wrong_token_is_counted_and_writes_nothing() -> None:
    async def scenario(callbacks: Callbacks, post: Post) -> None:
        for wrong in ("x", token_of(callbacks)[:-2], "%00"):
            assert (await post(wrong, {"result": 1}))[0] == 404
        assert (callbacks.wrong, callbacks.taken) == (3, 0)

    assert serving(scenario) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ([], 400),
        ({}, 400),
        ({"result": 1, "error": ""}, 400),
        ({"other": 1}, 400),
        ({"result": "x" * MAX_RESULT_BYTES}, 400),
        ({"result": "x" * 2 * MAX_RESULT_BYTES}, 413),
    ],
)
def test_a_body_that_says_nothing_usable(body: object, status: int) -> None:
    async def scenario(callbacks: Callbacks, post: Post) -> None:
        assert (await post(token_of(callbacks), body))[0] == status

    assert serving(scenario) == []


def test_a_large_result_is_validated_and_stored_where_the_contract_lets_it(tmp_path: Path) -> None:
    executor = {"kind": "http", "url": "http://tools.invalid/report"}
    compiled = compile_release(artifact_files(completion="callback", job_limit_s=600, executor=executor))
    tool = compiled.tools[TOOL]
    one = replace(ONE, tool=TOOL, executor=tool.executor, release=compiled.digest)
    good, bad = {"text": "x" * 200_000, "secret": "1234"}, {"secret": "x" * 200_000}
    store = FolderArtifacts(tmp_path / "there")

    async def scenario(callbacks: Callbacks, post: Post) -> None:
        token = callbacks.url_for(one).rpartition("/")[2]
        assert (await post(token, {"result": good}))[0] == 202
        assert (await post(token, {"result": bad}))[0] == 202
        assert (await post(token, {"result": {"text": "short"}}))[0] == 202
        assert (await post(token_of(callbacks), {"result": good}))[0] == 413, "its contract does not say so"

    stored, withheld, short = serving(scenario, Keeper(store, Gates(compiled)).keep)
    assert stored.kind == "stored"
    content = asyncio.run(fetch(store, orjson.loads(stored.result or b"")))
    assert orjson.loads(content) == {"text": "x" * 200_000, "secret": "[redacted]"}
    assert (withheld.kind, withheld.error_class, withheld.result) == ("failed", "malformed_result", None)
    assert (short.kind, short.result) == ("finished", b'{"text":"short"}')
    (tmp_path / "file").write_text("no folder")

    async def away(callbacks: Callbacks, post: Post) -> None:
        token = callbacks.url_for(one).rpartition("/")[2]
        assert (await post(token, {"result": good}))[0] == 503, "the tool comes again"

    assert serving(away, Keeper(FolderArtifacts(tmp_path / "file"), Gates(compiled)).keep) == []


def test_no_token_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    found: list[str] = []

    async def scenario(callbacks: Callbacks, post: Post) -> None:
        token = token_of(callbacks)
        found.append(token)
        for body in ({"result": token}, b"{", {"error": token}):
            assert token not in (await post(token, body))[1]
        assert (await post(token[:-4] + "AAAA", {"result": 1}))[0] == 404

    sent = serving(scenario)
    assert found[0][:40] not in caplog.text
    assert all(found[0] not in f"{receipt}" for receipt in sent)
    assert sent[0].result == b'"***"'


def test_kafka_away_is_said_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.executors.callbacks.TAKE_LIMIT_S", 0.05)

    async def scenario(callbacks: Callbacks, post: Post) -> None:
        async def never(_: Receipt) -> None:
            await asyncio.Event().wait()

        callbacks._send = never
        assert (await post(token_of(callbacks), {"result": 1}))[0] == 503
        assert callbacks.taken == 0

    assert serving(scenario) == []


def test_where_it_listens_is_read_from_the_environment() -> None:
    def read(**values: str) -> Address | None:
        return asyncio.run(
            address_from({f"SLUICEGATE_CALLBACK_{k}": v for k, v in values.items()} | {"S": "s" * 40})
        )

    assert read() is None
    assert read(URL="https://a.example/x/", KEY="env:S") == Address(
        "https://a.example/x", "127.0.0.1", 8095, b"s" * 40
    )
    for wrong in (
        {"URL": "ftp://a", "KEY": "env:S"},
        {"URL": "https://a"},
        {"URL": "https://a", "KEY": "env:NONE"},
        {"URL": "https://a", "KEY": "env:S", "LISTEN": "8080"},
    ):
        with pytest.raises(Terminal):
            read(**wrong)
