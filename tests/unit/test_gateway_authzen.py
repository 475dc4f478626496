"""What the decision API takes for a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from sluicegate.gateway import authzen
from sluicegate.gateway.access import Rates, caller_of
from sluicegate.streams.sdk.json import Json

from tests.driver import Driver
from tests.unit.test_gateway_access import TOKEN, a_gate, asked, control_with_key

TOOL = "desk.read"


@pytest.mark.parametrize(
    ("resource", "taken"),
    [
        ({}, True),
        ({"type": "tool"}, True),
        ({"type": "tool", "id": TOOL}, True),
        ({"type": "account", "id": "DE02"}, True),  # of the caller's own words: policies see the arguments
        ({"type": "tool", "id": "desk.pay"}, False),
        ({"type": "tool", "id": ""}, False),
        ({"type": "tool", "id": None}, False),
        ({"type": "tool", "id": [TOOL]}, False),
    ],
)
def test_an_answer_is_about_the_tool_that_both_name(
    resource: dict[str, Json], taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authzen, "ask", lambda *_, **__: Verdict())
    driver: Driver = control_with_key()
    caller = caller_of(asked(x_api_key=TOKEN), driver.control, driver.now, Rates())
    gate = a_gate(driver, tmp_path)
    monkeypatch.setattr(type(gate), "release", Release())
    body: dict[str, Json] = {"action": {"name": TOOL}, "resource": resource}
    if taken:
        assert authzen._evaluate(gate, caller, body)["decision"] is True
        return
    with pytest.raises(web.HTTPBadRequest) as wrong:
        authzen._evaluate(gate, caller, body)
    assert "`action.name` is the tool" in json.loads(wrong.value.text or "")["error"]["message"]


class Release:
    """One that is in force."""

    digest = "sha256:0"


class Verdict:
    """A call that is permitted."""

    status, stage, reason, policies, for_developer, for_model = "permit", "plan", "", (), "", ""
