"""The demo's material holds together: slice, contracts, policies, registry and the recorded tools' server.

Never reads the recordings the slice was cut from: a checkout does not have them.
Read next: `examples/traffic/README.md`.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cedarpy
import jsonschema_rs
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # plain `pytest` does not add the working directory
    sys.path.insert(0, str(ROOT))
tool_server = importlib.import_module("examples.traffic.tool_server")

TRAFFIC = ROOT / "examples" / "traffic"
RELEASE = ROOT / "examples" / "release"
CLASSES = {"read_only", "idempotent", "queryable", "irreversible"}
NO_SUCH_TOOL = {"slack.<empty-function-name>"}
UNREGISTERED = {"airline-agent-deepseek-chat"}

Step = dict[str, Any]


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    loaded: list[Step] = tool_server.load_steps()
    return loaded


@pytest.fixture(scope="module")
def contracts() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in (RELEASE / "contracts").glob("*.json")}


def test_steps_have_the_documented_fields(steps: list[Step]) -> None:
    common = {"session", "agent", "suite", "seq", "kind", "source_run", "labels"}
    for step in steps:
        assert re.fullmatch(r"[a-z0-9.-]+", step["agent"])
        assert re.fullmatch(rf"{step['suite']}-\d{{4}}", step["session"])
        if step["kind"] == "user_message":
            assert set(step) == common | {"text"}
            assert isinstance(step["text"], str)
        else:
            assert step["kind"] == "tool_call"
            assert set(step) == common | {"tool", "arguments", "result", "error"}
            assert isinstance(step["arguments"], dict)
            assert isinstance(step["result"], str)
            assert step["error"] is None or isinstance(step["error"], str)


def test_sessions_are_whole_and_ordered(steps: list[Step]) -> None:
    """Contiguous, rising `seq`, one agent and run each, and as many steps as the run had."""
    manifest = json.loads((TRAFFIC / "manifest.json").read_text("utf-8"))
    recorded = {
        entry["session"]: entry for suite in manifest["suites"].values() for entry in suite["sessions"]
    }
    found: dict[str, Step] = {}
    for session, group in itertools.groupby(steps, key=lambda step: step["session"]):
        assert session not in found, "the steps of a session stand together"
        lines = list(group)
        assert lines[0]["kind"] == "user_message"
        assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
        assert len({(line["agent"], line["source_run"]) for line in lines}) == 1
        kinds = Counter(line["kind"] for line in lines)
        found[session] = {
            "session": session,
            "agent": lines[0]["agent"],
            "user_messages": kinds["user_message"],
            "tool_calls": kinds["tool_call"],
        }
    assert found == recorded


def test_slice_is_mixed_and_small(steps: list[Step]) -> None:
    calls = [step for step in steps if step["kind"] == "tool_call"]
    assert 1800 <= len(calls) <= 2200
    agents = Counter(step["agent"] for step in calls)
    assert 8 <= len(agents) <= 25
    assert max(agents.values()) <= len(calls) / 8
    for suite in ("banking", "slack"):
        attacked = Counter(bool(step["labels"]["attack"]) for step in calls if step["suite"] == suite)
        assert min(attacked.values()) >= 0.35 * attacked.total()
    errors = {(step["error"] or "").split(":")[0] for step in calls}
    assert {"ValidationError", "TypeError", "ValueError"} <= errors
    assert sum(path.stat().st_size for path in TRAFFIC.rglob("*") if path.suffix != ".pyc") < 1_500_000


def test_packed_files_carry_no_time() -> None:
    for path in TRAFFIC.glob("*.jsonl.gz"):
        assert path.read_bytes()[4:8] == bytes(4)
        assert gzip.decompress(path.read_bytes()).endswith(b"\n")


def test_contracts_are_complete_and_compile(contracts: dict[str, dict[str, Any]]) -> None:
    for name, contract in contracts.items():
        assert contract["name"] == name
        schema, own = contract["inputSchema"], contract["x-sluicegate"]
        jsonschema_rs.validator_for(schema)
        assert schema["additionalProperties"] is False
        assert own["class"] in CLASSES
        assert own["executor"]["url"] == "${TOOLS_URL}/" + name.replace(".", "/")
        arguments = set(schema["properties"])
        assert set(own["protected"]) <= arguments
        assert set(re.findall(r"\{(\w+)\}", own.get("asset", ""))) <= set(schema.get("required", []))


def test_every_tool_has_a_contract_and_every_agent_is_known(
    steps: list[Step], contracts: dict[str, dict[str, Any]]
) -> None:
    calls = [step for step in steps if step["kind"] == "tool_call"]
    assert {f"{step['suite']}.{step['tool']}" for step in calls} - set(contracts) == NO_SUCH_TOOL
    registry = yaml.safe_load((RELEASE / "agents.yaml").read_text("utf-8"))["agents"]
    assert {step["agent"] for step in calls} - set(registry) == UNREGISTERED
    roles = yaml.safe_load((RELEASE / "release.yaml").read_text("utf-8"))["roles"]
    for agent in registry.values():
        assert set(agent) == {"tenant", "team", "roles"}
        assert set(agent["roles"]) <= set(roles)


def test_policies_parse_and_have_unique_ids(contracts: dict[str, dict[str, Any]]) -> None:
    seen: Counter[str] = Counter()
    roles = yaml.safe_load((RELEASE / "release.yaml").read_text("utf-8"))["roles"]
    files = sorted((RELEASE / "policies").glob("*.cedar"))
    assert [path.stem for path in files] == sorted(roles)
    for path in files:
        text = path.read_text("utf-8")
        policies = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
        ids = [policy["annotations"]["id"] for policy in policies]
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ids)
        seen.update(ids)
        assert set(re.findall(r'Action::"([^"]+)"', text)) <= set(contracts)
        assert set(re.findall(r'Role::"([^"]+)"', text)) == {path.stem}
    assert [name for name, count in seen.items() if count > 1] == []


async def _ask(client: TestClient[Any, Any], step: Step, intent: str, key: str) -> tuple[int, dict[str, str]]:
    headers = {"Idempotency-Key": key, "X-Sluicegate-Intent": intent}
    async with client.post(
        f"/{step['suite']}/{step['tool']}", json=step["arguments"], headers=headers
    ) as response:
        return response.status, await response.json()


def test_server_answers_as_recorded_and_journals(steps: list[Step]) -> None:
    calls = [step for step in steps if step["kind"] == "tool_call" and "<" not in step["tool"]]
    good = [step for step in calls if step["error"] is None][:40]
    bad = [step for step in calls if step["error"] is not None][:5]

    async def scenario() -> None:
        async with TestClient(TestServer(tool_server.build_app(steps))) as client:
            for step in good:
                intent = tool_server.intent_id(step)
                assert await _ask(client, step, intent, intent) == (200, {"result": step["result"]})
            for step in bad:
                assert await _ask(client, step, tool_server.intent_id(step), "bad") == (
                    422,
                    {"error": step["error"]},
                )
            again = good[0]
            assert (await _ask(client, again, tool_server.intent_id(again), tool_server.intent_id(again)))[
                0
            ] == 200
            async with client.get("/journal") as response:
                journal = await response.json()
        assert journal == {tool_server.intent_id(step): 1 for step in good} | {
            tool_server.intent_id(again): 2,
            "bad": len(bad),
        }

    asyncio.run(scenario())


def test_server_falls_back_to_what_was_asked(steps: list[Step]) -> None:
    """An intent id nobody recorded, or one of another tool: the first equal request answers, else 404."""
    step = next(step for step in steps if step["kind"] == "tool_call" and step["tool"] == "get_balance")
    other = next(step for step in steps if step["kind"] == "tool_call" and step["tool"] == "send_money")

    async def scenario() -> None:
        async with TestClient(TestServer(tool_server.build_app([step, other]))) as client:
            for intent in ("unknown:1", tool_server.intent_id(other)):
                assert await _ask(client, step, intent, "k") == (200, {"result": step["result"]})
            never = step | {"arguments": {"never": "asked"}}
            assert (await _ask(client, never, "unknown:1", "k"))[0] == 404
            async with client.post(
                "/banking/get_balance", data=b"[1", headers={"Idempotency-Key": "k"}
            ) as response:
                assert response.status == 400
            async with client.post("/banking/get_balance", json={}) as response:
                assert response.status == 400
            async with client.get("/journal") as response:
                assert await response.json() == {"k": 3}

    asyncio.run(scenario())
