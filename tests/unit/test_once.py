"""An id that is used again: the same request finds the first one's answer, whatever time it was made at; another one is a conflict."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sluicegate.schemas import codec
from sluicegate.schemas.records import Intent, Message, Reply
from sluicegate.schemas.requests import request_digest
from sluicegate.streams.sdk.replies import Waiting

from tests.driver import AGENT, Driver, read


def asked(driver: Driver, request: str, tool: str = "desk.read", ident: str = "i-1") -> list[Reply]:
    driver.now += 1_000
    intent = Intent(
        ident, AGENT, "session-1", "tool_call", tool, b"{}", driver.now, driver.now + 10**9, request=request
    )
    return driver.feed("intents", codec.encode(intent)).replies


def opened() -> Driver:
    driver = Driver()
    driver.open_session()
    return driver


def test_the_same_request_finds_the_first_ones_answer() -> None:
    driver = opened()
    assert asked(driver, "a", "desk.never")[-1].status == "refused"
    [again] = asked(driver, "a", "desk.never")
    assert (
        again.duplicate
        and again.status == "refused"
        and again.reason not in ("", "duplicate")
        and again.for_model
    )
    before = len(driver.records)
    [other] = asked(driver, "b", "desk.read")
    assert (other.reason, other.answers) == ("id_conflict", request_digest(b"", "b"))
    assert [read(record).header.status for record in driver.records[before:]] == [
        "noted"
    ]  # it is only noted: nothing runs


def test_what_is_held_says_so_again() -> None:
    driver = opened()
    assert asked(driver, "a", "desk.ask")[-1].status == "held"
    [again] = asked(driver, "a", "desk.ask")
    assert (again.status, again.duplicate, again.policies) == ("held", True, ["desk-ask"])


def test_without_a_request_the_bytes_count() -> None:
    driver = opened()
    assert asked(driver, "", "desk.never")[-1].status == "refused"
    assert asked(driver, "", "desk.never")[-1].reason == "id_conflict"  # made at another time


def test_messages_too() -> None:
    driver = opened()

    def said(text: str, request: str) -> Reply:
        driver.now += 1_000
        message = Message(
            "said-1", AGENT, "session-1", "session.user_said", driver.now, text=text, request=request
        )
        [reply] = driver.feed("messages", codec.encode(message)).replies
        return reply

    assert (said("pay", "a").status, said("pay", "a").duplicate) == ("heard", True)
    conflict = said("pay all", "b")
    assert (conflict.status, conflict.answers) == ("refused", request_digest(b"", "b"))


def test_a_conflict_is_told_to_whoever_made_it() -> None:
    conflict = Reply(
        bytes(16), "i", AGENT, "s", "refused", "route", "id_conflict", [], 1, answers=request_digest(b"", "b")
    )

    async def run() -> None:
        first, second, old = (Waiting(True, request_digest(b"", name)) for name in ("a", "b", "c"))
        for waiting in (first, second):
            waiting.offer(conflict)
        assert not first.end.done() and second.end.done()
        old.offer(replace(conflict, answers=b""))  # of a worker that does not say whom it answers
        assert old.end.done()

    asyncio.run(run())


@pytest.mark.parametrize("request_", ["", "x"])
def test_digests(request_: str) -> None:
    assert len(request_digest(b"payload", request_)) == 16
    assert (request_digest(b"one", request_) == request_digest(b"two", request_)) is bool(request_)


def test_nobody_is_told_what_another_request_by_the_same_id_came_to() -> None:
    """Two requests by one id at once: each waits for replies that both of them read."""
    driver = opened()

    async def run() -> None:
        first, second = (Waiting(True, request_digest(b"", name)) for name in ("a", "b"))
        told = asked(driver, "a", "desk.ask") + asked(driver, "b", "desk.never")
        for reply in told:
            first.offer(reply)
            second.offer(reply)
        assert (await first.end).status == "held" and (await second.end).reason == "id_conflict"

    asyncio.run(run())


def test_every_reply_to_an_intent_says_which_request_it_answers() -> None:
    """From the first one to the last: refused, released after a claim, held and agreed to, expired."""
    driver = opened()
    mine = request_digest(b"", "a")
    for number, tool in enumerate(("desk.never", "desk.read", "desk.pay")):
        asked(driver, "a", tool, f"i-{number}")
    while driver.dispatches:
        dispatch = driver.dispatches.pop(0)
        driver.claim(dispatch)
        driver.receipt(dispatch, "finished", result=b"{}")
    asked(driver, "a", "desk.ask", "i-held")
    driver.tick(48 * 3_600 * 1_000_000)
    told = [r for r in driver.replies if r.intent_id.startswith("i-")]
    assert {r.status for r in told} >= {"refused", "released", "held", "expired"}
    assert {r.answers for r in told} == {mine}
