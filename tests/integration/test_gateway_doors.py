"""All doors of one running gate: the same refusal explained in each, agents of each framework by Kafka, what one client is told
no other hears, and a stop that drains.

Run with `-s` to read what each door says (docs/gateway.md has it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import Iterator

import aiohttp
import httpx
import openai
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from sluicegate.gateway.server import Gateway
from sluicegate.streams.client import AgentClient, Refused
from sluicegate.streams.demo import examples

from tests.driver import AGENT
from tests.integration import frameworks
from tests.integration.gate import new_settings, until
from tests.integration.gateway_served import (
    WAITING,
    ControlEvent,
    Served,
    key_of,
    person_token,
    serving,
)
from tests.unit.test_shared_memory import FILES as MEMORY

CLOSED = """
@id("desk-closed")
forbid (principal == Agent::"AGENT", action in [Action::"desk.set", Action::"model.small"], resource);
""".replace("AGENT", AGENT)
TENANTS = ("acme", "globex")
AGENTS = [f"{tenant}-{n}" for tenant in TENANTS for n in range(2)]
DESK = "support-7"
REFUNDS = {
    f"{kind}/{path.name}": path.read_text("utf-8")
    for kind in ("contracts", "policies")
    for path in (examples() / "refunds" / kind).iterdir()
}
"""What the examples 02 are governed by."""
ROWS = [
    {"agent_id": name, "tenant": name.partition("-")[0], "team": "", "roles": ["banking"]} for name in AGENTS
]
SCOPES = ("session", "agent", "shared:prices")
STEPS = 160
SEED = 20_261_128


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    files = {**MEMORY, "policies/closed.cedar": CLOSED, **REFUNDS}
    control: list[ControlEvent] = [
        (
            "agents.registered",
            {"agents": [*ROWS, {"agent_id": DESK, "tenant": "acme", "team": "", "roles": ["support"]}]},
        ),
        *(key_of(name, name, "agent") for name in AGENTS),
    ]
    settings = new_settings(kafka, tmp_path_factory.mktemp("gateway-doors"))
    with serving(settings, files=files, control=control) as found:
        yield found


# -- the same refusal in all doors ---------------------------------------------------------------------------------------


async def by_sdk(served: Served) -> dict[str, object]:
    async with (
        AgentClient(AGENT, settings=served.gate.settings) as agent,
        agent.session(goal="tidy up") as session,
    ):
        with pytest.raises(Refused) as refused:
            await session.call_tool("desk.set", {"value": "7"})
    error = refused.value
    print(
        f"\n$ sdk: await session.call_tool('desk.set', ...)\nRefused: {error}\n  for_model: {error.for_model}"
    )
    return {
        "reason": error.reason,
        "stage": error.stage,
        "policies": list(error.policies),
        "model": error.for_model,
        "developer": error.for_developer,
    }


async def by_http(served: Served) -> dict[str, object]:
    session = await served.session()
    ask = {"session_id": session, "tool": "desk.set", "arguments": {"value": "7"}}
    status, said, _ = await served.call("POST", "/v1/intents", ask)
    error = said["error"]
    print(
        f'\n$ curl $G/v1/intents -d \'{{"tool": "desk.set", ...}}\'\nHTTP {status}\n{json.dumps(error, indent=1)}'
    )
    assert status == 403
    return {
        "reason": error["code"],
        "stage": error["stage"],
        "policies": error["policies"],
        "model": error["for_model"],
        "developer": error["for_developer"],
    }  # type: ignore[index]


async def by_openai(served: Served) -> dict[str, object]:
    async with openai.AsyncOpenAI(
        base_url=served.gateway.url + "/v1", api_key=served.token(), max_retries=0
    ) as client:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.chat.completions.create(
                model="model.small", messages=[{"role": "user", "content": "hello"}]
            )
    error = refused.value.body
    assert isinstance(error, dict)
    print(
        f"\n$ openai: client.chat.completions.create(model='model.small', ...)\nPermissionDeniedError: {json.dumps(error, indent=1)}"
    )
    more = error["sluicegate"]
    return {
        "reason": error["code"],
        "stage": more["stage"],
        "policies": more["policies"],
        "model": error["message"],
        "developer": more["developer"],
    }


async def by_mcp(served: Served) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {served.token()}"}
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(served.gateway.url + "/mcp", http_client=http)) as client,
    ):
        said = await client.call_tool("desk.set", {"value": "7"})
    assert said.is_error
    meta = said.meta or {}
    print(
        f"\n$ mcp: tools/call desk.set\nisError: {said.content[0].text}\n  _meta: {json.dumps(meta, indent=1)}"
    )  # type: ignore[union-attr]
    about = meta["ai.sluicegate/refusal"]
    return {
        "reason": about["reason"],
        "stage": about["stage"],
        "policies": about["policies"],
        "model": said.content[0].text,
        "developer": meta["ai.sluicegate/developer"],
    }  # type: ignore[union-attr]


async def tail(served: Served) -> str:
    """What `sluicegate tail` shows beside them."""
    s = served.gate.settings
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluicegate.streams.cli", "tail", "--no-follow", "-n", "40", "--agent", AGENT,
        env={**os.environ, "SLUICEGATE_ENV": s.env, "SLUICEGATE_KAFKA": s.kafka or "", "SLUICEGATE_HOME": str(s.home), "COLUMNS": "160"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


def test_the_same_refusal_in_all_doors(served: Served) -> None:
    async def main() -> None:
        found = [await door(served) for door in (by_sdk, by_http, by_openai, by_mcp)]
        assert all(one == found[0] for one in found), found
        assert (found[0]["reason"], found[0]["stage"], found[0]["policies"]) == (
            "forbidden",
            "authorize",
            ["desk-closed"],
        )
        assert found[0]["model"] and found[0]["developer"]
        lines = [line for line in (await tail(served)).splitlines() if "desk-closed" in line]
        print("\n$ sluicegate tail --agent " + AGENT, *lines, sep="\n")
        assert len(lines) == 4

    served.loop.run(main())


# -- agents of each framework --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", frameworks.RUNS)
def test_an_agent_of_a_framework(served: Served, framework: str) -> None:
    """Allowed, refused and held; a person agrees over HTTP; run again with the same session in another process, nothing happens twice."""
    run, session_id = frameworks.RUNS[framework], f"{framework}-session"

    async def main() -> None:
        till = frameworks.Till()
        async with (
            AgentClient(DESK, settings=served.gate.settings) as agent,
            agent.session("refunds", session_id=session_id) as session,
        ):
            (said, held), go_on = await run(session, till)
            assert (json.loads(said[0]), till.paid) == ({"refunded": 12}, [12])
            assert "not permitted" in said[1]
            await until(lambda: served.gate.life(held)[-1:] == ["held"], "the third call to be held")
            path, ana = f"/v1/approvals/{held}", person_token()
            digest = (await served.call("GET", path, token=ana))[1]["action_digest"]
            word = {"verdict": "approve", "digest": digest}
            status, came, _ = await served.call("POST", path, word, token=ana)
            assert (status, came["word"]) == (200, "approved"), came
            last = await go_on()
            assert json.loads(last[-1]) == {"refunded": 500} and till.paid == [12, 500]
        async with (
            AgentClient(DESK, settings=served.gate.settings) as agent,
            agent.session("refunds", session_id=session_id) as session,
        ):
            again = frameworks.Till()
            with contextlib.suppress(
                Exception
            ):  # nothing is held any more: the run goes on where the first one waited
                await run(session, again)
            assert again.paid == []

    served.loop.run(main())


# -- what one client is told no other hears ------------------------------------------------------------------------------


class Listener:
    """A client that follows one session."""

    def __init__(self, agent: str, session: str) -> None:
        self.agent, self.session = agent, session
        self.heard: list[dict[str, object]] = []
        self.open = False

    async def follow(self, served: Served) -> None:
        headers = {"Authorization": f"Bearer {served.token(self.agent)}"}
        path = f"{served.gateway.url}/v1/sessions/{self.session}/events"
        async with aiohttp.ClientSession() as client, client.get(path, headers=headers) as stream:
            assert stream.status == 200
            self.open = True
            async for line in stream.content:
                if line.startswith(b"data: "):
                    self.heard.append(json.loads(line[6:]))


def owner(scope: str, agent: str, session: str) -> tuple[str, ...]:
    """Whose a value is."""
    if scope == "session":
        return (agent, session)
    return (agent,) if scope == "agent" else (agent.partition("-")[0], scope)


def test_what_one_client_is_told_no_other_hears(served: Served) -> None:
    """Two tenants, eight sessions with a client each; a value that was written in one scope is read in no other."""

    async def main() -> None:
        chance, listeners = random.Random(SEED), [Listener(a, f"same-{n}") for a in AGENTS for n in range(2)]
        for one in listeners:  # the sessions' names are the same for every agent
            assert (await served.call("POST", "/v1/sessions", {"session_id": one.session}, key=one.agent))[
                0
            ] == 201
        tasks = [asyncio.create_task(one.follow(served)) for one in listeners]
        await until(lambda: all(one.open for one in listeners), "everybody listens")
        written: dict[str, tuple[tuple[str, ...], str]] = {}
        mine: dict[str, Listener] = {}

        async def step(number: int) -> None:
            one, scope, key = chance.choice(listeners), chance.choice(SCOPES), chance.choice("ab")
            writes, ident = (
                chance.random() < 0.5,
                f"same-id-{number // 4}-{one.agent}" if number % 2 else f"i-{number}",
            )
            arguments: dict[str, object] = {"scope": scope, "key": key}
            if writes:
                arguments["value"] = f"value-{number}"
                written[f"value-{number}"] = (owner(scope, one.agent, one.session), key)
            body = {
                "session_id": one.session,
                "tool": f"memory.{'write' if writes else 'read'}",
                "arguments": arguments,
                "intent_id": ident,
            }
            status, said, _ = await served.call("POST", "/v1/intents", body, key=one.agent)
            if status == 409:
                return  # the id is of another request of this agent
            assert status == 200, said
            mine[f"{one.agent} {ident}"] = one
            value = said["result"].get("value")  # type: ignore[attr-defined]
            if not writes and value is not None:
                # INVARIANT: issue 6: a value written in one scope is never returned in another.
                assert written[value] == (owner(scope, one.agent, one.session), key), (
                    value,
                    written[value],
                    body,
                )

        for begin in range(0, STEPS, 8):
            await asyncio.gather(*(step(n) for n in range(begin, begin + 8)))
        await until(
            lambda: sum(len(one.heard) for one in listeners) >= len(mine), "everybody heard of theirs"
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in listeners:
            for event in one.heard:
                assert event["session_id"] == one.session
                if (
                    (result := event.get("result"))
                    and isinstance(result, dict)
                    and result.get("value") is not None
                ):
                    where = written[result["value"]][0]
                    assert where[0] in (one.agent, one.agent.partition("-")[0]), (where, one.agent)
                assert (
                    mine[f"{one.agent} {event['intent_id']}"].session == one.session
                    or event["reason"] == "id_conflict"
                )
        foreign = await served.call("GET", f"/v1/intents/{next(iter(mine)).split()[1]}?wait_s=0.2", key="k2")
        assert foreign[0] == 504  # another agent's intent is none of theirs

    served.loop.run(main(), 180)


# -- a stop that drains --------------------------------------------------------------------------------------------------


def test_a_stop_lets_what_is_under_way_end(served: Served) -> None:
    async def main() -> None:
        second = Gateway(served.gate.settings)
        await second.start()
        other = Served(served.loop, served.gate, second)
        key = AGENTS[0]
        session = (await other.call("POST", "/v1/sessions", {}, key=key))[1]["session_id"]
        listener = Listener(key, str(session))
        following = asyncio.create_task(listener.follow(other))
        await until(lambda: listener.open, "somebody listens")
        ask = {
            "session_id": session,
            "model": "model.small",
            "arguments": {"messages": [{"role": "user", "content": "slowly"}]},
        }
        asking = asyncio.create_task(other.call("POST", "/v1/intents", ask, key=key))
        await until(lambda: WAITING, "the model is asked")
        stopping = asyncio.create_task(second.stop())
        await until(lambda: second.gate.closing, "it stops")
        status, said, headers = await other.call("POST", "/v1/intents", ask, key=key)
        assert (status, said["error"]["code"], headers["retry-after"]) == (503, "overloaded", "1")  # type: ignore[index]
        assert (await other.call("GET", "/healthz", token=""))[0] == 503
        WAITING.pop().set()
        assert (await asking)[0] == 200
        await stopping
        await following  # its stream ended in order, and can be taken up at another gateway
        with contextlib.suppress(aiohttp.ClientError):
            await other.call("GET", "/healthz")
            pytest.fail("it still listens")

    served.loop.run(main())


def test_the_ledger_stays_intact(served: Served) -> None:
    served.loop.run(served.gate.intact())
