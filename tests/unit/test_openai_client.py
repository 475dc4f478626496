"""The real `openai` client beside the adapter: both ask the same server the same, and read the same out of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import openai
import orjson
import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter

from tests.executor_fakes import dispatch
from tests.servers.faults import Journal
from tests.servers.model_server import model_server
from tests.stream_fakes import MemoryOutlet
from tests.unit.test_model_adapter import TOOLS, called, say

Completion = openai.types.chat.ChatCompletion


def both(
    text: str, options: dict[str, object], fault: str = "ok", **executor: object
) -> tuple[Completion | openai.APIStatusError, Answer, Journal]:
    """What the client and the adapter make of one question."""
    journal = Journal()
    messages = [{"role": "user", "content": text}]

    async def main() -> tuple[Completion | openai.APIStatusError, Answer]:
        async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            base = f"http://{place}/{fault}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key="sk-test", max_retries=0) as client:
                create: Callable[..., Awaitable[Completion]] = client.chat.completions.create
                theirs: Completion | openai.APIStatusError
                try:
                    theirs = await create(model="small", messages=messages, **options)
                except openai.APIStatusError as error:
                    theirs = error
            adapter = ModelAdapter(Egress(place), {})
            contract = {"kind": "model", "url": base, "model": "small", **executor}
            try:
                work = dispatch(
                    1, executor=orjson.dumps(contract), tool_class="read_only",
                    arguments=orjson.dumps({"messages": messages, **options}),
                )  # fmt: skip
                return theirs, await adapter.call(work, 5.0)
            finally:
                await adapter.close()

    theirs, ours = asyncio.run(main())
    return theirs, ours, journal


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("one two three", {"temperature": 0.5, "max_tokens": 2}),
        ("{}", {"response_format": {"type": "json_object"}, "seed": 7}),
        (called("look", '{"n": 1}'), {"tools": TOOLS, "tool_choice": "auto"}),
        (say(message={"role": "assistant", "content": None, "refusal": "no"}), {}),
    ],
)
def test_both_read_the_same(text: str, options: dict[str, object]) -> None:
    theirs, ours, journal = both(text, options)
    assert isinstance(theirs, openai.types.chat.ChatCompletion) and isinstance(ours, Finished)
    choice, answer = theirs.choices[0], orjson.loads(ours.result)
    assert answer["text"] == (choice.message.content or choice.message.refusal or "")
    assert answer["finish_reason"] == choice.finish_reason
    assert answer["served_model"] == theirs.model
    assert theirs.usage is not None
    assert answer["usage"] == {
        "input_tokens": theirs.usage.prompt_tokens, "output_tokens": theirs.usage.completion_tokens,
    }  # fmt: skip
    calls = [c for c in choice.message.tool_calls or [] if c.type == "function"]
    assert answer["tool_calls"] == [
        {"id": c.id, "name": c.function.name, "arguments": orjson.loads(c.function.arguments)} for c in calls
    ]
    their_body, our_body = journal.bodies
    assert isinstance(their_body, dict) and isinstance(our_body, dict)
    added = {"n": 1, "stream": False, "max_tokens": our_body["max_tokens"]}
    assert our_body == {**added, **their_body}, "the adapter asks what the client asks, within its bounds"


def test_both_read_the_same_probabilities() -> None:
    _, ours, _ = both(say(logprob=-0.5), {"logprobs": True}, logprobs=True)
    assert isinstance(ours, Failed), "a call cannot ask for what its contract does not"
    _, ours, _ = both(say(logprob=-0.5), {}, logprobs=True)
    assert isinstance(ours, Finished) and orjson.loads(ours.result)["confidence"] == 0.607


@pytest.mark.parametrize(
    ("fault", "error", "error_class"),
    [
        ("status=429,retry_after=3", openai.RateLimitError, "rate_limit"),
        ("status=401", openai.AuthenticationError, "authentication"),
        ("status=500", openai.InternalServerError, "server_error"),
        ("status=503", openai.InternalServerError, "overload"),
        ("status=400,code=context_length_exceeded", openai.BadRequestError, "context_length"),
        ("status=400,code=content_filter", openai.BadRequestError, "content_policy"),
    ],
)
def test_both_tell_refusals_apart(fault: str, error: type[openai.APIStatusError], error_class: str) -> None:
    theirs, ours, _ = both("x", {}, fault)
    assert type(theirs) is error
    assert isinstance(ours, Failed) and ours.error_class == error_class


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("one two. three", {"max_tokens": 2}),
        (called("look", '{"n": 12345}'), {"tools": TOOLS}),
        (say(message={"role": "assistant", "content": None, "refusal": "no"}), {}),
    ],
)
def test_both_read_the_same_stream(text: str, options: dict[str, object]) -> None:
    journal, outlet = Journal(), MemoryOutlet()
    messages = [{"role": "user", "content": text}]

    async def main() -> tuple[list[openai.types.chat.ChatCompletionChunk], Answer]:
        async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            base = f"http://{place}/ok/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key="sk-test", max_retries=0) as client:
                create: Callable[..., Awaitable[openai.AsyncStream[openai.types.chat.ChatCompletionChunk]]]
                create = client.chat.completions.create
                usage = {"include_usage": True}
                stream = await create(
                    model="small", messages=messages, stream=True, stream_options=usage, **options
                )
                theirs = [chunk async for chunk in stream]
            adapter = ModelAdapter(Egress(place), {}, outlet=outlet)
            work = dispatch(
                1, executor=orjson.dumps({"kind": "model", "url": base, "model": "small"}), tool_class="read_only",
                arguments=orjson.dumps({"messages": messages, **options}),
            )  # fmt: skip
            work.stream = "open"
            try:
                return theirs, await adapter.call(work, 5.0)
            finally:
                await adapter.close()

    theirs, ours = asyncio.run(main())
    assert isinstance(ours, Finished)
    answer = orjson.loads(ours.result)
    deltas = [choice.delta for chunk in theirs for choice in chunk.choices]
    said = "".join((d.content or "") + (d.refusal or "") for d in deltas)
    assert answer["text"] == outlet.text == said
    parts = [c.function.arguments or "" for d in deltas for c in d.tool_calls or [] if c.function]
    assert "".join(p.text for p in outlet.pieces if p.kind == "call") == "".join(parts)
    usage = theirs[-1].usage
    assert usage is not None
    assert list(answer["usage"].values()) == [usage.prompt_tokens, usage.completion_tokens]
    their_body, our_body = journal.bodies
    assert isinstance(their_body, dict) and isinstance(our_body, dict)
    assert our_body == {"n": 1, "max_tokens": our_body["max_tokens"], **their_body}
