"""A session handed from an agent on one partition to one on another, over a real Kafka, in a signed environment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.client import AgentClient, Refused
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.settings import Settings

from tests.driver import DESK_FILES, release_files
from tests.integration import gate as gates
from tests.integration.gate import RESULT, until
from tests.integration.test_signed import FOREVER, MAC, PIPELINE_MAC, write_macs

PARTITIONS = 2
LEAD, WORKER = (
    "lead",
    next(f"worker-{i}" for i in range(9) if partition_of(f"worker-{i}", 2) != partition_of("lead", 2)),
)
POLICIES = (
    DESK_FILES["policies/desk.cedar"]
    + """
@id("hand-on") permit (principal in Role::"leads", action == Action::"handoff", resource)
when { context.args.max_calls <= 3 };
"""
)
FILES = {**release_files(), "release.yaml": "name: hands\nversion: '1'\n", "policies/desk.cedar": POLICIES}


def added(kid: str, principal: str, role: str, public: str = "", alg: str = "Ed25519") -> tuple[str, dict[str, object]]:  # fmt: skip
    about = {"kid": kid, "principal": principal, "role": role, "alg": alg, "public": public}
    return "key.added", {**about, "not_before": 0, "not_after": FOREVER}


async def deploy(settings: Settings) -> list[tuple[str, dict[str, object]]]:
    compiled = compile_release(FILES)
    digest = await releases.publish(settings, FILES)
    about: dict[str, object] = {"digest": digest, "name": compiled.name, "version": compiled.version}
    rows = [{"agent_id": LEAD, "roles": ["leads"]}, {"agent_id": WORKER, "roles": ["workers"]}]
    return [("agents.registered", {"agents": rows}), ("release.published", about), ("release.deployed", {"digest": digest})]  # fmt: skip


def test_a_session_crosses_partitions(kafka: str, tmp_path: Path) -> None:
    settings = gates.new_settings(kafka, tmp_path, PARTITIONS)
    write_macs(tmp_path, {"x": MAC.hex(), "p": PIPELINE_MAC.hex()})
    keys = {name: key_files.create(tmp_path / f"{name}.jwk", name) for name in (LEAD, WORKER, "chat")}

    async def scenario() -> None:
        control = [
            added("x", "executor", "executor", alg="HS256"),
            added("p", "pipeline", "pipeline", alg="HS256"),
            added("chat", "chat", "channel", keys["chat"].public.hex()),
            *(added(name, name, "agent", keys[name].public.hex()) for name in (LEAD, WORKER)),
        ]
        async with gates.gate(settings, signing="signed", control=control) as gate:
            await control_log.append(settings, gate.keys, await deploy(settings), who="a test", why="a test")
            head = (await control_log.read(settings)).control.head
            await gate.service.control.wait_for(head)
            lead = AgentClient(
                LEAD, settings=settings, key=tmp_path / f"{LEAD}.jwk", channel=tmp_path / "chat.jwk"
            )
            worker = AgentClient(WORKER, settings=settings, key=tmp_path / f"{WORKER}.jwk")
            async with lead, worker, lead.session("sort the post", on_behalf_of="ana") as mine:
                with pytest.raises(Refused) as refused:
                    await mine.hand_on(WORKER, max_calls=4)
                assert refused.value.reason == "no_permit"
                session = await mine.hand_on(WORKER, goal="the letters", max_calls=2)
                async with worker.join(session) as theirs:
                    for _ in range(2):
                        assert await theirs.call_tool("desk.set", {}) == json.loads(RESULT)
                    with pytest.raises(Refused) as refused:
                        await theirs.call_tool("desk.set", {})
                    assert refused.value.reason == "budget_exhausted"
                with pytest.raises(Refused) as refused:
                    await mine.hand_on(WORKER, max_calls=2, session_id=session + "x" * 300)
                assert refused.value.reason in ("schema_violation", "bad_identifier")
            await until(
                lambda: len([e for e in gate.events if e[1].header.session_id == session]) > 1,
                "it was played",
            )
            opened = [
                e for _, e in gate.events if e.header.session_id == session and e.header.status == "opened"
            ]
            assert [(e.header.agent_id, e.header.subject) for e in opened] == [(WORKER, "ana")]
            await gate.intact()

    asyncio.run(scenario())
