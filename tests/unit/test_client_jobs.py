"""The SDK and work that goes on at the tool: submitted, parked, asked for again. No Kafka."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.outcomes import Decision
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import Dispatch, Intent
from sluicegate.streams.client import AgentClient, Parked, Refused, Session, Unanswered

from tests.client_gate import LONG_S, SHORT_S, Gate, client, in_session, run
from tests.driver import Driver
from tests.unit.test_jobs import RELEASE

PARKED = json.dumps({"completion": "poll", "job": "j-1"}).encode()


def hands_over(d: Driver, work: Dispatch) -> Decision:
    """The tool's first answer names a job."""
    d.claim(work)
    return d.receipt(work, "parked", result=PARKED)


def gate(**options: object) -> Gate:
    made = Gate(**options)  # type: ignore[arg-type]
    made.driver.deploy(RELEASE)
    return made


def end_it(made: Gate) -> None:
    """The next look sees the end."""
    decision = made.driver.tick(2_000_000)
    (look,) = decision.dispatches
    made.after(made.driver.receipt(look, "finished", result=b'{"ok":true}'))


def test_submit_returns_at_once_and_the_result_is_asked_for_later() -> None:
    made = gate(execute=None)

    async def body(agent: AgentClient, session: Session) -> str:
        return await session.submit("job.poll", {"value": "1"}, begin_s=60, intent_id="mine")

    assert in_session(made, body) == "mine"
    intent = made.of(Intent)[1]
    assert intent.deadline_at == intent.issued_at + 60_000_000
    made.deliver = None
    made.after(hands_over(made.driver, made.driver.dispatches[-1]))

    async def later() -> object:
        async with client(made) as agent:
            with pytest.raises(Parked) as parked:
                await agent.result("mine", SHORT_S)
            assert isinstance(parked.value, Unanswered)
            assert (parked.value.reason, parked.value.status) == ("parked", "parked")
            end_it(made)
            return await agent.result("mine", LONG_S)

    assert run(later()) == {"ok": True}, "after a restart of the agent, and after its session was closed"


def test_a_call_waits_on_while_the_tool_works() -> None:
    made = gate(execute=hands_over)

    async def body(agent: AgentClient, session: Session) -> object:
        with pytest.raises(Parked) as parked:
            await session.call_tool("job.poll", {}, timeout_s=SHORT_S)
        assert "goes on at the tool" in str(parked.value)
        end_it(made)
        return await agent.result(parked.value.intent_id, LONG_S)

    assert in_session(made, body) == {"ok": True}


def test_what_was_not_published_is_refused_and_what_may_be_is_unanswered() -> None:
    async def away() -> None:
        raise Retryable("kafka is away")

    async def body(agent: AgentClient, session: Session) -> None:
        made.sending = away
        with pytest.raises(Refused) as refused:
            await session.submit("job.poll", {})
        assert not refused.value.published
        made.sending, made.confirming = None, away
        with pytest.raises(Unanswered) as unknown:
            await session.submit("job.poll", {})
        assert unknown.value.published
        made.confirming = None
        with pytest.raises(Refused, match="not JSON"):
            await session.submit("job.poll", {"value": object()})  # type: ignore[dict-item]

    made = gate(execute=None)
    in_session(made, body)

    async def closed() -> None:
        async with client(made) as agent:
            session = agent.session()
            with pytest.raises(Refused, match="not open"):
                await session.submit("job.poll", {})

    run(closed())
