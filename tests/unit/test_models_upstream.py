"""Routed calls from the ledger to a real server and back, without a broker: what the server journals is what was decided."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Failed, Finished
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.records import Dispatch

from tests.driver import Driver
from tests.servers.faults import Journal
from tests.servers.model_server import model_server
from tests.unit.test_attempts import LARGE, MESSAGES, PERMIT, SMALL, SPARE, contract, files

OLD, NEW = "You triage mail for $team.", "You triage letters for $team, and you are brief."


def release_of(place: str, prompt: str) -> dict[str, str]:
    """Three candidates: one is asked too often, one is overloaded, one answers."""
    faults = {LARGE: "status=429", SMALL: "status=503", SPARE: "ok"}
    made = files(policy=PERMIT, **{"prompts/triage.md": prompt})
    for name, fault in faults.items():
        made[f"contracts/{name}.json"] = contract(name, url=f"http://{place}/{fault}/v1")
    return made


async def execute(d: Driver, adapter: ModelAdapter, work: Dispatch) -> int:
    """Attempts until the call ends; each is asked over http, and told to the ledger."""
    attempts = 0
    while True:
        attempts += 1
        answer = await adapter.call(work, 5.0)
        if isinstance(answer, Finished):
            decision = d.receipt(work, "finished", result=answer.result)
        else:
            assert isinstance(answer, Failed)
            decision = d.receipt(
                work, "failed", error_class=answer.error_class, error=answer.error, sent=answer.sent,
                retry_after_ms=answer.retry_after_ms,
            )  # fmt: skip
        if not decision.dispatches:
            return attempts
        (work,) = decision.dispatches


def with_server(scenario: Callable[[str, ModelAdapter], Awaitable[None]]) -> Journal:
    """Run beside a server."""
    journal = Journal()

    async def main() -> None:
        async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            adapter = ModelAdapter(Egress(place), {})
            try:
                await scenario(place, adapter)
            finally:
                await adapter.close()

    asyncio.run(main())
    return journal


def test_two_fallbacks_reach_the_third_server() -> None:
    async def scenario(place: str, adapter: ModelAdapter) -> None:
        d = Driver()
        d.deploy(compile_release(release_of(place, OLD)), now=True)
        d.open_session()
        (first,) = d.call("triage", {"messages": MESSAGES}, kind="model_call").dispatches
        assert await execute(d, adapter, first) == 3
        assert orjson.loads(d.replies[-1].result or b"")["served_model"] == SPARE

    journal = with_server(scenario)
    assert [body["model"] for body in journal.bodies if isinstance(body, dict)] == [LARGE, SMALL, SPARE]
    assert len(journal.requests) == 3, "each candidate is asked under a key of its own"


def test_a_prompt_rolled_back_is_what_the_server_is_told_in_the_same_session() -> None:
    async def scenario(place: str, adapter: ModelAdapter) -> None:
        d = Driver()
        old, new = (compile_release(release_of(place, text)) for text in (OLD, NEW))
        d.deploy(old, now=True)
        d.open_session()
        for step in ("old", "new", "back"):
            if step == "new":
                d.deploy(new, now=True)
            elif step == "back":
                d.control_event("release.rolled_back", to=old.digest)
            asked = {"prompt": "triage", "variables": {"team": "night"}}
            (first,) = d.call("triage", asked, kind="model_call").dispatches
            assert await execute(d, adapter, first) == 3

    journal = with_server(scenario)
    told = [body["messages"][0]["content"] for body in journal.bodies if isinstance(body, dict)]
    before, after = "You triage mail for night.", "You triage letters for night, and you are brief."
    assert told == [before] * 3 + [after] * 3 + [before] * 3
