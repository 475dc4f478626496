"""Jobs over http, against a real server on loopback: a first answer, looks, and lookups by key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Answer, Failed, Finished, Parked, Pending, Traceless
from sluicegate.executors.egress import Egress
from sluicegate.executors.http import HttpAdapter
from sluicegate.schemas.topics import MAX_RESULT_BYTES

from tests.executor_fakes import dispatch

SECRET = "canary-77d1f0aa"
JOB = {
    "id": "/id", "url": "${TOOLS}/jobs/{job}", "state": "/state", "done": ["done"], "failed": ["failed"],
    "result": "/result", "error": "/why",
}  # fmt: skip
POLL = {"completion": "poll", "job": JOB}
LOOKUP = {"lookup": {"url": "${TOOLS}/calls?key={key}"}}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def ask(
    handler: Handler, executor: dict[str, object], *, purpose: str = "", job: str = "", tool_class: str = "read_only",
    timeout_s: float = 2.0, callback: str = "",
) -> tuple[Answer, list[web.Request]]:  # fmt: skip
    """One dispatch, and the requests it made."""
    seen: list[web.Request] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return await handler(request)

    async def main() -> Answer:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", serve)
        async with TestServer(app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            more = {"callback_url": lambda _: callback} if callback else {}
            adapter = HttpAdapter(Egress(place), {"TOOLS": f"http://{place}"}, environ={"K": SECRET}, **more)  # type: ignore[arg-type]
            contract = {
                "kind": "http", "method": "POST", "url": "${TOOLS}/x", "headers": {"X-Key": "${secret:env:K}"}, **executor
            }  # fmt: skip
            work = dispatch(1, executor=orjson.dumps(contract), tool_class=tool_class, key="the key/1")
            try:
                return await adapter.call(replace(work, purpose=purpose, job=job), timeout_s)
            finally:
                await adapter.close()

    return asyncio.run(main()), seen


def saying(body: object, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handler


@pytest.mark.parametrize(("body", "job"), [({"id": "j/1"}, "j/1"), ({"id": 7}, "7")])
def test_a_first_answer_hands_over_a_job(body: object, job: str) -> None:
    assert ask(saying(body, 202), POLL)[0] == Parked("poll", job)


@pytest.mark.parametrize(
    "body", [{}, {"id": ""}, {"id": None}, {"id": True}, {"id": ["a"]}, {"id": "x" * 600}, "text"]
)
def test_a_first_answer_without_a_job_is_malformed(body: object) -> None:
    answer = ask(saying(body), POLL)[0]
    assert isinstance(answer, Failed) and answer.error_class == "malformed_result" and answer.sent


def test_a_refusal_is_no_job() -> None:
    answer = ask(saying({"id": "j"}, 403), POLL)[0]
    assert isinstance(answer, Failed) and answer.error_class == "refused_by_tool"


def test_a_look_is_a_get_at_the_jobs_own_address() -> None:
    answer, [request] = ask(saying({"state": "running"}), POLL, purpose="poll", job="../a b?c")
    assert answer == Pending()
    assert (request.method, request.raw_path) == ("GET", "/jobs/..%2Fa%20b%3Fc")
    assert request.headers["X-Key"] == SECRET
    assert request.headers["Idempotency-Key"] == "the key/1"


def test_a_job_cannot_climb_out_of_its_address() -> None:
    answer, requests = ask(saying({}), POLL, purpose="poll", job="..")
    assert isinstance(answer, Failed) and not answer.sent and requests == []


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ({"state": "done", "result": {"a": 1}}, 200, Finished(b'{"a":1}')),
        (
            {"state": "failed", "why": "no money"},
            200,
            Failed("refused_by_tool", "the work ended as `failed`: no money"),
        ),
        ({"state": "failed"}, 200, Failed("refused_by_tool", "the work ended as `failed`")),
        ({"state": "queued"}, 200, Pending()),
        ({"state": ["done"]}, 200, Pending()),
    ],
)
def test_what_a_status_says(body: object, status: int, answer: Answer) -> None:
    assert ask(saying(body, status), POLL, purpose="poll", job="j")[0] == answer


@pytest.mark.parametrize(("body", "status"), [({}, 200), ({"state": "done"}, 503), ({}, 404), ({}, 302)])
def test_a_look_that_brings_nothing_ends_nothing(body: object, status: int) -> None:
    answer = ask(saying(body, status), POLL, purpose="poll", job="j")[0]
    assert isinstance(answer, Pending) and answer.error_class


def test_a_status_without_its_result_or_with_too_much_of_it_is_an_end() -> None:
    none = ask(saying({"state": "done"}), POLL, purpose="poll", job="j")[0]
    assert isinstance(none, Failed) and none.error_class == "malformed_result"
    much = ask(saying({"state": "done", "result": "x" * MAX_RESULT_BYTES}), POLL, purpose="poll", job="j")[0]
    assert isinstance(much, Failed) and much.error_class == "result_too_large"


def test_a_status_may_bring_as_much_as_the_contract_lets_it() -> None:
    body, terms = {"state": "done", "result": "x" * 300_000}, {**POLL, "max_result_bytes": 400_000}
    found = ask(saying(body), terms, purpose="poll", job="j")[0]
    assert isinstance(found, Finished) and len(found.result) == 300_002
    much = ask(saying({**body, "result": "x" * 400_000}), terms, purpose="poll", job="j")[0]
    assert isinstance(much, Failed) and much.error_class == "result_too_large"


def test_a_secret_that_a_status_echoes_is_cut_out() -> None:
    said = {"state": "done", "result": {"echo": SECRET}}
    assert ask(saying(said), POLL, purpose="poll", job="j")[0] == Finished(b'{"echo":"***"}')


def test_a_lookup_finds_the_call_or_no_trace_of_it() -> None:
    answer, [request] = ask(saying({"paid": 1}), LOOKUP, purpose="lookup", tool_class="queryable")
    assert answer == Finished(b'{"paid":1}')
    assert (request.method, request.raw_path) == ("GET", "/calls?key=the%20key%2F1")
    for status in (404, 410):
        assert ask(saying({}, status), LOOKUP, purpose="lookup")[0] == Traceless()
    assert isinstance(ask(saying({}, 500), LOOKUP, purpose="lookup")[0], Pending)


def test_only_a_lookup_believes_in_absence() -> None:
    assert isinstance(ask(saying({}, 404), POLL, purpose="poll", job="j")[0], Pending)


def test_a_look_the_contract_does_not_know_sends_nothing() -> None:
    for purpose in ("poll", "lookup", "other"):
        answer, requests = ask(saying({}), {}, purpose=purpose, job="j")
        assert isinstance(answer, Failed) and not answer.sent and requests == []


def test_a_tool_is_told_where_to_call_back() -> None:
    address = "https://gate.example/v1/callbacks/secret-token-123"
    echo = saying({"you said": "secret-token-123"})
    answer, [request] = ask(echo, {"completion": "callback"}, callback=address)
    assert answer == Parked("callback", "")
    assert request.headers["Callback-Url"] == address
    refused = ask(saying({"no": "secret-token-123"}, 400), {"completion": "callback"}, callback=address)[0]
    assert isinstance(refused, Failed) and "secret-token" not in refused.error


def test_without_an_address_nothing_is_sent() -> None:
    answer, requests = ask(saying({}), {"completion": "callback"})
    assert isinstance(answer, Failed) and not answer.sent and requests == []
    assert "SLUICEGATE_CALLBACK_URL" in answer.error
