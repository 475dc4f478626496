"""Questions to the person at an MCP client: who may answer one, and who is asked at all."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway.mcp_elicit import ASKING, QUESTIONS, Questions, declares, may_ask


def test_only_the_agent_and_the_session_that_were_asked_answer() -> None:
    async def run() -> None:
        questions = Questions()
        with questions.one("a", "s", "q") as waiting:
            for agent, session, ident in (("b", "s", "q"), ("a", "t", "q"), ("a", "s", "r")):
                questions.answered(agent, session, ident, "ana", {"action": "accept"})
            assert not waiting.done()
            questions.answered("a", "s", "q", "ana", {"action": "accept"})
            questions.answered("a", "s", "q", "ben", {"action": "decline"})  # too late
            assert await waiting == ("ana", {"action": "accept"})
        assert not len(questions)
        questions.answered("a", "s", "q", "ana", {})  # nobody waits any more

    asyncio.run(run())


@pytest.mark.parametrize(
    ("capabilities", "can"),
    [({}, False), ({"elicitation": {}}, True), ({"elicitation": {"form": {}}}, True), ({"elicitation": {"url": {}}}, False), (7, False)],
)  # fmt: skip
def test_who_declares_it(capabilities: object, can: bool) -> None:
    assert declares({"capabilities": capabilities}) is can  # type: ignore[dict-item]


def test_who_is_asked() -> None:
    app = web.Application()
    app[QUESTIONS] = Questions()
    both = {"Accept": "application/json, text/event-stream", "x-sluicegate-person": "a.b.c"}
    for session, headers, asked in (
        (f"{ASKING}1", both, True), ("mcp-1", both, False), (f"{ASKING}1", {"Accept": both["Accept"]}, False),
        (f"{ASKING}1", {**both, "Accept": "application/json"}, False),
    ):  # fmt: skip
        request = make_mocked_request("POST", "/mcp", headers=headers, app=app)
        assert may_ask(request, session) is asked, (session, headers)
