"""Plug-ins that `test_guardrail_adapter.py` asks."""

from __future__ import annotations

import os
import time
from typing import Any


def careful(tool: str, arguments: dict[str, Any], agent: str, session: str) -> str:
    return f"`{arguments['to']}` is on the list" if arguments.get("to") == "bad" else ""


def says_yes(**_: object) -> bool:
    return True


def wants_a_person(arguments: dict[str, Any], **_: object) -> dict[str, str]:
    return {"verdict": "hold", "why": f"who is `{arguments['to']}`?"}


def says_maybe(**_: object) -> dict[str, str]:
    return {"verdict": "maybe"}


def hangs(**_: object) -> str:
    time.sleep(600)
    return ""


def crashes(**_: object) -> str:
    os.abort()


def raises(**_: object) -> str:
    raise ValueError("no list today")


def tells(**call: object) -> str:
    return f"{sorted(call)} {os.environ.get('SLUICEGATE_KAFKA', 'nothing')}"


def refuses_all(**_: object) -> str:
    return "never"
