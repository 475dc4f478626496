"""`sluicegate status` leaves no role out, and says of which it knows only what this machine runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sluicegate.streams import role_files, roles
from sluicegate.streams.commands.status import processes
from sluicegate.streams.inspect.status import ELSEWHERE_UNKNOWN, GROUPED


def announce(home: Path, role: str, pid: int, text: str = "") -> None:
    path = role_files.role_file(home, role, pid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or json.dumps({"role": role, "pid": pid, "port": 8000 + pid % 100}), "utf-8")


def test_every_role_that_a_worker_can_be_is_shown() -> None:
    assert sorted((*GROUPED, *ELSEWHERE_UNKNOWN)) == sorted(roles.ALL)
    said = processes(dict.fromkeys(roles.ALL, 1))
    assert all(f"{role} 1" in said for role in roles.ALL)


def test_one_that_nothing_works_without_is_red_at_none() -> None:
    said = processes(dict.fromkeys(roles.ALL, 0))
    assert [role for role in roles.ALL if f"[red]{role} 0" in said] == [
        role for role in roles.ALL if role in roles.DEFAULT_ROLES
    ]


def test_processes_here_are_those_that_live(tmp_path: Path) -> None:
    announce(tmp_path, "checkpointer", os.getpid())
    announce(tmp_path, "checkpointer", 1 << 22)  # beyond the largest pid: it was killed
    announce(tmp_path, "evaluator", os.getpid(), "{")
    assert [one.pid for one in role_files.here(tmp_path, "checkpointer")] == [os.getpid()]
    assert role_files.here(tmp_path, "evaluator") == []
    assert role_files.here(tmp_path, "gateway") == []
