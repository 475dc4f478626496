"""What a witness remembers: the last head it cosigned of each log, and heads it refused that prove a fork. One SQLite file.

A head is durable before its cosignature leaves. Who loses the file may cosign another history: back it up, and never run two
witnesses with one key. Never judges. Next: `processors/transparency/witness.py`, `transparency/witness_server.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import Checkpoint
from sluicegate.schemas.errors import Terminal

MAX_REFUSALS = 1_000
"""Kept as evidence, the newest; a note has about 1 kB."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS refusals (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, origin TEXT NOT NULL, code TEXT NOT NULL, why TEXT NOT NULL,
    cosigned TEXT NOT NULL, refused TEXT NOT NULL
);
"""

T = TypeVar("T")


class WitnessMemory:
    """The file. Not shared between processes that write."""

    def __init__(self, path: Path) -> None:
        """Raises `Terminal` for a file that is none of a witness."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Terminal(f"`{path}` cannot be a witness's memory: {error}, name another file") from error

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def note(self, origin: str) -> str:
        """The last note that was cosigned, empty where there is none."""
        row = self._db.execute("SELECT note FROM heads WHERE origin = ?", (origin,)).fetchone()
        return str(row[0]) if row else ""

    def head(self, origin: str) -> Checkpoint | None:
        """Its head."""
        note = self.note(origin)
        return checkpoints.read(note)[0] if note else None

    def advance(self, origin: str, decide: Callable[[Checkpoint | None], tuple[int, str, T]], at: int) -> T:
        """Read the last head, decide, keep the new one: one transaction, so that two requests cannot both continue it.

        `decide` gives size, note and what to answer, or raises: then nothing is kept.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            size, note, answer = decide(self.head(origin))
            self._db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)", (origin, size, note, at))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return answer

    def refuse(self, origin: str, code: str, why: str, refused: str, at: int) -> None:
        """Keep a note that contradicts what was cosigned, beside that one. The same again is kept once."""
        known = self._db.execute(
            "SELECT 1 FROM refusals WHERE refused = ? AND code = ?", (refused, code)
        ).fetchone()
        if known:
            return
        self._db.execute(
            "INSERT INTO refusals (at, origin, code, why, cosigned, refused) VALUES (?, ?, ?, ?, ?, ?)",
            (at, origin, code, why, self.note(origin), refused),
        )
        self._db.execute(
            "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?", (MAX_REFUSALS,)
        )

    def heads(self) -> list[tuple[str, int, int]]:
        """(origin, size, when) of each log."""
        return self._db.execute("SELECT origin, size, at FROM heads ORDER BY origin").fetchall()

    def refusals(self) -> list[tuple[int, str, str, str, str, str]]:
        """(when, origin, code, why, the note cosigned, the note refused), the newest last."""
        return self._db.execute(
            "SELECT at, origin, code, why, cosigned, refused FROM refusals ORDER BY id"
        ).fetchall()
