"""The JSON Schema of release.yaml takes what the code takes. That every key is described: `test_docs.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import ValidationError
from sluicegate.processors.releases.contract import Manifest
from sluicegate.processors.releases.schema import FILE_NAME, LANGUAGE_SERVER, release_schema
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests.unit.test_attempts import files as model_files

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = release_schema()
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
RELEASES = sorted(p for top in ("examples", "bench") for p in (ROOT / top).glob("**/release.yaml"))
NAMED = {"name": "x", "version": "1"}


@pytest.mark.parametrize("path", RELEASES, ids=[str(p.relative_to(ROOT)) for p in RELEASES])
def test_every_release_here_fits(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text("utf-8")))


def test_the_docs_examples_fit() -> None:
    VALIDATOR.validate(yaml.safe_load(model_files()["release.yaml"]))
    assert len(RELEASES) >= 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "1"}, {**NAMED, "version": 1}, {**NAMED, "grounding": "maybe"}, {**NAMED, "roles": "clerk"},
        {**NAMED, "budgets": [{"id": "b", "scope": "agent", "unit": "calls"}]},
        {**NAMED, "budgets": [{"id": "b", "scope": "planet", "unit": "calls", "cap": 1}]},
        {**NAMED, "limits": [{"id": "b", "scope": "agent", "unit": "requests", "cap": -1, "window": "day"}]},
        {**NAMED, "guardrails": [{"id": "g", "on": "call", "verdct": "refuse"}]},
        {**NAMED, "models": {"triage": {"candidates": []}}}, {**NAMED, "derail": {"calls": -1}},
        {**NAMED, "canary": {"alpha": 0}}, {**NAMED, "prices": {"m": {"input_per_mtok": 1}}},
    ],
)  # fmt: skip
def test_what_the_code_refuses_the_editor_marks(wrong: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid(wrong)
    with pytest.raises(ValidationError):
        Manifest.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {**NAMED, "parent": "sha256:ab"},
        {**NAMED, "guardrails": [{"id": "g", "on": "call", "detect": ["cards"]}]},
        {**NAMED, "models": {"t": {"candidates": [{"contract": "m"}], "on_error": {"rate_limits": "stop"}}}},
    ],
)
def test_words_that_are_checked_later_are_marked_too(wrong: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid(wrong)


def test_own_keys_are_welcome_at_the_top() -> None:
    VALIDATOR.validate({**NAMED, "edition": "2", "defaults": {"timeout_ms": 5}})


def test_init_writes_it_and_names_it(tmp_path: Path) -> None:
    catalogue = tmp_path / "tools.json"
    catalogue.write_text(json.dumps({"tools": [{"name": "a", "inputSchema": {"type": "object"}}]}))
    made = CliRunner().invoke(app, ["release", "init", str(tmp_path / "made"), "--from-mcp", str(catalogue)])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "made" / "release.yaml").read_text().splitlines()[0] == LANGUAGE_SERVER
    printed = CliRunner().invoke(app, ["release", "schema"])
    assert json.loads(printed.output) == json.loads((tmp_path / "made" / FILE_NAME).read_text()) == SCHEMA
