"""The README's code runs, and its claims about itself hold."""

import asyncio
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sluicegate.streams import demo, stack
from sluicegate.streams.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_it_is_short_and_its_links_and_tests_exist() -> None:
    assert len(README.splitlines()) <= 200
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:tests|processors|streams|sinks)/[\w/]+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_its_python_runs_against_a_real_gate(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    settings = replace(Settings.from_env({"SLUICEGATE_HOME": str(tmp_path)}), kafka=kafka, env="readme")
    folder = demo.examples()
    tools = demo.ToolServer(folder)
    running = stack.Stack(settings, extra_env=tools.env())
    try:
        tools.wait_ready()
        asyncio.run(stack.prepare(settings))
        head = asyncio.run(demo.deploy(settings, folder))
        for role in ("ledger", "executor"):
            running.start_role(role)
        running.wait_ready()
        demo.wait_for_head(running, head)
        for name, value in stack.environment_of(settings).items():
            monkeypatch.setitem(os.environ, name, value)
        scope: dict[str, object] = {}
        exec(block, scope)
        pay = scope["pay"]
        too_much = {"recipient": "DE1", "amount": 5000, "subject": "rent", "date": "2022-01-01"}
        answer = asyncio.run(pay(too_much))  # type: ignore[operator]
        assert answer.startswith("no: forbidden: forbidden by `banking-"), answer
        (said,) = re.findall(r"`pay\((\{.*?\})\)`", README)
        paid = asyncio.run(pay(json.loads(said)))  # type: ignore[operator]
        assert "Transaction to GB29NWBK60161331926819 for 10.0 sent" in str(paid), paid
        answer = asyncio.run(pay({"recipient": "DE1"}))  # type: ignore[operator]
        assert answer.startswith("no: schema_violation"), answer
    finally:
        running.stop()
        tools.stop()
