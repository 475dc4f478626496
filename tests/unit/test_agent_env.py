"""`doctor --agent-env`: keys by name and by shape, the broker's credentials, others' keys, open ways out; never a value."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.streams import agent_env
from sluicegate.streams.cli import app
from typer.testing import CliRunner

SECRETS = {
    "OPENAI_API_KEY": "anything-at-all",
    "ANTHROPIC_API_KEY": "x" * 40,
    "AWS_SECRET_ACCESS_KEY": "y" * 40,
    "HF_TOKEN": "hf_" + "a1" * 17,
    "INNOCENT": "sk-" + "proj0123456789abcdefABCDEF",
    "BILLING": "postgres://u:hunter22x@db.internal/bills",
    "SLUICEGATE_KAFKA_PASSWORD": "correct-horse",
    "SLUICEGATE_TOOL_TOOLS_URL": "http://tools.internal",
    "SLUICEGATE_SECRET_TILL": "abc",
    "SLUICEGATE_CLICKHOUSE": "http://ch.internal:8123",
    "SLUICEGATE_LOCAL": "release",
}
DOUBTFUL = {
    "TILL_PASSWORD": "short",
    "SLUICEGATE_KAFKA": "kafka:9092",
    "https_proxy": "http://proxy.internal:3128",
}
FINE = {
    "PATH": "/usr/bin",
    "SLUICEGATE_GATEWAY": "https://g",
    "SLUICEGATE_KEY": "sg.dev.k1.secret",
    "HOME": "/",
    "EMPTY_TOKEN": "",
}


def test_what_is_found_and_how_grave_it_is() -> None:
    found = agent_env.look({**SECRETS, **DOUBTFUL, **FINE})
    assert {f.where.split(",")[0] for f in found if f.grave} == SECRETS.keys()
    assert {f.where.split(",")[0] for f in found if not f.grave} == DOUBTFUL.keys()
    assert all(f.todo for f in found)


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12),
    st.sampled_from(sorted(SECRETS)),
)
def test_no_value_is_ever_shown(value: str, name: str) -> None:
    assert value not in str(agent_env.look({name: value}))


def test_the_roles_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "mac.json").write_text("{}")
    (tmp_path / "keys" / "a.jwk").write_text("{}")
    assert [(f.what, f.grave) for f in agent_env.keys_in(tmp_path)] == [
        ("a signing key", False),
        ("the roles' keys", True),
    ]
    assert agent_env.keys_in(tmp_path / "none") == []


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_open_ways_out(listening: int) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        shut = int(closed.getsockname()[1])
        hosts = [f"127.0.0.1:{listening}", f"127.0.0.1:{shut}", "nowhere.invalid:443"]
        assert [f.where for f in asyncio.run(agent_env.reached(hosts))] == [f"127.0.0.1:{listening} answers"]


def test_hosts_of_a_release() -> None:
    urls = ["https://api.example/v1/x", "${TOOLS_URL}/pay", "${GONE}/x", "http://h:99999/", "ftp://f/"]
    found = agent_env.hosts_of(urls, {"SLUICEGATE_TOOL_TOOLS_URL": "http://tools:8000"})
    assert found[-2:] == ["api.example:443", "tools:8000"] and agent_env.METADATA in found


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    monkeypatch.setattr(agent_env, "PROVIDERS", ())
    monkeypatch.setattr(agent_env, "METADATA", f"127.0.0.1:{listening}")
    contracts = tmp_path / "release" / "contracts"
    contracts.mkdir(parents=True)
    (tmp_path / "release" / "release.yaml").write_text("name: x\nversion: '1'\n")
    text = json.dumps({"x-sluicegate": {"executor": {"url": "http://nowhere.invalid/x"}}})
    (contracts / "x.json").write_text(text)
    env = tmp_path / "env"
    env.write_text(
        f"# of the agent\nexport OPENAI_API_KEY='{SECRETS['INNOCENT']}'\nSLUICEGATE_HOME={tmp_path}\n"
    )
    asked = [
        "doctor",
        "--agent-env",
        "--env-file",
        str(env),
        "--release",
        str(tmp_path / "release"),
        "-o",
        "json",
    ]
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 1 and SECRETS["INNOCENT"] not in answer.output
    assert [row["check"] for row in json.loads(answer.stdout)] == ["a provider's key", "an open way out"]
    monkeypatch.setattr(agent_env, "METADATA", "nowhere.invalid:1")
    env.write_text("SLUICEGATE_KEY=x\0SLUICEGATE_HOME=/nowhere\0")
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 0 and "nothing leads past the gate" in answer.stdout
    assert CliRunner().invoke(app, ["doctor", "--release", "x"]).exit_code != 0
