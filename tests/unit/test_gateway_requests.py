"""What a gateway makes of a request's body and headers: repetitions, and OpenAI's Responses API; whatever is in them, it is told in words."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from sluicegate.gateway import openai_shapes
from sluicegate.gateway.repeats import once
from sluicegate.gateway.responses_input import arguments_of, messages_of
from sluicegate.streams.sdk.errors import Refused
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.once import Once


def repeated(body: dict[str, Json], *keys: str, door: str = "intent", named: str = "") -> Once:
    headers = CIMultiDict([("Idempotency-Key", key) for key in keys])
    return once(make_mocked_request("POST", "/", headers=headers), door, body, named)


def test_a_key_and_what_is_asked_for() -> None:
    first = repeated({"tool": "pay", "arguments": {"a": 1, "b": 2}}, "k")
    assert first == repeated(
        {"arguments": {"b": 2, "a": 1}, "tool": "pay", "wait": False, "timeout_s": 3}, "k"
    )
    assert (
        first.ident == repeated({"tool": "other"}, "k").ident
        and first.request != repeated({"tool": "other"}, "k").request
    )
    assert (
        first.ident
        != repeated({"tool": "pay"}, "k2").ident
        != repeated({"tool": "pay"}, "k2", door="session").ident
    )
    assert "k" * 20 not in repeated({}, "k" * 20).ident  # the key itself stands in no record
    named = repeated({"intent_id": "i-7", "tool": "pay"}, named="i-7")
    assert named.ident == "i-7" and named == repeated({"tool": "pay"}, "i-7", named="i-7")
    assert repeated({}) != repeated({}) and repeated({}).request == ""


@pytest.mark.parametrize(("keys", "named"), [(("a", "b"), ""), (("a", "a"), ""), (("a",), "b"), (("",), ""), (("x" * 257,), ""), (("a\u200b",), "")])  # fmt: skip
def test_keys_that_are_none(keys: tuple[str, ...], named: str) -> None:
    with pytest.raises(web.HTTPBadRequest):
        repeated({}, *keys, named=named)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "name", "call_id", "output", "arguments", "format"]) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "item_reference"]),
            "role": st.sampled_from(["user", "assistant", "developer", "system", "root"]), "content": JSON, "call_id": st.text(max_size=3),
            "name": st.text(max_size=3), "arguments": st.text(max_size=3), "output": JSON,
        },
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "input": JSON | ITEMS, "instructions": JSON, "tools": JSON, "tool_choice": JSON, "text": JSON, "reasoning": JSON,
        "previous_response_id": st.none() | st.just("resp_1"), "temperature": JSON, "store": st.booleans(), "unheard_of": JSON,
    },
)  # fmt: skip


@given(body=BODIES)
def test_any_body_is_passed_on_or_refused_by_name(body: Mapping[str, Json]) -> None:
    try:
        found = arguments_of(body)
    except web.HTTPBadRequest as error:
        assert '"unsupported"' in str(error.text)
        return
    assert body.get("previous_response_id") is None and body.get("unheard_of") is None
    messages = found["messages"]
    assert isinstance(messages, list)
    assert all(isinstance(m, dict) and m["role"] in ("system", "user", "assistant", "tool") for m in messages)


def test_a_conversation_as_messages() -> None:
    items: list[Json] = [
        {"role": "developer", "content": "be short"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "x"}]},
    ]  # fmt: skip
    calls = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": "{}"}}
        for i, n in (("1", "f"), ("2", "g"))
    ]
    assert messages_of("first", items) == [
        {"role": "system", "content": "first"}, {"role": "system", "content": "be short"}, {"role": "user", "content": "a\nb"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "auto"}}]},
        {"role": "assistant", "content": "let me see", "tool_calls": calls}, {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]  # fmt: skip


def test_options() -> None:
    schema: Json = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    found = arguments_of(
        {
            "model": "m", "input": "hi", "max_output_tokens": 7, "reasoning": {"effort": "low"}, "text": {"format": schema},
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None}],
            "tool_choice": {"type": "function", "name": "f"}, "truncation": "disabled", "background": False,
        }
    )  # fmt: skip
    assert found == {
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }  # fmt: skip


def test_a_model_that_is_not_there_is_what_openais_clients_expect() -> None:
    answer = openai_shapes.refused(Refused("unknown_tool", intent_id="i", stage="route"), {}, "gpt-none")
    said = orjson.loads(answer.body)["error"]
    assert (answer.status, said["code"]) == (404, "model_not_found") and "`gpt-none`" in said["message"]
    assert said["sluicegate"]["stage"] == "route" and answer.headers["x-sluicegate-reason"] == "unknown_tool"
    other = openai_shapes.refused(Refused("no_permit", intent_id="i", stage="authorize"), {}, "gpt-none")
    assert (other.status, orjson.loads(other.body)["error"]["code"]) == (403, "no_permit")
