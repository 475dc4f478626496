"""The demo's tool server: ends with whoever started it, and answers what nobody recorded: how a call is taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil

from examples.traffic.tool_server import Recorded, load_steps

LIMIT_S = 30
_STARTER = """
import time
from sluicegate.streams import demo
tools = demo.ToolServer(demo.examples())
tools.wait_ready()
print(tools._process.pid, flush=True)
time.sleep(600)
"""


def test_it_dies_with_its_parent() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", _STARTER], cwd=root, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    try:
        server.wait(LIMIT_S)
    finally:
        if server.is_running():
            server.kill()


def test_a_recorded_booking_is_cancelled_by_an_operator_and_read_as_that() -> None:
    recorded = Recorded(load_steps(suites=["airline"]))
    arguments: dict[str, object] = {"reservation_id": "HATHAT"}

    def status(ident: str, tool: str) -> object:
        step = recorded.taken_back(ident, "airline", tool, arguments)
        assert step is not None
        return json.loads(step["result"])["status"]

    assert status("check-1.4", "get_reservation_details") is None
    assert status("undo-1", "cancel_reservation") == "cancelled"
    assert status("check-1.5", "get_reservation_details") == "cancelled"
    arguments["reservation_id"] = "NOBODY"
    assert recorded.taken_back("undo-2", "airline", "cancel_reservation", arguments) is None
    assert recorded.taken_back("undo-3", "slack", "remove_user_from_slack", {"user": "Dora"}) is not None
    assert recorded.taken_back("undo-4", "banking", "send_money", {}) is None
