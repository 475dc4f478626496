"""People at the gateway: held calls are listed, shown, agreed to, changed and rejected, by token; and asked of the person at an MCP client.

All of it in an unsigned and in a signed environment; in the signed one every other door is walked through, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import aiohttp
import httpx
import openai
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestFormParams, ElicitResult
from sluicegate.schemas.records import IntentFacts

from tests.driver import AGENT, PERSON, agents
from tests.integration.gate import LIMIT_S, new_settings
from tests.integration.gateway_served import (
    Served,
    key_of,
    person_token,
    serving,
    signing_keys,
)

KEYLESS = next(str(a["agent_id"]) for a in agents() if "airline" in str(a["agent_id"]))
"""A registered agent that nobody made a key for."""


@pytest.fixture(scope="module", params=["dev", "signed"])
def served(
    request: pytest.FixtureRequest, kafka: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    settings = new_settings(kafka, tmp_path_factory.mktemp("gateway-people"))
    keys = signing_keys(settings.home) if request.param == "signed" else []
    control = [*keys, key_of("keyless", KEYLESS, "agent")]
    with serving(settings, signing=request.param, control=control) as found:
        yield found


async def held(served: Served, tool: str = "desk.ask", **arguments: object) -> str:
    """A call that waits for a person."""
    session = await served.session()
    ask = {"session_id": session, "tool": tool, "arguments": arguments}
    status, said, _ = await served.call("POST", "/v1/intents", ask)
    assert (status, said["status"]) == (202, "held"), said
    return str(said["intent_id"])


async def listed(served: Served, intent: str, token: str) -> dict[str, object]:
    """The row of a held call, once the list has it: it is of what the ledger shows, and good for a while."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        status, said, _ = await served.call("GET", "/v1/approvals", token=token)
        assert status == 200, said
        for row in said["approvals"]:  # type: ignore[attr-defined]
            if row["intent_id"] == intent:
                return row  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.5)


def test_a_person_agrees(served: Served) -> None:
    async def main() -> None:
        intent = await held(served, value="7")
        ana = person_token()
        row = await listed(served, intent, ana)
        assert (row["tool"], row["why"], row["quorum"], row["approvals"]) == (
            "desk.ask",
            "a person agrees to this",
            1,
            [],
        )
        _, shown, _ = await served.call("GET", f"/v1/approvals/{intent}", token=ana)
        assert (shown["arguments"], shown["exact"], shown["action_digest"]) == (
            {"value": "7"},
            True,
            row["digest"],
        )
        word = {"verdict": "approve", "digest": row["digest"], "why": "fine"}
        other = await served.call("POST", f"/v1/approvals/{intent}", {**word, "digest": "00" * 32}, token=ana)
        assert (other[0], other[1]["word"], other[1]["error"]["code"]) == (409, "void", "digest_mismatch")  # type: ignore[index]
        status, said, _ = await served.call("POST", f"/v1/approvals/{intent}", word, token=ana)
        assert (status, said["word"], said["status"], said["person"]) == (200, "approved", "released", PERSON)
        assert (await served.call("GET", f"/v1/intents/{intent}?wait_s=20"))[1]["status"] == "released"
        again = await served.call("POST", f"/v1/approvals/{intent}", word, token=ana)
        assert (again[0], again[1]["error"]["code"]) == (404, "not_held")  # type: ignore[index]

    served.loop.run(main())


def test_two_people_and_an_edit(served: Served) -> None:
    async def main() -> None:
        intent = await held(served, "desk.wire", value="1100")
        path = f"/v1/approvals/{intent}"
        # By a program that stands between, with a key of its own.
        ana = {"x-sluicegate-person": person_token()}
        first = (await served.call("GET", path, key="people", **ana))[1]["action_digest"]
        status, said, _ = await served.call(
            "POST", path, {"verdict": "approve", "digest": first}, key="people", **ana
        )
        assert (status, said["word"], said["missing"]) == (202, "agreed", 1)
        ben = person_token("ben")
        edit = {"verdict": "approve", "digest": first, "arguments": {"value": "900"}}
        assert (await served.call("POST", path, {**edit, "arguments": {"value": 9}}, token=ben))[0] == 403
        status, said, _ = await served.call("POST", path, edit, token=ben)
        assert (status, said["word"], said["edited"], said["approvals"]) == (202, "agreed", True, ["ben"])
        shown = (await served.call("GET", path, key="people", **ana))[1]
        assert (shown["arguments"], shown["original"]) == ({"value": "900"}, {"value": "1100"})
        word = {"verdict": "approve", "digest": shown["digest"]}
        status, said, _ = await served.call("POST", path, word, key="people", **ana)
        assert (status, said["word"], said["status"]) == (200, "approved", "released")
        # Who has none of the roles that are asked for sees no such call.
        intent = await held(served, "desk.wire", value="2")
        cem = person_token("cem")
        assert (await served.call("GET", f"/v1/approvals/{intent}", token=cem))[0] == 404
        assert intent not in str((await served.call("GET", "/v1/approvals", token=cem))[1])
        digest = (await served.call("GET", f"/v1/approvals/{intent}", token=ben))[1]["action_digest"]
        no = {"verdict": "reject", "digest": digest}
        assert (await served.call("POST", f"/v1/approvals/{intent}", no, token=ben))[0] == 400  # say why
        status, said, _ = await served.call(
            "POST", f"/v1/approvals/{intent}", {**no, "why": "not ours"}, token=ben
        )
        assert (status, said["word"]) == (200, "rejected")
        assert (await served.call("GET", f"/v1/intents/{intent}?wait_s=20"))[0] == 403

    served.loop.run(main())


def test_no_agent_approves(served: Served) -> None:
    async def main() -> None:
        intent = await held(served)
        word = {"verdict": "approve", "digest": "00" * 32}
        for token in (
            served.token(),
            served.token("people"),
            person_token(scope="openid"),
            person_token("nobody"),
            "a.b.c",
        ):
            assert (await served.call("POST", f"/v1/approvals/{intent}", word, token=token))[0] in (
                401,
                403,
            ), token
            assert (await served.call("GET", "/v1/approvals", token=token))[0] in (401, 403), token
        headers = {"x-sluicegate-person": person_token()}
        assert (await served.call("GET", "/v1/approvals", key="k1", **headers))[
            0
        ] == 403  # a key without the scope

    served.loop.run(main())


def test_elicitation(served: Served) -> None:
    asked: list[ElicitRequestFormParams] = []
    says: list[dict[str, str]] = []

    async def person(context: object, params: object) -> ElicitResult:
        assert isinstance(params, ElicitRequestFormParams)
        asked.append(params)
        return (
            ElicitResult(action="accept", content=dict(says[-1]))
            if says[-1]
            else ElicitResult(action="decline")
        )

    async def main() -> None:
        url = served.gateway.url + "/mcp"
        key = {"Authorization": f"Bearer {served.token('people')}"}
        async with (
            httpx.AsyncClient(headers={**key, "x-sluicegate-person": person_token()}, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http), elicitation_callback=person) as client,
        ):
            says.append({"decision": "approve", "why": "fine"})
            done = await client.call_tool("desk.ask", {"value": "elicited"})
            assert done.structured_content == {"ok": True} and not done.is_error
            assert (
                '{"value":"elicited"}' in asked[-1].message and "a person agrees to this" in asked[-1].message
            )
            says.append({"decision": "reject", "why": "no"})
            refused = await client.call_tool("desk.ask", {})
            assert refused.is_error and (refused.meta or {})["ai.sluicegate/refusal"]["status"] == "refused"
            for word in ({"decision": "later"}, {}):
                says.append(word)
                later = await client.call_tool("desk.ask", {})
                assert later.structured_content and later.structured_content["status"] == "pending"
            says.append({"decision": "approve"})
            more = await client.call_tool("desk.wire", {"value": "3"})  # two people have to agree
            assert more.structured_content and more.structured_content["status"] == "pending"
        before = len(asked)
        async with (  # nobody is asked where no person stands behind the client, whatever it declares
            httpx.AsyncClient(headers=key, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http), elicitation_callback=person) as client,
        ):
            alone = await client.call_tool("desk.ask", {})
            assert (
                alone.structured_content
                and alone.structured_content["status"] == "pending"
                and len(asked) == before
            )

    served.loop.run(main())


def test_every_door(served: Served) -> None:
    """Sessions, what the user said, calls asked again, events, models, MCP, may it: what is signed is signed by the gateway's keys."""

    async def main() -> None:
        signed = served.gateway.gate.control.signing == "signed"
        session = await served.session(on_behalf_of="customer-1")
        status, said, _ = await served.call("POST", f"/v1/sessions/{session}/messages", {"text": "read mine"})
        assert (status, said["status"]) == (200, "heard"), said
        ask = {"session_id": session, "tool": "desk.read", "arguments": {"value": "mine"}}
        headers = {"Idempotency-Key": "door-1"}
        first = await served.call("POST", "/v1/intents", ask, **headers)
        again = await served.call("POST", "/v1/intents", ask, **headers)
        assert (first[0], again[0], first[1]) == (200, 200, again[1]), (first, again)
        other = await served.call("POST", "/v1/intents", {**ask, "arguments": {"value": "x"}}, **headers)
        assert (other[0], other[1]["error"]["code"]) == (409, "id_conflict")  # type: ignore[index]
        assert (await served.call("GET", f"/v1/intents/{first[1]['intent_id']}"))[1]["status"] == "released"
        # Events of it, with a call whose id is known before.
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {served.token()}"}) as client,
            client.get(f"{served.gateway.url}/v1/sessions/{session}/events") as stream,
        ):
            assert await stream.content.readline() == b": open\n"
            await served.call("POST", "/v1/intents", {**ask, "intent_id": "door-event"})
            async for line in stream.content:
                if line.startswith(b"data: "):
                    assert json.loads(line[6:])["intent_id"] == "door-event"
                    break
        async with openai.AsyncOpenAI(
            base_url=served.gateway.url + "/v1", api_key=served.token(), max_retries=0
        ) as chat:
            message = {"role": "user", "content": "hello"}
            answer = await chat.chat.completions.create(model="model.small", messages=[message])  # type: ignore[list-item]
            assert answer.choices[0].message.content == "HELLO"
            response = await chat.responses.create(model="model.small", input="hello")
            assert response.output_text == "HELLO"
        async with (
            httpx.AsyncClient(
                headers={"Authorization": f"Bearer {served.token('k2')}"}, timeout=60
            ) as http,  # a key that speaks for no channel
            Client(streamable_http_client(served.gateway.url + "/mcp", http_client=http)) as mcp,
        ):
            done = await mcp.call_tool("desk.read", {"value": "7"})
            assert done.structured_content == {"ok": True}
        may = {
            "subject": {"type": "agent", "id": AGENT}, "action": {"name": "desk.read"},
            "resource": {"type": "tool", "id": "desk.read"}, "context": {"arguments": {"value": "7"}},
        }  # fmt: skip
        status, said, _ = await served.call("POST", "/access/v1/evaluation", may)
        assert (status, said["decision"]) == (200, True), said
        closed = await served.call("DELETE", f"/v1/sessions/{session}")
        assert closed[0] == 200
        # An agent whose key does not lie here is nobody's fault who asks.
        status, said, _ = await served.call("POST", "/v1/sessions", {}, key="keyless")
        assert (status, said.get("error", {}).get("code")) == ((503, "no_key") if signed else (201, None)), (
            said
        )  # type: ignore[attr-defined]

    served.loop.run(main())


def test_who_signed_stands_on_the_ledger(served: Served) -> None:
    signed = served.gateway.gate.control.signing == "signed"
    asked = [e.facts for _, e in served.gate.events if isinstance(e.facts, IntentFacts)]
    assert asked and all(facts.authenticated is signed for facts in asked)


def test_the_ledger_stays_intact(served: Served) -> None:
    served.loop.run(served.gate.intact())
