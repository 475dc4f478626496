"""Shared memory over a real Kafka with three partitions: two agents compare and set at a home that is neither's, and
`memory get` tells from the ledger what stood there, now and before. And arguments of 1 MB and a result of 2 MB by way of the artifact
store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.cli import app
from sluicegate.streams.client import AgentClient, Failed, Refused
from sluicegate.streams.rebuild import remembering
from sluicegate.streams.rebuild.remembering import Cut, Where
from sluicegate.streams.replay import replay
from sluicegate.streams.replay.window import Window
from sluicegate.streams.sdk.memory import FoundKeys, Remembered
from sluicegate.streams.sdk.session import Session
from typer.testing import CliRunner

from tests.integration import gate as gates
from tests.integration.gate import Gate
from tests.unit.test_artifacts import TOOL
from tests.unit.test_artifacts import files as artifact_files
from tests.unit.test_labels import MAIL
from tests.unit.test_large_arguments import TOOL as LARGE
from tests.unit.test_large_arguments import files as large_files
from tests.unit.test_shared_memory import FILES, SCOPE
from tests.unit.test_transcript import CONTRACT, POLICY

HISTORY = {"contracts/memory.history.json": CONTRACT, "policies/history.cedar": POLICY}

PARTITIONS = 3
HOME = partition_of(SCOPE, PARTITIONS)
LEFT, RIGHT = (
    next(f"agent-{n}" for n in range(99) if partition_of(f"agent-{n}", PARTITIONS) == (HOME + away) % PARTITIONS)
    for away in (1, 2)
)  # fmt: skip
ROWS: list[dict[str, object]] = [
    {"agent_id": name, "tenant": "acme", "team": "", "roles": ["banking"]} for name in (LEFT, RIGHT)
]


async def read(session: Session, key: str) -> Remembered:
    found = await session.read(key, scope=SCOPE)
    assert isinstance(found, Remembered)
    return found


async def race(left: Session, right: Session) -> None:
    """Both count to ten together, each only over the version it saw."""

    async def count(session: Session) -> int:
        conflicts = 0
        for _ in range(5):
            while True:
                seen = await read(session, "count")
                value = seen.value if isinstance(seen.value, int) else 0
                try:
                    await session.remember("count", value + 1, scope=SCOPE, if_version=seen.version)
                    break
                except Failed as failed:
                    assert failed.reason == "version_conflict"
                    conflicts += 1
        return conflicts

    await asyncio.gather(count(left), count(right))
    assert (await read(left, "count")).value == 10 == (await read(right, "count")).value


async def scenario(gate: Gate, agent: AgentClient, left: Session, right: Session) -> int:
    """What two agents do; the answer is the version of the first price."""
    first = await left.remember("steel", {"eur": 7}, scope=SCOPE, if_version=0)
    assert await read(right, "steel") == Remembered({"eur": 7}, int(first), True)  # type: ignore[arg-type]
    ends = await asyncio.gather(
        *(one.remember("steel", name, scope=SCOPE, if_version=int(first)) for one, name in ((left, "l"), (right, "r"))),  # type: ignore[arg-type]
        return_exceptions=True,
    )  # fmt: skip
    assert sorted(isinstance(end, Failed) for end in ends) == [False, True]
    await race(left, right)
    await left.append("log", "from the left ", scope=SCOPE, as_text=True)
    await right.append("log", "from the right", scope=SCOPE)
    assert (await read(left, "log")).value == "from the left from the right"
    found = await right.search(words="LEFT right", scope=SCOPE)
    assert isinstance(found, FoundKeys) and [one.key for one in found.keys] == ["log"]
    assert await left.forget("log", scope=SCOPE) is True
    assert (await read(right, "log")).found is False
    with pytest.raises(Refused) as refused:
        await left.remember("k", 1, scope="shared:elsewhere")
    assert refused.value.reason == "scope_not_permitted"

    async def answer(dispatch: Dispatch) -> Answer:
        if dispatch.tool == LARGE:
            words = json.loads(dispatch.arguments)["text"].split()
            return Finished(json.dumps({"words": len(words)}).encode())
        return Finished(json.dumps({"text": "x" * 2_000_000}).encode())

    gate.adapter._behave = answer
    told = await left.call_tool(TOOL, {})
    assert isinstance(told, dict) and set(told) == {"artifact"}
    assert await agent.artifact(told) == {"text": "x" * 2_000_000}
    text = "word " * 200_000
    assert await left.call_tool(LARGE, {"text": text}) == {"words": 200_000}
    with pytest.raises(Refused) as refused:
        await left.call_tool("desk.read", {"value": text})
    assert refused.value.reason == "too_large" and "max_argument_bytes" in refused.value.for_developer
    turns = await left.history()
    assert isinstance(turns, list) and turns[-2]["result"] == told
    await left.remember("own", [1], scope="agent")
    await left.append("own", 2, scope="agent")
    return int(first)  # type: ignore[arg-type]


def test_two_agents_and_a_home(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = gates.new_settings(kafka, tmp_path, PARTITIONS)
    store = str(tmp_path / "artifacts")
    for name, value in (
        ("ENV", settings.env),
        ("KAFKA", kafka),
        ("HOME", str(tmp_path)),
        ("ARTIFACTS", store),
    ):
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    files = {**artifact_files(), **large_files(), **MAIL, **FILES, **HISTORY}

    async def everything() -> int:
        async with gates.gate(
            settings, control=[("agents.registered", {"agents": ROWS})], files=files
        ) as gate:
            left, right = AgentClient(LEFT, settings=settings), AgentClient(RIGHT, settings=settings)
            async with left, right, left.session("prices") as one, right.session("prices") as two:
                first = await scenario(gate, left, one, two)
            await gate.intact()
            again = await replay.check(settings, Window(), gate.keys.open)
            assert again.total("different") == again.total("erased") == 0 and again.total("same") > 100
            then = await remembering.remembered(
                settings, Where(LEFT, SCOPE), Cut(seq=first + 1), gate.keys.open
            )
            assert [(v.key, v.value, v.cell.version) for v in then.values] == [("steel", b'{"eur":7}', first)]
            assert [v.cell.agent_id for v in then.values] == [LEFT]
            gone = await remembering.remembered(settings, Where(LEFT, SCOPE), Cut(), lambda *sealed: None)
            assert {v.key for v in gone.values} == {None} and len(gone.values) == 2
            return first

    first = asyncio.run(everything())
    command = ["memory", "get", "--agent", LEFT, "--scope", SCOPE, "--key", "steel"]
    told = CliRunner().invoke(app, [*command, "--as-of", str(first + 1), "-o", "json"])
    assert told.exit_code == 0, told.output
    placed = CliRunner().invoke(app, [*command, "--as-of", f"{HOME}:{first + 1}", "-o", "json"])
    assert placed.output == told.output
    row = json.loads(told.output)
    assert (row["value"], row["version"], row["writer"], row["partition"]) == ({"eur": 7}, first, LEFT, HOME)
    assert row["confidentiality"] == "public"
    own = CliRunner().invoke(app, ["memory", "get", "--agent", LEFT, "--scope", "agent", "--key", "own"])
    assert own.exit_code == 0 and '"writer' not in own.output and "[\n  1,\n  2\n]" in own.output, own.output
    elsewhere = CliRunner().invoke(app, [*command, "--as-of", f"{HOME + 1}:0"])
    assert f"write {HOME}:SEQ" in str(elsewhere.exception), elsewhere.output
    beyond = CliRunner().invoke(app, [*command, "--as-of", "999999999"])
    assert isinstance(beyond.exception, Terminal) and "it ends at " in str(beyond.exception), beyond.output
    never = CliRunner().invoke(app, [*command, "--as-of", "2020-01-01T00:00:00"])
    assert never.exit_code == 1 and "nothing is remembered" in never.output
    listed = (
        CliRunner().invoke(app, ["memory", "list", "--agent", RIGHT, "--scope", SCOPE, "-o", "json"]).output
    )
    assert [row["key"] for row in json.loads(listed)] == ["count", "steel"]
