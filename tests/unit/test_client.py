"""The agent SDK against a gate in memory: answers, time-outs, re-attaching, keys, errors. No Kafka.

Local functions are in `test_client_local.py`, a Kafka that is away in `integration/test_client_away.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.route import valid_id
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.records import Dispatch, Intent, Message
from sluicegate.schemas.topics import MAX_INTENT_BYTES
from sluicegate.streams.client import (
    AgentClient,
    Expired,
    Failed,
    Held,
    InDoubt,
    Refused,
    Session,
    Unanswered,
    Withheld,
    governed,
)
from sluicegate.streams.embedded import process as broker_process
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.sdk import asking, replies
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk import session as client_session
from sluicegate.streams.sdk.replies import Inbox
from sluicegate.streams.sdk.transport import Deliver
from sluicegate.streams.settings import Settings

from tests.client_gate import LONG_S, SHORT_S, Gate, approve, client, foreign, in_session, refusal_of, run
from tests.driver import AGENT, OTHER_AGENT, Driver

# -- answers ------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_parsed() -> None:
    gate = Gate(execute=lambda d, work: d.finish(work, b'{"balance":[1,2.5,null]}'))

    async def body(agent: AgentClient, session: Session) -> object:
        return await session.call_tool(
            "desk.read", {"value": "é"}, intent_id="my-id", traceparent="00-ab-cd-01"
        )

    assert in_session(gate, body) == {"balance": [1, 2.5, None]}
    opening, intent, closing = gate.of(Intent)
    assert (opening.kind, opening.goal, closing.kind) == ("session.open", "a test", "session.close")
    assert (intent.intent_id, intent.kind, intent.tool, intent.agent_id) == (
        "my-id",
        "tool_call",
        "desk.read",
        AGENT,
    )
    assert json.loads(intent.arguments) == {"value": "é"} and intent.session_id == opening.session_id
    assert len({i.intent_id for i in gate.of(Intent)}) == 3
    headers = gate.sent[1][2]
    assert (headers["ce_id"], headers["traceparent"]) == (b"my-id", b"00-ab-cd-01")
    assert (headers["ce_source"], headers["ce_type"]) == (
        f"/test/agents/{AGENT}".encode(),
        b"ai.sluicegate.intent",
    )
    assert gate.stopped


def test_a_refusal_says_who_why_and_what_to_do() -> None:
    error = refusal_of(Gate(), "desk.pay", {"value": "no"})
    assert type(error) is Refused and error.published
    assert (error.stage, error.reason, error.status) == ("authorize", "forbidden", "refused")
    assert error.policies == ("desk-not-this",)
    assert error.for_model == "This is forbidden."
    assert "desk-not-this" in error.for_developer and "desk-not-this" in str(error)
    assert error.intent_id in str(error)


@pytest.mark.parametrize(
    ("tool", "arguments", "stage", "reason"),
    [
        ("no.such.tool", {}, "route", "unknown_tool"),
        ("desk.read", {"value": 7}, "conform", "schema_violation"),
        ("desk.never", {}, "authorize", "no_permit"),
    ],
)
def test_each_stage_can_refuse(tool: str, arguments: dict[str, object], stage: str, reason: str) -> None:
    error = refusal_of(Gate(), tool, arguments)
    assert (type(error), error.stage, error.reason) == (Refused, stage, reason)


def test_an_unknown_agent_is_refused_when_it_opens_a_session() -> None:
    async def main() -> None:
        async with client(Gate(), "nobody") as agent:
            with pytest.raises(Refused) as raised:
                async with agent.session():
                    pytest.fail("it opened")
            assert raised.value.reason == "unknown_agent"

    run(main())


def test_held_then_approved() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> object:
        held = await session.call_tool("desk.ask", {})
        assert isinstance(held, Held) and held.policies == ("desk-ask",)
        assert "a person agrees to this" in held.why and held.for_model == "A person has to agree first."
        assert await agent.result(held.intent_id, SHORT_S) == held
        waiting = asyncio.create_task(agent.result(held.intent_id, LONG_S))
        await asyncio.sleep(0.01)
        gate.after(approve(gate, held.intent_id))
        return await waiting

    assert in_session(gate, body) == {"ok": True}


def test_the_end_of_a_held_call_is_told_after_its_session_was_closed() -> None:
    """Two people, one of whom changes the arguments; the agent that asked is gone, another process of it asks."""
    gate = Gate()
    ran: list[bytes] = []

    def execute(d: Driver, work: Dispatch) -> Decision:
        ran.append(work.arguments)
        return d.finish(work)

    gate.execute = execute

    async def ask(agent: AgentClient, session: Session) -> Held:
        held = await session.call_tool("desk.wire", {"value": "1000"}, timeout_s=LONG_S)
        assert isinstance(held, Held)
        return held

    held = in_session(gate, ask)
    assert not gate.driver.state.sessions

    async def later() -> tuple[object, object]:
        gate.after(approve(gate, held.intent_id))
        gate.after(approve(gate, held.intent_id, person="person-3", edit=b'{"value":"10"}'))
        async with client(gate) as agent:
            between = await agent.result(held.intent_id, SHORT_S)
            gate.after(approve(gate, held.intent_id))
            return between, await agent.result(held.intent_id, LONG_S)

    between, end = run(later())
    assert isinstance(between, Held) and "a person changed the arguments" in between.why
    assert end == {"ok": True} and ran == [b'{"value":"10"}']


def test_held_then_rejected() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        held = await session.call_tool("desk.ask", {})
        assert isinstance(held, Held)
        gate.after(approve(gate, held.intent_id, "reject"))
        with pytest.raises(Refused) as raised:
            await agent.result(held.intent_id, LONG_S)
        assert raised.value.reason == "approval_rejected"

    in_session(gate, body)


def test_a_failing_tool() -> None:
    def fail(d: Driver, work: Dispatch) -> Decision:
        d.claim(work)
        return d.receipt(work, "failed", error_class="refused_by_tool", error="the account is closed")

    error = refusal_of(Gate(execute=fail), "desk.pay")
    assert (type(error), error.reason, error.status) == (Failed, "refused_by_tool", "failed")
    assert "the account is closed" in error.for_developer


def test_a_withheld_result() -> None:
    error = refusal_of(Gate(execute=lambda d, work: d.finish(work, b"[1]")), "desk.read")
    assert (type(error), error.reason, error.status) == (Withheld, "malformed_result", "withheld")
    assert isinstance(error, Refused)


def test_in_doubt_and_then_the_truth() -> None:
    gate = Gate(execute=lambda d, work: d.claim(work))

    async def body(agent: AgentClient, session: Session) -> object:
        call = asyncio.create_task(session.call_tool("desk.pay", {}, intent_id="pay-1"))
        await gate.until(Intent, 2)
        gate.after(gate.driver.tick(60_000_000))
        with pytest.raises(InDoubt) as raised:
            await call
        assert (raised.value.reason, raised.value.status) == ("call_in_doubt", "in_doubt")
        with pytest.raises(InDoubt):
            await agent.result("pay-1", SHORT_S)
        gate.after(gate.driver.receipt(gate.driver.dispatches[0], "finished", result=b'{"paid":1}'))
        return await agent.result("pay-1", LONG_S)

    assert in_session(gate, body) == {"paid": 1}


def test_expired_is_a_refusal() -> None:
    gate = Gate(execute=None)

    async def body(agent: AgentClient, session: Session) -> None:
        call = asyncio.create_task(session.call_tool("desk.pay", {}))
        await gate.until(Intent, 2)
        gate.after(gate.driver.tick(60_000_000))
        with pytest.raises(Refused) as raised:
            await call
        assert (type(raised.value), raised.value.reason, raised.value.status) == (
            Expired,
            "no_executor",
            "expired",
        )

    in_session(gate, body)


# -- nobody answers -----------------------------------------------------------------------------------------------


def test_a_time_out_says_that_it_was_published() -> None:
    gate = Gate(execute=None)
    error = refusal_of(gate, "desk.pay", timeout_s=SHORT_S)
    assert isinstance(error, Unanswered) and isinstance(error, Refused)
    assert (error.reason, error.status, error.stage, error.published) == (
        "unavailable",
        "unanswered",
        "client",
        True,
    )
    assert f'agent.result("{error.intent_id}")' in error.for_developer
    assert "do not repeat" in error.for_model and "nothing was done" not in error.for_model
    intent = gate.of(Intent)[1]
    assert intent.deadline_at == intent.issued_at + 50_000


def test_what_kafka_did_not_take_was_not_done() -> None:
    gate = Gate()

    async def away() -> None:
        raise Retryable("no broker")

    async def body(agent: AgentClient, session: Session) -> None:
        gate.sending = away
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.pay", {})
        assert (type(raised.value), raised.value.reason, raised.value.published) == (
            Refused,
            "unavailable",
            False,
        )
        assert "no broker" in raised.value.for_developer and "nothing was done" in raised.value.for_model

    in_session(gate, body)  # and closing the session in vain masks nothing
    assert len(gate.of(Intent)) == 1


def test_a_kafka_that_hangs_ends_with_the_time_out() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        gate.sending = partial(asyncio.sleep, 3600)
        started = time.monotonic()
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.pay", {}, timeout_s=SHORT_S)
        assert time.monotonic() - started < LONG_S
        assert (type(raised.value), raised.value.published) == (Refused, False)
        gate.sending = None

    in_session(gate, body)


def test_a_reply_counts_more_than_a_lost_acknowledgement() -> None:
    async def lost() -> None:
        raise Retryable("connection lost")

    async def body(agent: AgentClient, session: Session) -> object:
        return await session.call_tool("desk.read", {})

    assert in_session(Gate(confirming=lost), body) == {"ok": True}


def test_a_record_that_kafka_refuses_is_not_waited_for() -> None:
    gate = Gate()

    async def refuse() -> None:
        raise Terminal("no right to write")

    async def body(agent: AgentClient, session: Session) -> None:
        gate.confirming, gate.silent = refuse, True
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.read", {}, timeout_s=LONG_S)
        assert (raised.value.reason, raised.value.published) == ("unavailable", False)
        assert "no right to write" in raised.value.for_developer
        gate.confirming, gate.silent = None, False

    in_session(gate, body)


def test_a_gate_that_is_away_when_connecting() -> None:
    class Away(Gate):
        async def start(self, deliver: Deliver) -> None:
            raise Retryable("connection refused")

    class BlackHole(Gate):
        async def start(self, deliver: Deliver) -> None:
            await asyncio.sleep(3600)

    async def main(gate: Gate) -> None:
        with pytest.raises(Refused) as raised:
            async with client(gate, connect_timeout_s=SHORT_S):
                pytest.fail("it connected")
        assert (raised.value.reason, raised.value.published) == ("unavailable", False)
        assert gate.stopped

    run(main(Away()))
    run(main(BlackHole()))


def test_a_session_nobody_opens_is_closed_in_case_it_still_opens() -> None:
    gate = Gate(silent=True)

    async def main() -> None:
        async with client(gate) as agent:
            with pytest.raises(Unanswered):
                async with agent.session(timeout_s=SHORT_S):
                    pytest.fail("it opened")

    run(main())
    assert [i.kind for i in gate.of(Intent)] == ["session.open", "session.close"]
    assert not gate.driver.state.sessions


def test_closing_is_bounded_and_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "CLOSE_LIMIT_S", SHORT_S)
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        gate.silent = True
        raise LookupError("the agent's own")

    with pytest.raises(LookupError, match="the agent's own"):
        in_session(gate, body)
    assert gate.of(Intent)[-1].kind == "session.close"


def test_close_by_hand_says_when_nobody_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "CLOSE_LIMIT_S", SHORT_S)
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        gate.silent = True
        with pytest.raises(Unanswered):
            await session.close()
        await session.close()
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.read", {})
        assert raised.value.reason == "unknown_session" and not raised.value.published

    in_session(gate, body)
    assert [i.kind for i in gate.of(Intent)] == ["session.open", "session.close"]


# -- who gets which reply -----------------------------------------------------------------------------------------


def test_replies_of_others_and_unreadable_ones_are_ignored() -> None:
    gate = Gate(execute=None)

    async def body(agent: AgentClient, session: Session) -> object:
        call = asyncio.create_task(session.call_tool("desk.read", {}, intent_id="i-1"))
        await gate.until(Intent, 2)
        assert gate.deliver is not None
        gate.reply(foreign("i-1"))
        gate.deliver(None, codec.encode(foreign("i-1")))
        gate.deliver(AGENT.encode(), b"garbage")
        gate.deliver(AGENT.encode(), codec.encode(Message("i-1", AGENT, "s", "session.open", 1)))
        gate.reply(replace(foreign("other", AGENT), status="released"))
        gate.after(gate.driver.finish(gate.driver.dispatches[0], b'{"mine":1}'))
        return await call

    assert in_session(gate, body) == {"mine": 1}


def test_records_of_others_are_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []
    monkeypatch.setattr(replies, "decode_as", lambda cls, data: decoded.append(data) or foreign("i", AGENT))
    inbox = Inbox(AGENT, lambda reply: None)
    inbox.deliver(OTHER_AGENT.encode(), b"theirs")
    inbox.deliver(None, b"nobody's")
    assert decoded == []
    inbox.deliver(AGENT.encode(), b"ours")
    assert decoded == [b"ours"]


def test_too_many_at_once_are_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_PENDING", 2)
    gate = Gate(execute=None)

    async def body(agent: AgentClient, session: Session) -> None:
        calls = [asyncio.create_task(session.call_tool("desk.read", {})) for _ in range(2)]
        await gate.until(Intent, 3)
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.read", {})
        assert (raised.value.reason, raised.value.stage, raised.value.published) == (
            "overloaded",
            "client",
            False,
        )
        assert len(gate.of(Intent)) == 3
        for work in list(gate.driver.dispatches):
            gate.after(gate.driver.finish(work))
        assert await asyncio.gather(*calls) == [{"ok": True}] * 2
        gate.execute = lambda d, work: d.finish(work)
        assert await session.call_tool("desk.read", {}) == {"ok": True}  # there is room again

    in_session(gate, body)


def test_one_id_is_one_request() -> None:
    gate = Gate(execute=None)

    async def body(agent: AgentClient, session: Session) -> None:
        first = asyncio.create_task(session.call_tool("desk.read", {}, intent_id="same"))
        await gate.until(Intent, 2)
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.read", {}, intent_id="same")
        assert (raised.value.reason, raised.value.published) == ("id_conflict", False)
        gate.after(gate.driver.finish(gate.driver.dispatches[0]))
        assert await first == {"ok": True}
        with pytest.raises(Refused) as raised:
            await session.call_tool("desk.pay", {}, intent_id="same")
        assert (raised.value.reason, raised.value.stage) == ("id_conflict", "route")
        assert await agent.result("same", LONG_S) == {"ok": True}

    in_session(gate, body)


def test_a_conflict_does_not_end_the_first_request() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        held = await session.call_tool("desk.ask", {}, intent_id="same")
        with pytest.raises(Refused):
            await session.call_tool("desk.read", {}, intent_id="same")
        assert await agent.result("same", SHORT_S) == held

    in_session(gate, body)


# -- after a restart ----------------------------------------------------------------------------------------------


def test_another_process_learns_how_an_intent_ended() -> None:
    gate = Gate(silent=True, execute=None)

    async def main() -> None:
        gate.silent = False
        async with client(gate) as agent, agent.session() as session:
            with pytest.raises(Unanswered):
                await session.call_tool("desk.read", {}, intent_id="left", timeout_s=SHORT_S)
        gate.after(gate.driver.finish(gate.driver.dispatches[0], b'{"first":1}'))
        gate.reply(replace(foreign("left", AGENT), decided_at=2))
        asked = len(gate.sent)
        async with client(gate) as agent:
            assert await agent.result("left", LONG_S) == {"first": 1}
            with pytest.raises(Unanswered) as raised:
                await agent.result("never-asked", SHORT_S)
            assert raised.value.intent_id == "never-asked"
            said = raised.value.for_developer  # nobody knows here whether it was ever published
            assert "published" not in said and "`sluicegate explain never-asked`" in said
        assert len(gate.sent) == asked  # asking again publishes nothing

    run(main())


def test_a_reply_that_comes_while_the_old_ones_are_read_is_not_lost() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> object:
        wanted = replace(foreign("late", AGENT), status="released", result=b"1")

        async def replay(deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
            gate.reply(wanted)  # after the end that was fetched

        gate.replay = replay  # type: ignore[method-assign]
        return await agent.result("late", LONG_S)

    assert in_session(gate, body) == 1


def test_a_released_result_that_is_no_longer_kept() -> None:
    gate = Gate()

    async def body(agent: AgentClient, session: Session) -> None:
        gate.reply(replace(foreign("old", AGENT), status="released", reason=""))
        with pytest.raises(Withheld) as raised:
            await agent.result("old", LONG_S)
        assert raised.value.reason == "result_not_kept"
        assert raised.value.for_model

    in_session(gate, body)


# -- channels, keys -----------------------------------------------------------------------------------------------


def test_a_channel_says_for_whom_and_what() -> None:
    gate = Gate()

    async def main() -> None:
        async with (
            client(gate, channel=True) as agent,
            agent.session("pay", on_behalf_of="ann", subject="household", session_id="talk-1") as session,
        ):
            await session.user_said("please pay")
            assert await session.call_tool("desk.read", {}) == {"ok": True}
            found = gate.driver.state.sessions[f"{AGENT}\0talk-1"]
            assert (found.on_behalf_of, found.subject, found.origin) == ("ann", "household", "channel")
            assert found.user_messages == 1

    run(main())
    opening, said, closing = gate.of(Message)
    assert [opening.kind, said.kind, closing.kind] == ["session.open", "session.user_said", "session.close"]
    assert (opening.goal, said.text, said.on_behalf_of) == ("pay", "please pay", "")
    assert [topic for topic, _, _ in gate.sent] == ["messages", "messages", "intents", "messages"]


def test_an_agent_cannot_speak_for_a_channel() -> None:
    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Terminal, match="channel=True"):
            await session.user_said("the user agreed, honestly")
        with pytest.raises(Terminal, match="channel=True"):
            agent.session(on_behalf_of="ann")

    in_session(Gate(), body)


def test_signed_records_are_accepted_and_unsigned_ones_are_not() -> None:
    private = {role: Ed25519PrivateKey.generate() for role in ("agent", "channel")}
    driver = Driver(signing="signed")
    for role, key in private.items():
        driver.control_event(
            "key.added", kid=f"k-{role}", principal=AGENT if role == "agent" else "web", role=role, alg="Ed25519",
            public=key.public_key().public_bytes_raw().hex(), not_before=0, not_after=1 << 52,
        )  # fmt: skip
    secret = {role: (f"k-{role}", key.private_bytes_raw()) for role, key in private.items()}
    gate = Gate(driver)

    async def body(agent: AgentClient, session: Session) -> object:
        return await governed(session, "desk.local")(lambda: {"signed": 3})()  # message, intent and receipt

    assert in_session(gate, body, key=secret["agent"], channel=secret["channel"]) == {"signed": 3}

    async def unsigned() -> None:
        async with client(gate, channel=True) as agent:
            with pytest.raises(Unanswered, match="accept what this agent signs"):
                async with agent.session(timeout_s=SHORT_S):
                    pytest.fail("it opened")

    run(unsigned())


def test_an_agent_that_signs_needs_a_channel_that_signs() -> None:
    with pytest.raises(Terminal, match="channel=\\(key id"):
        AgentClient(AGENT, key=("k", bytes(32)), channel=True)


# -- what never leaves the process --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [float("nan"), [{"a": float("inf")}], {1: 2}, object(), 1 << 70, "\ud800", b"x"]
)
def test_arguments_that_are_not_json_are_refused_here(value: object) -> None:
    gate = Gate()
    error = refusal_of(gate, "desk.read", {"value": value})
    assert (error.reason, error.stage, error.published) == ("arguments_not_json", "client", False)
    assert [i.kind for i in gate.of(Intent)] == ["session.open", "session.close"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"arguments": {"value": "x" * MAX_INTENT_BYTES}}, "too_large"),
        ({"intent_id": ""}, "bad_identifier"),
        ({"intent_id": "a\nb"}, "bad_identifier"),
        ({"traceparent": "\ud800"}, "malformed_record"),
    ],
)
def test_records_the_gate_cannot_take_are_refused_here(more: dict[str, object], reason: str) -> None:
    error = refusal_of(Gate(), "desk.read", **more)  # type: ignore[arg-type]
    assert (error.reason, error.published) == (reason, False)


@pytest.mark.parametrize("text", ["a", "é-7", "x" * 256, "", "x" * 257, "a\tb", "\ud800", "a b"])
def test_ids_are_checked_as_the_pipeline_does(text: str) -> None:
    assert asking.is_id(text) == valid_id(text)


def test_ids_of_agents_and_sessions_are_checked_at_once() -> None:
    with pytest.raises(Terminal, match="agent id ``"):
        AgentClient("")

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Refused, match="bad_identifier"):
            agent.session(session_id="")

    in_session(Gate(), body)


def test_a_client_that_is_not_connected_says_so() -> None:
    agent = client(Gate())
    with pytest.raises(Terminal, match="async with AgentClient"):
        agent.session()
    with pytest.raises(Terminal, match="async with AgentClient"):
        run(agent.result("i"))


# -- errors, JSON, attach -----------------------------------------------------------------------------------------


def test_every_error_is_one_of_ours_and_survives_pickling() -> None:
    for kind in (Refused, Expired, Withheld, Unanswered, Failed, InDoubt):
        error = kind("no_permit", intent_id="i", policies=["p"], for_developer="do this", published=False)
        assert isinstance(error, SluicegateError) and str(error)[0].islower()
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and vars(again) == vars(error) and str(again) == str(error)


def test_an_error_without_an_intent_reads_well() -> None:
    assert str(Refused("unavailable", for_developer="start it")) == (
        "the request was refused at client (`unavailable`): start it"
    )


def test_reasons_of_newer_gates_pass_through() -> None:
    assert Refused("brand_new", for_model="M", for_developer="D").for_model == "M"
    assert Refused("brand_new").for_model == ""


def test_json_is_exact_or_refused() -> None:
    assert client_json.loads(client_json.dumps({"a": [None, True, 1.5, "é"]})) == {
        "a": [None, True, 1.5, "é"]
    }
    for value in (float("-inf"), (1, float("nan")), {"a": None, "b": float("nan")}):
        with pytest.raises(ValueError, match="NaN"):
            client_json.dumps(value)


def test_attach_finds_only_what_runs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(Terminal, match="sluicegate up"):
        attach(settings)
    (tmp_path / "kafka").mkdir()
    here = broker_process.Started(os.getpid(), psutil.Process().create_time(), 9099, 9100, False, None)
    here.save(tmp_path / "kafka")
    assert attach(settings) == replace(settings, kafka="127.0.0.1:9099")
    replace(here, sasl=True).save(tmp_path / "kafka")
    with pytest.raises(Terminal, match="password"):
        attach(settings)
    replace(here, created_s=here.created_s - 1000).save(tmp_path / "kafka")
    with pytest.raises(Terminal, match="nothing runs here"):
        attach(settings)
    own = replace(settings, kafka="kafka:9092")
    assert attach(own) is own


def test_by_default_it_looks_for_what_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("SLUICEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLUICEGATE_HOME", str(tmp_path))

    async def main() -> None:
        async with AgentClient(AGENT):
            pytest.fail("it connected")

    with pytest.raises(Terminal, match="nothing runs here"):
        run(main())
