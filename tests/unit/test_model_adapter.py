"""The model adapter against a real OpenAI-compatible server on loopback that fails on purpose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import orjson
import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter

from tests.executor_fakes import dispatch
from tests.servers.faults import Journal
from tests.servers.model_server import model_server
from tests.unit import secret_vault

CANARY = "sk-canary-5f2c9e7b"
FROM = {"SLUICEGATE_SECRETS_FROM": "vault=tests.unit.secret_vault:vault"}
DATED = "gpt-4.1-2025-04-14"


class Model:
    """A server and an adapter that may reach it."""

    def __init__(self) -> None:
        self.journal = Journal()

    def run(self, scenario: Callable[[Model], Awaitable[None]]) -> Journal:
        async def main() -> None:
            async with TestServer(model_server(self.journal).app, host="127.0.0.1") as server:
                place = f"127.0.0.1:{server.port}"
                names = {"MODELS": f"http://{place}"}
                self.adapter = ModelAdapter(Egress(place), names, environ={**FROM, "MODEL_KEY": CANARY})
                try:
                    await scenario(self)
                finally:
                    await self.adapter.close()

        asyncio.run(main())
        return self.journal

    async def ask(
        self, text: str = "one two three", fault: str = "ok", timeout_s: float = 2.0,
        tool_class: str = "read_only", options: dict[str, object] | None = None, **executor: object,
    ) -> Answer:  # fmt: skip
        contract = {
            "kind": "model", "url": f"${{MODELS}}/{fault}/v1", "model": "small", "api_key": "env:MODEL_KEY", **executor,
        }  # fmt: skip
        arguments = {"messages": [{"role": "user", "content": text}], **(options or {})}
        work = dispatch(
            1, executor=orjson.dumps(contract), arguments=orjson.dumps(arguments), tool_class=tool_class
        )
        return await self.adapter.call(work, timeout_s)


def ask(**more: object) -> tuple[Answer, Journal]:
    """One question."""
    answers: list[Answer] = []

    async def scenario(model: Model) -> None:
        answers.append(await model.ask(**more))  # type: ignore[arg-type]

    journal = Model().run(scenario)
    return answers[0], journal


def said(answer: Answer) -> dict[str, object]:
    assert isinstance(answer, Finished), answer
    value = orjson.loads(answer.result)
    assert isinstance(value, dict)
    return value


def say(**parts: object) -> str:
    return "say:" + orjson.dumps(parts).decode()


def test_a_completion_is_normalised() -> None:
    answer, journal = ask(options={"temperature": 0, "stop": ["x"]})
    assert said(answer) == {
        "text": "one two three",
        "tool_calls": [],
        "finish_reason": "stop",
        "served_model": "small",
        "usage": {"input_tokens": 3, "output_tokens": 3},
    }
    assert journal.bodies == [
        {
            "model": "small", "messages": [{"role": "user", "content": "one two three"}], "stop": ["x"],
            "temperature": 0, "max_tokens": 1_024, "n": 1, "stream": False,
        }
    ]  # fmt: skip
    headers = journal.headers[0]
    assert headers["Authorization"] == f"Bearer {CANARY}"
    assert headers["Idempotency-Key"] == "key-agent-1-1"


def test_its_key_comes_from_a_vault_too() -> None:
    answer, journal = ask(api_key="${secret:vault:payments/key}")
    assert isinstance(answer, Finished)
    assert journal.headers[0]["Authorization"] == f"Bearer {secret_vault.CANARY}"


def test_headers_that_a_server_wants_beside_its_key_or_instead_of_it() -> None:
    headers = {
        "OpenAI-Organization": "acme",
        "api-key": "${secret:env:MODEL_KEY}",
        "Authorization": "Basic mine",
    }
    _, journal = ask(headers=headers)
    sent = journal.headers[0]
    assert (sent["Openai-Organization"], sent["Api-Key"]) == ("acme", CANARY)
    assert sent["Authorization"] == f"Bearer {CANARY}", "`api_key` is what counts where both are said"
    answer, journal = ask(text=say(message={"content": f"the key is {CANARY}"}), headers=headers, api_key="")
    assert journal.headers[0]["Authorization"] == "Basic mine"
    assert CANARY not in str(answer) and "***" in str(answer)


def test_an_address_with_a_query() -> None:
    answer, journal = ask(url="${MODELS}/ok/deployments/small?api-version=2024-10-21")
    assert isinstance(answer, Finished)
    assert journal.paths == ["/ok/deployments/small/chat/completions?api-version=2024-10-21"]


@pytest.mark.parametrize(
    ("contract", "wanted", "asked"),
    [(None, None, 1_024), (2, None, 2), (2, 50, 2), (50, 2, 2), (2, 2, 2), (None, 5_000, 1_024)],
)
def test_max_tokens(contract: int | None, wanted: int | None, asked: int) -> None:
    executor = {} if contract is None else {"max_tokens": contract}
    answer, journal = ask(options={} if wanted is None else {"max_tokens": wanted}, **executor)
    assert journal.bodies[0]["max_tokens"] == asked  # type: ignore[index]
    assert said(answer)["finish_reason"] == ("length" if asked < 3 else "stop")
    _, journal = ask(tokens_name="max_completion_tokens", **executor)
    assert "max_tokens" not in journal.bodies[0]  # type: ignore[operator]


@pytest.mark.parametrize(
    "options",
    [{"model": "large"}, {"n": 5}, {"stream": True}, {"max_completion_tokens": 9_999}, {"max_tokens": 0},
     {"max_tokens": "9"}, {"max_tokens": True}],
)  # fmt: skip
def test_a_call_cannot_choose_what_the_contract_chose(options: dict[str, object]) -> None:
    answer, journal = ask(options=options)
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("crashed", False)
    assert not journal.requests


@pytest.mark.parametrize(
    "executor",
    [{"model": ""}, {"model": 7}, {"api_key": 7}, {"api_key": CANARY}, {"api_key": "env:NOT_SET"}, {"max_tokens": 0},
     {"api_key": "name:password-of-a-server"}, {"api_key": "${secret:vault:no-such}"}, {"headers": {"Host": "x"}},
     {"headers": {"X-Key": "${secret:env:NOT_SET}"}},
     {"max_tokens": True}, {"pinned": 1}, {"tokens_name": "n"}, {"url": "${MODELS}/{text}/v1"}, {"url": "ftp://x"}],
)  # fmt: skip
def test_a_contract_that_makes_no_request(executor: dict[str, object]) -> None:
    answer, journal = ask(**executor)
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("crashed", False)
    assert not journal.requests


def test_an_address_off_the_egress_list() -> None:
    answer, _ = ask(url="http://127.0.0.2:80/v1")
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("egress_denied", False)


def test_tools_and_json_mode_pass_through() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": [1]}'}}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    text = say(
        message={"role": "assistant", "content": None, "tool_calls": calls}, finish_reason="tool_calls"
    )
    answer, journal = ask(
        text=text, options={"tools": tools, "tool_choice": "auto", "response_format": {"type": "json_object"}}
    )
    assert said(answer)["tool_calls"] == [{"id": "c1", "name": "look", "arguments": {"a": [1]}}]
    assert (said(answer)["text"], said(answer)["finish_reason"]) == ("", "tool_calls")
    body = journal.bodies[0]
    assert isinstance(body, dict)
    assert (body["tools"], body["tool_choice"]) == (tools, "auto")
    answer, _ = ask(text='{"a": 1}', options={"response_format": {"type": "json_object"}})
    assert said(answer)["text"] == '{"a": 1}'


MESSAGE = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("no json", {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}),
        (say(choices=[]), {}),
        (say(choices=[{"message": MESSAGE}, {"message": MESSAGE}]), {}),
        (say(choices=[{}]), {}),
        (say(message={"content": [1]}), {}),
        (say(message={"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}), {}),
        (say(message={"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}), {}),
        (say(message={"content": None, "tool_calls": [{"function": {}}]}), {}),
        (say(message={"content": None, "tool_calls": 7}), {}),
    ],
)
def test_a_malformed_completion(text: str, options: dict[str, object]) -> None:
    answer, _ = ask(text=text, options=options)
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("malformed_result", True)


def test_a_large_answer_where_the_contract_lets_it() -> None:
    text = "word " * 60_000
    answer, _ = ask(text=text, max_result_bytes=1_000_000, max_tokens=100_000)
    assert said(answer)["text"] == text.strip()
    answer, _ = ask(text=text, max_tokens=100_000)
    assert isinstance(answer, Failed) and answer.error_class == "result_too_large"


def test_tokens_that_the_server_did_not_count_are_unknown_not_none() -> None:
    answer, _ = ask(text=say(usage={"prompt_tokens": "many"}))
    assert said(answer)["usage"] == {"input_tokens": None, "output_tokens": None}


@pytest.mark.parametrize(
    ("executor", "served", "passes"),
    [
        ({"model": "gpt-4.1"}, "gpt-4.1-2025-04-14", True),
        ({"model": DATED}, DATED, True),
        ({"model": DATED}, "gpt-4.1-2026-01-01", False),
        ({"model": DATED}, None, False),
        ({"model": "claude-x-20250514"}, "claude-x-20260101", False),
        ({"model": DATED, "pinned": ""}, "another", True),
        ({"model": "gpt-4.1", "pinned": DATED}, DATED, True),
        ({"model": "gpt-4.1", "pinned": DATED}, "gpt-4.1", False),
    ],
)
def test_another_model_than_the_pinned_one(
    executor: dict[str, object], served: str | None, passes: bool
) -> None:
    answer, _ = ask(text=say(model=served, message={"content": "the secret answer"}), **executor)
    if passes:
        assert said(answer)["served_model"] == served
        return
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("model_changed", True)
    assert "the secret answer" not in answer.error


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status=429", "rate_limit 429"), ("status=503", "overload 503"), ("status=529", "overload 529"),
        ("status=500", "server_error 500"), ("status=401", "authentication 401"),
        ("status=400", "invalid_request 400"), ("status=400,code=context_length_exceeded", "context_length 400"),
        ("status=400,code=content_filter", "content_policy 400"), ("status=302", "refused 302"),
    ],
)  # fmt: skip
def test_a_refusal_names_its_kind(fault: str, kind: str) -> None:
    answer, _ = ask(fault=fault)
    assert isinstance(answer, Failed)
    word = kind.split()[0]
    assert answer.error_class == (word if word not in ("invalid_request", "refused") else "refused_by_tool")
    assert answer.error.startswith(kind + ":")


def test_a_server_that_asks_to_wait() -> None:
    answer, _ = ask(fault="status=429,retry_after=7")
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.retry_after_ms) == ("rate_limit", 7_000)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]


def called(name: str, arguments: str) -> str:
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]
    return say(
        message={"role": "assistant", "content": None, "tool_calls": calls}, finish_reason="tool_calls"
    )


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ('{"n": 1}', {"response_format": FORM}, ""),
        ('{"n": "x"}', {"response_format": FORM}, "`n`"),
        ("{}", {"response_format": FORM}, "required"),
        ("[]", {"response_format": {"type": "json_object"}}, "json object"),
        (called("look", '{"n": 1}'), {"tools": TOOLS}, ""),
        (called("look", '{"n": 1.5}'), {"tools": TOOLS}, "arguments of `look`"),
        (called("leap", "{}"), {"tools": TOOLS}, "not one of the tools"),
        (
            called("look", "{}"),
            {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"$ref": "http://x.invalid/"}}}]},
            "",
        ),
    ],
)  # fmt: skip
def test_an_answer_is_held_to_what_was_asked_for(text: str, options: dict[str, object], words: str) -> None:
    answer, _ = ask(text=text, options=options)
    if not words:
        assert isinstance(answer, Finished), answer
        return
    assert isinstance(answer, Failed)
    assert answer.error_class == "malformed_result" and words in answer.error


def test_how_sure_a_model_was_is_asked_for_by_the_contract() -> None:
    answer, journal = ask(text=say(logprob=-0.5), logprobs=True)
    assert said(answer)["confidence"] == 0.607
    assert journal.bodies[0]["logprobs"] is True  # type: ignore[index]
    answer, _ = ask(text=say(logprob=0.5), logprobs=True)
    assert said(answer)["confidence"] is None, "no logarithm of a probability"
    answer, _ = ask(options={})
    assert "confidence" not in said(answer)


def test_a_changed_model_alarms(caplog: pytest.LogCaptureFixture) -> None:
    ask(text=say(model="another"), model=DATED)
    assert [r.message for r in caplog.records if "alarm" in r.message and DATED in r.message]


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        ("wrong_json", "malformed_result"), ("cut", "unreachable"), ("acts_then_drops", "unreachable"),
        ("never", "timeout"), ("slow,wait_s=5", "timeout"), ("huge", "result_too_large"),
    ],
)  # fmt: skip
def test_faults(fault: str, error_class: str) -> None:
    answer, journal = ask(fault=fault, timeout_s=0.3)
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == (error_class, True)
    assert sum(journal.requests.values()) == 1
    assert journal.sent_bytes < 64 * 1024 * 1024  # of 2 GB


def test_retries_where_the_contract_allows_them() -> None:
    answer, journal = ask(fault="status=429,retry_after=0,times=2", retries=2)
    assert said(answer)["text"] == "one two three"
    assert list(journal.requests.values()) == [3]
    answer, journal = ask(fault="status=429,retry_after=0,times=2")
    assert isinstance(answer, Failed)
    assert list(journal.requests.values()) == [1]


def test_the_key_is_in_no_answer_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answer, _ = ask(text=f"echo {CANARY}")
    assert said(answer)["text"] == "echo ***"
    for more in ({"fault": "status=500"}, {"fault": "acts_then_drops"}, {"model": DATED}):
        failed, _ = ask(text=say(model=CANARY), **more)
        assert isinstance(failed, Failed) and CANARY not in failed.error
    assert CANARY not in caplog.text
