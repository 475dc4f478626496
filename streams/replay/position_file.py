"""A position file: how far a replay came, so that a run that was ended goes on there.

JSON, written whole beside itself and renamed, after what it says was done is done. It belongs to one question: another
mode, topic, target, window or selection is refused. Never decides anything. Next: `replay/copying.py`, `commands/replay.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from sluicegate.schemas.errors import Terminal

VERSION = 1


class PositionFile:
    """`at`: partition -> the next offset to read; `counts`: what was found until there. Without a path nothing is kept."""

    def __init__(self, path: Path | None, question: Mapping[str, object]) -> None:
        self._path = path
        self._question = json.loads(json.dumps(question))  # as it is read back
        self.at: dict[int, int] = {}
        self.counts: dict[str, int] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            said = json.loads(path.read_text("utf-8"))
            version, question = said["v"], said["question"]
            self.at = {int(p): int(offset) for p, offset in said["at"].items()}
            self.counts = {str(name): int(n) for name, n in said["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Terminal(f"`{path}` is no position file, remove it or name another one") from error
        if version != VERSION or question != self._question:
            other = sorted(
                k for k in {*question, *self._question} if question.get(k) != self._question.get(k)
            )
            raise Terminal(f"`{path}` belongs to another replay ({', '.join(other)}), remove it or name another one")  # fmt: skip

    def save(self) -> None:
        """Keep where we are; what was done before has to be safe by now."""
        if self._path is None:
            return
        body = {"v": VERSION, "question": self._question, "counts": self.counts}
        body["at"] = {str(p): offset for p, offset in sorted(self.at.items())}
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(body, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
