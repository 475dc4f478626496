"""The demo's tool server ends with whoever started it, whatever ends that one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

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
