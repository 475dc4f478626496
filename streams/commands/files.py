"""Files that commands write below a folder: never over one that is there, unless they are told to. Next: `init.py`, `policy.py`."""

from __future__ import annotations

from pathlib import Path

from sluicegate.schemas.errors import Terminal


def write(folder: Path, files: dict[str, str], force: bool) -> None:
    """Write files below a folder. Raises `Terminal` rather than writing over one, unless forced."""
    there = sorted(path for path in files if (folder / path).exists())
    if there and not force:
        raise Terminal(f"`{folder / there[0]}` is there already, take another folder or --force")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
