"""The files by which this machine's processes say their role and their port: `<home>/roles/<role>-<pid>.json`.

Never asks a process anything. Next: `app.py` (who writes them), `inspect/status.py` and `doctor.py` (who read).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import psutil


class Here(NamedTuple):
    """One process of this machine."""

    pid: int
    port: int

    @property
    def alive(self) -> bool:
        """Whether it is still there: one that was killed leaves its file behind."""
        return bool(psutil.pid_exists(self.pid))


def role_file(home: Path, role: str, pid: int) -> Path:
    """Where a role's process says which port it serves."""
    return home / "roles" / f"{role}-{pid}.json"


def role_files(home: Path, role: str) -> list[Path]:
    """Every file of a role, also of processes that are gone."""
    return sorted((home / "roles").glob(f"{role}-*.json"))


def read(path: Path) -> Here | None:
    """What one file says; None when it says nothing that can be read."""
    try:
        about = json.loads(path.read_text("utf-8"))
        return Here(int(about["pid"]), int(about["port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def here(home: Path, role: str) -> list[Here]:
    """The role's processes that live on this machine."""
    return [one for path in role_files(home, role) if (one := read(path)) is not None and one.alive]
