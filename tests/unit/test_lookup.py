"""Class `queryable`: a claim without a receipt is looked up by its key, then finished with what is there, or called."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import cache

import orjson
import pytest
from aiohttp import web
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.processors.release import CompiledRelease, build, compile_release
from sluicegate.schemas import records as r

from tests.driver import Driver, release_files
from tests.executor_fakes import FakeAdapter, dispatch, until
from tests.unit.test_derail import last
from tests.unit.test_dispatcher import Bench
from tests.unit.test_http_adapter import Tool
from tests.unit.test_rederive import check
from tests.unit.test_verify import verify

TEN_S = 10_000_000
LOOK = {"url": "${TOOLS_URL}/payments/{idempotency_key}"}
PATH = "contracts/desk.look.json"


def contract(lookup: object = LOOK, **more: object) -> str:
    found = json.loads(release_files()[PATH])
    found["x-sluicegate"]["executor"]["lookup"] = lookup
    found["x-sluicegate"].update(more)
    return json.dumps(found)


@cache
def with_lookup() -> CompiledRelease:
    return compile_release({**release_files(), PATH: contract()})


def claimed() -> tuple[Driver, r.Dispatch]:
    d = Driver()
    d.deploy(with_lookup())
    d.open_session()
    [one] = d.call("desk.look").dispatches
    assert not one.lookup
    d.claim(one)
    return d, one


def intact(d: Driver) -> None:
    assert verify(d).names == set()
    assert check(d).different == 0


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_a_claim_without_a_receipt_is_offered_to_be_looked_up() -> None:
    d, one = claimed()
    [again] = d.tick(TEN_S).dispatches
    assert (again.lookup, again.attempt, again.idempotency_key) == (True, 2, one.idempotency_key)
    assert last(d.finish(again)) == ("released", "")
    intact(d)


def test_a_lookup_nobody_takes_is_offered_again_as_one() -> None:
    d, _ = claimed()
    d.tick(TEN_S)
    [third] = d.tick(TEN_S).dispatches
    assert (third.lookup, third.attempt) == (True, 3)


@pytest.mark.parametrize("tool", ["desk.look", "desk.set"])
def test_a_second_offer_nobody_takes_is_in_doubt(tool: str) -> None:
    d = Driver()
    d.deploy(with_lookup())
    d.open_session()
    [one] = d.call(tool).dispatches
    d.claim(one)
    decisions = [d.tick(TEN_S) for _ in range(60)]
    ends = [last(decision) for decision in decisions if decision.outcomes]
    assert ("in_doubt", "call_in_doubt") in ends
    assert not [end for end in ends if end[0] == "expired"]
    intact(d)


def test_an_executor_that_does_not_know_is_looked_after_too() -> None:
    """The request may have reached the tool and nobody heard the answer: looked up like a claim without a receipt."""
    d, one = claimed()
    assert last(d.receipt(one, "failed", error_class="timeout")) == ("noted", "call_in_doubt")
    [again] = d.tick(TEN_S).dispatches
    assert again.lookup
    d.claim(again)
    assert last(d.receipt(again, "failed", error_class="unreachable")) == ("noted", "call_in_doubt")
    [third] = d.tick(TEN_S).dispatches
    assert (third.lookup, third.attempt) == (True, 3)
    intact(d)


def test_without_a_lookup_it_stays_in_doubt() -> None:
    d = Driver()
    d.open_session()
    [one] = d.call("desk.look").dispatches
    d.claim(one)
    assert last(d.tick(TEN_S)) == ("in_doubt", "call_in_doubt")


def test_what_nobody_claimed_is_simply_offered_again() -> None:
    d = Driver()
    d.deploy(with_lookup())
    d.open_session()
    d.call("desk.look")
    [again] = d.tick(TEN_S).dispatches
    assert (again.lookup, again.attempt) == (False, 2)


@pytest.mark.parametrize(
    ("lookup", "more"),
    [
        ("a text", {}),
        ({"url": "${TOOLS_URL}/x"}, {}),
        ({"url": "${TOOLS_URL}/{idempotency_key}/{value}"}, {}),
        ({**LOOK, "method": "POST"}, {}),
        (LOOK, {"class": "irreversible"}),
        (LOOK, {"executor": {"kind": "python", "function": "a.b:c", "lookup": LOOK}}),
    ],
)
def test_a_contract_says_only_what_can_be_meant(lookup: object, more: dict[str, object]) -> None:
    _, findings = build({**release_files(), PATH: contract(lookup, **more)})
    assert [(f.rule, f.severity) for f in findings if "lookup" in str(f)] == [("executor", "error")]


# -- the executor ----------------------------------------------------------------------------------------------------


class Bank(FakeAdapter):
    """A tool that keeps what it did by key, and is asked by key."""

    def __init__(self, held: dict[str, Answer | None]) -> None:
        super().__init__()
        self.held, self.looked = held, Counter[str]()

    async def look_up(self, dispatch: r.Dispatch, timeout_s: float) -> Answer | None:
        self.looked[dispatch.idempotency_key] += 1
        return self.held.get(dispatch.idempotency_key)


def again(number: int) -> r.Dispatch:
    one = dispatch(number, tool_class="queryable", attempt=2, key=f"key-{number}")
    one.lookup = True
    return one


def test_found_is_finished_with_and_not_found_is_run() -> None:
    bank = Bank({"key-1": Finished(b'"paid before"')})
    b = Bench(bank)

    async def scenario() -> None:
        b.log.put(again(1), again(2))
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert {r.intent_id: r.result for r in b.receipts} == {"intent-1": b'"paid before"', "intent-2": b'"ok"'}
    assert (dict(bank.called), set(bank.looked)) == ({"key-2": 1}, {"key-1", "key-2"})
    assert (b.calls.counters.lookups, b.calls.counters.calls) == (2, 1)
    assert len(b.log.claims) == 2


@pytest.mark.parametrize(
    "answer",
    [Failed("crashed", "x"), Failed("refused_by_tool", "500"), Failed("egress_denied", "x", False)],
)
def test_a_lookup_that_fails_says_nothing_of_the_call(answer: Failed) -> None:
    bank = Bank({"key-1": answer})
    b = Bench(bank)

    async def scenario() -> None:
        b.log.put(again(1))
        await until(lambda: b.receipts)

    b.run(scenario)
    [said] = b.receipts
    assert (said.error_class, said.sent, dict(bank.called)) == ("unreachable", True, {})


def test_an_adapter_that_cannot_look_up_calls_nothing() -> None:
    b = Bench()

    async def scenario() -> None:
        b.log.put(again(1))
        await until(lambda: b.receipts)

    b.run(scenario)
    assert (b.called, b.receipts[0].error_class, b.receipts[0].sent) == ({}, "unreachable", True)


def test_a_lookup_given_back_says_nothing() -> None:
    """Claimed, and too late to look: the ledger's tick has it looked up again."""
    b = Bench(Bank({}))

    async def slow() -> None:
        await asyncio.sleep(0.3)

    async def scenario() -> None:
        b.log.after_commit = slow
        one = again(1)
        one.not_after = one.not_after - 4_800_000
        b.log.put(one)
        await until(lambda: b.calls.counters.given_back == 1)

    b.run(scenario)
    assert (b.called, b.receipts) == ({}, [])


# -- http ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "found"),
    [(200, Finished(b'{"id":7}')), (404, None), (500, Failed), (302, Failed)],
)
def test_http_asks_by_the_key_alone(status: int, found: object) -> None:
    answers: list[Answer | None] = []
    held = {"data": {"id": 7}}

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(held, status=status)

    async def scenario(tool: Tool) -> None:
        executor = {
            "kind": "http", "method": "POST", "url": "${TOOLS_URL}/payments",
            "lookup": {**LOOK, "headers": {"X-Desk": "a"}, "result": "/data"},
        }  # fmt: skip
        one = dispatch(1, executor=orjson.dumps(executor), arguments=b'{"amount":1}', key="k1")
        answers.append(await tool.adapter.look_up(one, 2.0))

    tool = Tool(handler)
    tool.run(scenario)
    [asked], [answer] = tool.requests, answers
    assert (asked.method, asked.path_qs, asked.headers["X-Desk"]) == ("GET", "/payments/k1", "a")
    assert "Idempotency-Key" not in asked.headers
    assert isinstance(answer, Failed) if found is Failed else answer == found
