"""Model calls through the gateway with the real `openai` client: responses, tools, repetition, and a client that goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import openai
import pytest

from tests.integration.gate import new_settings, until
from tests.integration.gateway_served import (
    WAITING,
    Served,
    serving,
)

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(new_settings(kafka, tmp_path_factory.mktemp("gateway-models"))) as found:
        yield found


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.gateway.url + "/v1", api_key=served.token(), max_retries=0)


def test_responses(served: Served) -> None:
    async def main() -> None:
        async with client_of(served) as client:
            raw = await client.responses.with_raw_response.create(
                model="model.small", input="hello there", instructions="be short", temperature=0.5, max_output_tokens=50,
                metadata={"mine": "1"}, store=True,
            )  # fmt: skip
            answer = raw.parse()
            assert (answer.output_text, answer.status, answer.model) == (
                "HELLO THERE",
                "completed",
                "small-1-2026",
            )
            assert answer.usage is not None and (answer.usage.input_tokens, answer.usage.total_tokens) == (
                3,
                7,
            )
            about = (answer.model_extra or {})["sluicegate"]
            assert (
                raw.headers["x-sluicegate-intent"] == about["intent_id"]
                and answer.id == f"resp_{about['intent_id']}"
            )
            # The conversation comes whole: what was said, the function that was called, and what it came to.
            called = await client.responses.create(
                model="model.small", input=[{"role": "user", "content": "Rome"}], tools=[WEATHER]
            )  # type: ignore[list-item]
            [call] = called.output
            assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Rome"}
            items = [
                {"role": "user", "content": [{"type": "input_text", "text": "Rome"}]},
                call.model_dump(exclude_none=True),
                {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
            ]
            told = await client.responses.create(model="model.small", input=items)  # type: ignore[arg-type]
            assert told.output_text == "SUNNY"
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await client.responses.create(model="model.small", input="hello", max_output_tokens=5_000)
            assert refused.value.code == "forbidden" and "model-not-that" in str(refused.value.body)
            for more in (
                {"previous_response_id": answer.id}, {"background": True}, {"tools": [{"type": "web_search"}]},
                {"conversation": "c"}, {"truncation": "auto"}, {"input": [{"type": "item_reference", "id": "x"}]},
            ):  # fmt: skip
                with pytest.raises(openai.BadRequestError) as unserved:
                    await client.responses.create(**{"model": "model.small", "input": "hello", **more})
                assert unserved.value.code == "unsupported", more

    served.loop.run(main())


def test_streamed_responses(served: Served) -> None:
    async def events(client: openai.AsyncOpenAI, **asked: object) -> list[object]:
        found = await client.responses.create(model="model.small", stream=True, **asked)  # type: ignore[call-overload]
        return [event async for event in found]

    async def main() -> None:
        async with client_of(served) as client:
            found = await events(client, input="hello there")
            kinds = [e.type for e in found]  # type: ignore[attr-defined]
            assert kinds[:4] == [
                "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
            ]  # fmt: skip
            assert kinds[-4:] == [
                "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
            ]  # fmt: skip
            assert "".join(e.delta for e in found if e.type == "response.output_text.delta") == "HELLO THERE"  # type: ignore[attr-defined]
            assert [e.sequence_number for e in found] == list(range(len(found)))  # type: ignore[attr-defined]
            assert found[-1].response.output_text == "HELLO THERE"  # type: ignore[attr-defined]
            async with client.responses.stream(model="model.small", input="Rome", tools=[WEATHER]) as stream:  # type: ignore[list-item]
                final = await stream.get_final_response()
            [call] = final.output
            assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Rome"}
            with pytest.raises(openai.PermissionDeniedError):
                await events(client, input="hello", max_output_tokens=5_000)

    served.loop.run(main())


def test_chat_tools(served: Served) -> None:
    function = {
        "type": "function",
        "function": {n: WEATHER[n] for n in ("name", "description", "parameters")},
    }

    async def main() -> None:
        async with client_of(served) as client:
            said = [{"role": "user", "content": "Rome"}]
            answer = await client.chat.completions.create(
                model="model.small", messages=said, tools=[function]
            )  # type: ignore[call-overload]
            [call] = answer.choices[0].message.tool_calls
            assert (call.type, call.function.name) == ("function", "weather")
            assert (
                json.loads(call.function.arguments) == {"city": "Rome"}
                and answer.choices[0].finish_reason == "tool_calls"
            )
            more = [
                *said,
                answer.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
            ]
            told = await client.chat.completions.create(model="model.small", messages=more)  # type: ignore[arg-type]
            assert told.choices[0].message.content == "SUNNY"

    served.loop.run(main())


def test_the_same_key_and_body_find_the_first_answer(served: Served) -> None:
    async def main() -> None:
        model = served.gate.service  # the ledger that decides
        assert model is not None
        async with client_of(served) as client:
            for door in ("chat", "responses"):
                before = await calls(served)
                headers = {"Idempotency-Key": "once"}
                answers = []
                for _ in range(2):
                    if door == "chat":
                        said = [{"role": "user", "content": "again"}]
                        raw = await client.chat.completions.with_raw_response.create(
                            model="model.small", messages=said, extra_headers=headers
                        )  # type: ignore[arg-type]
                        answers.append(
                            (raw.headers["x-sluicegate-intent"], raw.parse().choices[0].message.content)
                        )
                    else:
                        response = await client.responses.with_raw_response.create(
                            model="model.small", input="again", extra_headers=headers
                        )
                        answers.append(
                            (response.headers["x-sluicegate-intent"], response.parse().output_text)
                        )
                assert answers[0] == answers[1] and answers[0][1] == "AGAIN"
                assert await calls(served) == before + 1
                with pytest.raises(openai.ConflictError) as conflict:
                    if door == "chat":
                        said = [{"role": "user", "content": "other"}]
                        await client.chat.completions.create(
                            model="model.small", messages=said, extra_headers=headers
                        )  # type: ignore[arg-type]
                    else:
                        await client.responses.create(
                            model="model.small", input="other", extra_headers=headers
                        )
                assert conflict.value.code == "id_conflict"

    served.loop.run(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "more", "error", "code"),
    [
        ("hello", {"max_tokens": 77}, openai.ConflictError, "held"),
        ("broken", {}, openai.InternalServerError, "refused_by_tool"),
        (
            "slowly",
            {"extra_headers": {"x-sluicegate-timeout": "1"}},
            openai.InternalServerError,
            "unavailable",
        ),
    ],
)
def test_the_client_repeats_nothing_that_was_asked(
    said: str,
    more: dict[str, object],
    error: type[openai.APIStatusError],
    code: str,
    stream: bool,
    served: Served,
) -> None:
    """With the retries that the real client makes by default: 409 and 5xx, without a key, so that each were a call of its own."""

    async def main() -> None:
        counts = served.gateway.gate.counts
        before = counts.total()
        async with openai.AsyncOpenAI(base_url=served.gateway.url + "/v1", api_key=served.token()) as client:
            assert client.max_retries == 2
            with pytest.raises(error) as told:
                messages = [{"role": "user", "content": said}]
                await client.chat.completions.create(
                    model="model.small", messages=messages, stream=stream, **more
                )  # type: ignore[call-overload]
        assert told.value.code == code and counts.total() == before + 1
        for waiting in WAITING:
            waiting.set()
        WAITING.clear()

    served.loop.run(main())


def test_requests_that_are_sent_again(served: Served) -> None:
    async def main() -> None:
        key = {"Idempotency-Key": "k-1"}
        first = await served.call("POST", "/v1/sessions", {"goal": "a"}, **key)
        again = await served.call("POST", "/v1/sessions", {"goal": "a"}, **key)
        assert first[:2] == again[:2] and first[0] == 201
        assert (await served.call("POST", "/v1/sessions", {"goal": "b"}, **key))[0] == 409
        session = str(first[1]["session_id"])
        path = f"/v1/sessions/{session}/messages"
        assert [(await served.call("POST", path, {"text": "pay"}, **key))[0] for _ in range(2)] == [200, 200]
        assert (await served.call("POST", path, {"text": "pay all"}, **key))[0] == 409
        await served.gate.caught_up()
        heard = [
            e for _, e in served.gate.events if e.header.session_id == session and e.header.status == "heard"
        ]
        assert len(heard) == 1
        # Held: the second request is told so, too, and at once.
        ask = {"session_id": session, "tool": "desk.ask", "arguments": {}}
        held = [await served.call("POST", "/v1/intents", ask, **key) for _ in range(2)]
        assert [h[0] for h in held] == [202, 202] and held[0][1]["intent_id"] == held[1][1]["intent_id"]
        # Refused: the same reason again, and nothing is decided anew.
        no = {
            "session_id": session,
            "tool": "desk.pay",
            "arguments": {"value": "no"},
            "intent_id": f"{session}-no",
        }
        refused = [await served.call("POST", "/v1/intents", no) for _ in range(2)]
        assert [r[1]["error"]["code"] for r in refused] == ["forbidden", "forbidden"]  # type: ignore[index]
        # Nobody waits: a conflict is told all the same.
        later = {
            **ask,
            "tool": "desk.pay",
            "arguments": {"value": "6"},
            "wait": False,
            "intent_id": f"{session}-later",
        }
        assert (await served.call("POST", "/v1/intents", later))[0] == 202
        assert (await served.call("POST", "/v1/intents", {**later, "arguments": {"value": "9"}}))[0] == 409
        two = await served.call("POST", "/v1/intents", no, **{"Idempotency-Key": "another"})
        assert two[0] == 400

    served.loop.run(main())


def test_asked_twice_at_once(served: Served) -> None:
    async def main() -> None:
        before = await calls(served)
        body = {"model": "model.small", "messages": [{"role": "user", "content": "slowly"}]}
        key = {"Idempotency-Key": "both"}
        both = [
            asyncio.create_task(served.call("POST", "/v1/chat/completions", body, **key)) for _ in range(2)
        ]
        await until(lambda: WAITING, "the model is asked")
        other = {**body, "messages": [{"role": "user", "content": "other"}]}
        conflict = await served.call("POST", "/v1/chat/completions", other, **key)
        assert conflict[0] == 409 and not any(task.done() for task in both)  # it is nobody else's answer
        WAITING.pop().set()
        first, second = await asyncio.gather(*both)
        assert first[0] == second[0] == 200 and first[1]["choices"] == second[1]["choices"]
        assert await calls(served) == before + 1

    served.loop.run(main())


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    async def main() -> None:
        gate = served.gateway.gate
        for path in ("/v1/chat/completions", "/v1/responses"):
            body = {"model": "model.small", "stream": True, "input": "slowly"}
            if path.endswith("completions"):
                body = {
                    "model": "model.small",
                    "stream": True,
                    "messages": [{"role": "user", "content": "slowly"}],
                }
            ident = f"gone{path.replace('/', '-')}"
            headers = {"Authorization": f"Bearer {served.token()}", "x-sluicegate-intent": ident}
            async with aiohttp.ClientSession() as client:
                asking = asyncio.create_task(
                    client.post(served.gateway.url + path, json=body, headers=headers)
                )
                await until(lambda: WAITING, "the model is asked")
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: not gate.under_way and not gate.under_way_of, "nobody waits at the door")
            await until(
                lambda: not any(len(a.inbox) for a in gate.hub._askers.values()), "nobody waits for the reply"
            )
            WAITING.pop().set()
            await until(lambda ident=ident: "released" in served.gate.life(ident), "the call is settled")  # type: ignore[misc]
            told = await served.call("GET", f"/v1/intents/{ident}?wait_s=20")
            assert (told[0], told[1]["status"]) == (200, "released")

    served.loop.run(main())


async def calls(served: Served) -> int:
    """Model calls that were dispatched so far."""
    await served.gate.caught_up()
    return sum(1 for _, e in served.gate.events if e.header.status == "dispatched")


def test_the_ledger_stays_intact(served: Served) -> None:
    served.loop.run(served.gate.intact())
