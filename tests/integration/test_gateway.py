"""The gateway on a real broker: sessions, intents, events, chat completions and decisions, by key; and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from sluicegate.adapters.langgraph import Governed
from sluicegate.gateway import events, openapi
from sluicegate.gateway.server import MAX_BODY_BYTES, make_app
from sluicegate.schemas import codec
from sluicegate.schemas.records import Review
from sluicegate.streams.control import log as control_log
from sluicegate.streams.sdk.errors import Refused
from sluicegate.streams.sdk.gateway_client import GatewayAgent
from sluicegate.streams.sdk.replies import Held

from tests.driver import AGENT, PERSON, Event
from tests.integration.gate import new_settings, now_us, until
from tests.integration.gateway_served import (
    Served,
    serving,
)


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(new_settings(kafka, tmp_path_factory.mktemp("gateway"))) as found:
        yield found


def test_a_session_a_call_and_its_end(served: Served) -> None:
    async def main() -> None:
        session = await served.session(on_behalf_of="person-1")
        ask = {
            "session_id": session,
            "tool": "desk.pay",
            "arguments": {"value": "7"},
            "intent_id": f"{session}-1",
        }
        status, said, headers = await served.call("POST", "/v1/intents", ask, **{"x-request-id": "mine"})
        assert (status, said["status"], said["result"]) == (200, "released", {"ok": True})
        assert headers["x-request-id"] == "mine"
        again = await served.call("POST", "/v1/intents", ask)  # the same request: the first one's answer
        assert again[:2] == (200, said)
        other = await served.call("POST", "/v1/intents", {**ask, "arguments": {"value": "8"}})
        assert (other[0], other[1]["error"]["code"]) == (409, "id_conflict")  # type: ignore[index]
        found = await served.call("GET", f"/v1/intents/{session}-1")
        assert found[:2] == (200, said)
        status, said, _ = await served.call("POST", f"/v1/sessions/{session}/messages", {"text": "thank you"})
        assert (status, said["status"]) == (200, "heard")
        status, said, _ = await served.call("DELETE", f"/v1/sessions/{session}")
        assert (status, said["status"]) == (200, "closed")
        status, said, _ = await served.call("POST", "/v1/intents", {**ask, "intent_id": f"{session}-2"})
        assert status == 403 and said["error"]["code"] == "unknown_session"  # type: ignore[index]

    served.loop.run(main())
    assert sum(served.gate.adapter.called.values()) == 1


def test_refused_held_and_published(served: Served) -> None:
    async def main() -> None:
        session = await served.session()
        ask = {"session_id": session, "tool": "desk.pay", "arguments": {"value": "no"}}
        status, said, _ = await served.call("POST", "/v1/intents", ask)
        error = said["error"]
        assert status == 403 and error["code"] == "forbidden" and error["policies"] == ["desk-not-this"]  # type: ignore[index]
        assert error["for_model"] and error["stage"] == "authorize"  # type: ignore[index]
        status, said, headers = await served.call(
            "POST", "/v1/intents", {**ask, "tool": "desk.ask", "arguments": {}}
        )
        assert (status, said["status"], said["policies"]) == (202, "held", ["desk-ask"])
        assert headers["location"] == f"/v1/intents/{said['intent_id']}"
        status, said, _ = await served.call("POST", "/v1/intents", {**ask, "arguments": {"value": 7}})
        assert status == 400, said
        status, said, _ = await served.call(
            "POST", "/v1/intents", {**ask, "arguments": {"value": "later"}, "wait": False}
        )
        assert (status, said["status"]) == (202, "published")
        status, said, _ = await served.call("GET", f"/v1/intents/{said['intent_id']}?wait_s=20")
        assert (status, said["status"]) == (200, "released")

    served.loop.run(main())


def test_who_may_ask(served: Served) -> None:
    async def main() -> None:
        session = await served.session()
        ask = {"session_id": session, "tool": "desk.read", "arguments": {}}
        for token, status, says in (
            ("", 401, "no API key"),
            (served.token("gone"), 401, "has ended"),
            (served.token(env="prod"), 401, "environment `prod`"),
            (served.token("k1") + "x", 401, "not known"),
            (served.token("lost"), 403, "unknown_agent"),
        ):
            found = await served.call("POST", "/v1/intents", ask, token=token)
            assert found[0] == status and says in str(found[1]), found
            assert "secret" not in str(found[1])
        found = await served.call("POST", "/v1/intents", ask, **{"x-api-key": served.token("k2")})
        assert found[0] == 401 and "once" in str(found[1])
        # The session is the first agent's: for another agent there is none of that name, whatever it says of itself.
        found = await served.call("POST", "/v1/intents", ask, key="k2")
        assert (found[0], found[1]["error"]["code"]) == (403, "unknown_session")  # type: ignore[index]
        found = await served.call("POST", "/v1/intents", {**ask, "agent_id": AGENT}, key="k2")
        assert found[1]["error"]["code"] == "other_agent"  # type: ignore[index]
        # An agent alone cannot say for whom it acts, or what its user said.
        found = await served.call("POST", "/v1/sessions", {"on_behalf_of": "person-1"}, key="k3")
        assert found[1]["error"]["code"] == "scope_missing"  # type: ignore[index]
        found = await served.call("POST", f"/v1/sessions/{session}/messages", {"text": "pay all"}, key="k3")
        assert found[1]["error"]["code"] == "scope_missing"  # type: ignore[index]

    served.loop.run(main())


def test_bounds(served: Served) -> None:
    async def main() -> None:
        for raw, status in (
            (b"{", 400),
            (b"[]", 400),
            (b'{"goal": 7}', 400),
            (b"x" * (MAX_BODY_BYTES + 1), 413),
        ):
            found = await served.call("POST", "/v1/sessions", raw=raw) if status != 413 else None
            if found is not None:
                assert found[0] == status, found
        async with aiohttp.ClientSession() as client:
            headers = {"Authorization": f"Bearer {served.token()}"}
            async with client.post(
                served.gateway.url + "/v1/sessions", data=b"x" * (MAX_BODY_BYTES + 1), headers=headers
            ) as answer:
                assert answer.status == 413
            async with client.get(served.gateway.url + "/nowhere", headers=headers) as answer:
                assert answer.status == 404 and (await answer.json())["error"]["code"] == "not_found"
        found = await served.call("POST", "/v1/intents", {"session_id": "s", "tool": "a", "model": "b"})
        assert found[0] == 400
        asking = [
            served.call("GET", "/v1/models", key="slow") for _ in range(12)
        ]  # at once: its bucket fills each second
        codes = [status for status, _, _ in await asyncio.gather(*asking)]
        assert set(codes) == {200, 429} and codes.count(200) >= 2

    served.loop.run(main())


def test_events_are_taken_up_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(session: str, count: int, last: str = "") -> list[tuple[str, str, dict[str, object]]]:
        headers = {"Authorization": f"Bearer {served.token()}"} | ({"Last-Event-ID": last} if last else {})
        found: list[tuple[str, str, dict[str, object]]] = []
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{served.gateway.url}/v1/sessions/{session}/events", headers=headers) as answer,
        ):
            assert answer.status == 200, await answer.text()
            event: dict[str, str] = {}
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                elif "data" in event:
                    found.append((event["id"], event["event"], json.loads(event["data"])))
                    event = {}
                    if len(found) == count:
                        break
        return found

    async def main() -> None:
        session, other = await served.session(), await served.session()
        ask = {"session_id": session, "tool": "desk.read", "arguments": {}}
        reading = asyncio.create_task(read(session, 2))
        await until(lambda: served.gateway.gate.streams, "the stream is open")
        await served.call("POST", "/v1/intents", {**ask, "session_id": other})
        await served.call("POST", "/v1/intents", ask)
        await served.call("POST", "/v1/intents", {**ask, "tool": "desk.never"})
        first, second = await reading
        assert [first[1], second[1]] == ["released", "refused"]
        assert first[2]["session_id"] == session and first[2]["result"] == {"ok": True}
        assert await read(session, 1, first[0]) == [second]  # nothing is missed, nothing told twice
        wrong = await served.call("GET", f"/v1/sessions/{session}/events", **{"Last-Event-ID": "9-1"})
        assert wrong[0] == 400
        monkeypatch.setattr(events, "MAX_BEHIND", -1_000_000)  # as if that many came behind it
        late = await served.call("GET", f"/v1/sessions/{session}/events", **{"Last-Event-ID": first[0]})
        assert (late[0], late[1]["error"]["code"]) == (410, "too_far_behind")  # type: ignore[index]
        await until(lambda: not served.gateway.gate.streams, "a stream ends with its client")

    served.loop.run(main())


def test_openai_client(served: Served) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(
            base_url=served.gateway.url + "/v1", api_key=served.token(), max_retries=0
        ) as client:
            assert "model.small" in [m.id async for m in client.models.list()]
            said: list[dict[str, str]] = [{"role": "user", "content": "hello there"}]
            raw = await client.chat.completions.with_raw_response.create(
                model="model.small", messages=said, temperature=0.5
            )  # type: ignore[arg-type]
            answer = raw.parse()
            assert answer.choices[0].message.content == "HELLO THERE"
            assert (
                answer.model == "small-1-2026" and answer.usage is not None and answer.usage.total_tokens == 7
            )
            assert raw.headers["x-sluicegate-intent"] and raw.headers["x-sluicegate-session"].startswith(
                "gateway-k1-"
            )
            for options in ({}, {"stream_options": {"include_usage": True}}):
                stream = await client.chat.completions.create(
                    model="model.small", messages=said, stream=True, **options
                )  # type: ignore[call-overload]
                pieces = [piece async for piece in stream]
                text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
                assert text == "HELLO THERE" and [
                    p for p in pieces if (p.model_extra or {}).get("sluicegate")
                ]
                # Only who asks for the usage gets a chunk without choices: others read `choices[0]` of each.
                assert [bool(p.choices) for p in pieces] == [True] * (len(pieces) - len(options)) + [
                    False
                ] * len(options)
                assert (pieces[-1].usage is not None) is bool(options)
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await client.chat.completions.create(model="model.small", messages=said, max_tokens=5_000)  # type: ignore[arg-type]
            assert refused.value.code == "forbidden" and "model-not-that" in str(refused.value.body)
            with pytest.raises(openai.NotFoundError) as absent:
                await client.chat.completions.create(model="gpt-nobody", messages=said)  # type: ignore[arg-type]
            assert absent.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model="model.small", messages=said, n=2)  # type: ignore[arg-type]
        async with openai.AsyncOpenAI(
            base_url=served.gateway.url + "/v1", api_key="sk-x", max_retries=0
        ) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()

    served.loop.run(main())


def test_decision_api(served: Served) -> None:
    async def main() -> None:
        body = {
            "subject": {"type": "agent", "id": AGENT}, "action": {"name": "desk.pay"}, "resource": {"type": "tool", "id": "desk.pay"},
            "context": {"arguments": {"value": "7"}},
        }  # fmt: skip
        status, said, _ = await served.call("POST", "/access/v1/evaluation", body)
        assert status == 200 and said["decision"] is True
        no = {**body, "context": {"arguments": {"value": "no"}}}
        _, said, _ = await served.call("POST", "/access/v1/evaluation", no)
        assert said["decision"] is False and said["context"]["policies"] == ["desk-not-this"]  # type: ignore[index]
        rows = [
            {"action": {"name": "desk.read"}},
            {"action": {"name": "desk.ask"}},
            {"action": {"name": "desk.never"}},
        ]
        _, said, _ = await served.call(
            "POST", "/access/v1/evaluations", {**body, "resource": {}, "evaluations": rows, "context": {}}
        )
        assert [(e["decision"], e["context"]["status"]) for e in said["evaluations"]] == [  # type: ignore[union-attr,index,call-overload]
            (True, "permit"), (False, "hold"), (False, "refuse"),
        ]  # fmt: skip
        for semantic, count in (
            ("execute_all", 3),
            ("deny_on_first_deny", 2),
            ("permit_on_first_permit", 1),
            ("", 0),
            (7, 0),
        ):
            asked = {
                **body,
                "resource": {},
                "evaluations": rows,
                "context": {},
                "options": {"evaluations_semantic": semantic},
            }
            status, said, _ = await served.call("POST", "/access/v1/evaluations", asked)
            assert (status, len(said.get("evaluations", []))) == (200 if count else 400, count), semantic  # type: ignore[arg-type]
        stop = ("quarantine.added", {"scope": "tool", "value": "desk.pay", "why": "a drill"})
        head = await control_log.append(served.gate.settings, served.gate.keys, [stop], who="a test", why="")
        await until(lambda: served.gateway.gate.control.head >= head, "the gateway read of it")
        _, said, _ = await served.call("POST", "/access/v1/evaluation", body)
        assert said["decision"] is False and said["context"]["reason"] == "quarantined"  # type: ignore[index]
        lift = ("quarantine.lifted", {"scope": "tool", "value": "desk.pay"})
        head = await control_log.append(served.gate.settings, served.gate.keys, [lift], who="a test", why="")
        controls = (served.gateway.gate.control_log, served.gate.service.control)
        await until(lambda: all(c.control.head >= head for c in controls), "both read that it is over")
        status, _, _ = await served.call("POST", "/access/v1/evaluation", body, key="k2")
        assert status == 403

    served.loop.run(served.gate.caught_up())
    before = len(served.gate.events)
    served.loop.run(main())
    assert before == len(served.gate.events)  # it only asked


def test_mcp_client(served: Served) -> None:
    """The official client: what is listed, called, refused and pending."""

    async def main() -> None:
        url = served.gateway.url + "/mcp"
        headers = {"Authorization": f"Bearer {served.token()}"}
        async with (
            httpx.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            names = {t.name for t in (await client.list_tools()).tools}
            assert {"desk.read", "desk.pay", "desk.ask", "sluicegate_result"} <= names
            assert not names & {"desk.never", "model.small", "retail.cancel_pending_order"}
            called = await client.call_tool("desk.read", {})
            assert called.structured_content == {"ok": True} and not called.is_error
            refused = await client.call_tool("desk.pay", {"value": "no"})
            assert refused.is_error and (refused.meta or {})["ai.sluicegate/refusal"]["policies"] == [
                "desk-not-this"
            ]
            held = await client.call_tool("desk.ask", {})
            assert held.structured_content and held.structured_content["status"] == "pending"
            intent = str(held.structured_content["intent_id"])
            agree = asyncio.create_task(agreed(intent))
            ended = await client.call_tool("sluicegate_result", {"intent_id": intent})
            await agree
            assert ended.structured_content == {"ok": True}
            wrong = await client.call_tool("desk.pay", {"value": 7})
            assert wrong.is_error
        found = await served.call(
            "POST",
            "/mcp",
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "desk.read"}},
        )
        assert found[0] == 400 and "Mcp-Session-Id" in str(found[1])
        found = await served.call("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "resources/list"})
        assert found[1]["error"]["code"] == -32_601  # type: ignore[index]
        for version, method, answers in (
            ("1999-01-01", "ping", 400), ("2025-06-18", "ping", 200), ("2026-07-28", "server/discover", 200),
        ):  # fmt: skip
            asked = {"jsonrpc": "2.0", "id": 1, "method": method}
            found = await served.call("POST", "/mcp", asked, **{"MCP-Protocol-Version": version})
            assert (found[0], "result" in found[1]) == (answers, version == "2025-06-18"), found
        found = await served.call(
            "POST", "/mcp", {"method": "ping"}, Origin="http://evil.example", Host="evil.example"
        )
        assert found[0] == 403

    async def agreed(intent: str) -> None:
        def held() -> list[Event]:
            return [
                e for _, e in served.gate.events if (e.header.intent_id, e.header.status) == (intent, "held")
            ]

        await until(held, "the held call is read")
        [found] = held()
        digest = found.facts.action_digest  # type: ignore[attr-defined]
        review = Review(
            "r-1", AGENT, intent, "approve", digest, PERSON, now_us(), "fine", release=found.header.release
        )
        await served.gate.put("reviews", codec.encode(review))

    served.loop.run(main())


def test_the_sdk_over_http_and_an_adapter_on_it(served: Served) -> None:
    """The agent holds a key and nothing else: no Kafka address, no credential, no function that could run past an executor."""

    async def main() -> None:
        async with GatewayAgent(served.gateway.url, served.token()) as agent, agent.session("pay") as session:
            assert await session.call_tool("desk.pay", {"value": "sdk"}, intent_id="sdk-1") == {"ok": True}
            with pytest.raises(Refused) as refused:
                await session.call_tool("desk.pay", {"value": "no"})
            assert refused.value.policies == ("desk-not-this",) and refused.value.stage == "authorize"
            held = await session.call_tool("desk.ask", {})
            assert isinstance(held, Held) and held.policies == ("desk-ask",)
            assert await agent.result("sdk-1") == {"ok": True}
            said = await session.call_model("model.small", [{"role": "user", "content": "hi"}], max_tokens=9)
            assert isinstance(said, dict) and said["text"] == "HI"
            await session.user_said("thank you")

            def pay(value: str) -> dict[str, object]:
                """Pay."""
                raise AssertionError("an executor pays, not the agent")

            node = ToolNode(
                [pay], awrap_tool_call=Governed(session, names={"pay": "desk.pay"}).awrap_tool_call
            )
            graph = StateGraph(MessagesState)
            graph.add_node("tools", node)
            graph.add_edge(START, "tools")
            compiled = graph.compile()
            call = {"name": "pay", "args": {"value": "node"}, "id": "c1"}
            calls = sum(served.gate.adapter.called.values())
            for _ in range(2):
                answer = await compiled.ainvoke({"messages": [AIMessage("", tool_calls=[call])]})  # type: ignore[arg-type]
                assert json.loads(answer["messages"][-1].content) == {"ok": True}
            assert sum(served.gate.adapter.called.values()) == calls + 1
        with pytest.raises(Refused, match="not known"):
            async with GatewayAgent(served.gateway.url, served.token() + "x") as agent, agent.session():
                pass
        with pytest.raises(Refused) as away:
            async with GatewayAgent("http://127.0.0.1:9", "key") as agent, agent.session():
                pass
        assert away.value.reason == "unavailable" and not away.value.published

    served.loop.run(main())


def test_the_document_names_every_route(served: Served) -> None:
    app = make_app(served.gateway.gate)
    routes = {
        (r.resource.canonical, r.method.lower())
        for r in app.router.routes()
        if r.resource and r.method != "HEAD"
    }
    assert routes == {(path, method) for path, methods in openapi.PATHS.items() for method in methods}

    async def main() -> None:
        status, said, _ = await served.call("GET", "/openapi.json")
        assert status == 200 and said["openapi"] == "3.1.0"
        status, said, _ = await served.call("GET", "/healthz", token="")
        assert (status, said["alive"]) == (200, True)

    served.loop.run(main())


def test_the_ledger_stays_intact(served: Served, tmp_path: Path) -> None:
    served.loop.run(served.gate.intact())
