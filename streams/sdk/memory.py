"""What a session remembers: the verbs of memory, each one a call like any other.

The release needs contracts of executor kind `memory` with these names (docs/memory.md). Scopes: `session`, `agent`, or
`shared:<name>` for agents of the same tenant. Never caches a value. Next: `sdk/session.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held


@dataclass(frozen=True, slots=True)
class Remembered:
    """A value as it was read.

    Attributes:
        version: which one it was; 0 when there is none. Give it as `if_version` to write only over this one.
        gone: there is one, but its bytes were erased or are past their retention.
    """

    value: Json
    version: int
    found: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class FoundKey:
    """One hit of a search; `written_at` in microseconds since the epoch."""

    key: str
    version: int
    size_bytes: int
    written_at: int


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """What a search found, newest first. `before`: give it to search on from there; 0 when all was looked at."""

    keys: tuple[FoundKey, ...]
    examined: int
    before: int = 0


class Calls(Protocol):
    """What the verbs need of a session."""

    async def call_tool(self, tool: str, arguments: Mapping[str, Json]) -> Json | Held:
        """See `Session.call_tool`."""


class Memory:
    """The verbs of memory. Each raises as `call_tool` does, and is `Held` when a person has to agree first."""

    async def _remembered(self, op: str, arguments: dict[str, Json]) -> dict[str, Json] | Held:
        done = await cast(Calls, self).call_tool(f"memory.{op}", arguments)
        return done if isinstance(done, Held) else cast("dict[str, Json]", done)

    async def remember(
        self, key: str, value: Json, *, scope: str = "session", if_version: int | None = None
    ) -> int | Held:
        """Keep a value; returns its version.

        Args:
            scope: `session`, `agent` for all sessions of this agent, or `shared:<name>`.
            if_version: only over this version, 0 for none yet; `Failed` with `version_conflict` otherwise.
        """
        said: dict[str, Json] = {"scope": scope, "key": key, "value": value}
        if if_version is not None:
            said["if_version"] = if_version
        done = await self._remembered("write", said)
        return done if isinstance(done, Held) else int(cast(int, done["version"]))

    async def append(
        self,
        key: str,
        value: Json,
        *,
        scope: str = "session",
        as_text: bool = False,
        if_version: int | None = None,
    ) -> int | Held:
        """Add an item to a list, or text to a text; returns the version. Where there is none yet, it begins a list, or a
        text with `as_text`."""
        said: dict[str, Json] = {"scope": scope, "key": key, "value": value}
        if as_text:
            said["as"] = "text"
        if if_version is not None:
            said["if_version"] = if_version
        done = await self._remembered("append", said)
        return done if isinstance(done, Held) else int(cast(int, done["version"]))

    async def recall(self, key: str, *, scope: str = "session") -> Json | Held:
        """A remembered value, or None when there is none or its bytes are gone; `read` tells which."""
        done = await self._remembered("read", {"scope": scope, "key": key})
        return done if isinstance(done, Held) else done.get("value")

    async def read(self, key: str, *, scope: str = "session") -> Remembered | Held:
        """A remembered value and its version."""
        done = await self._remembered("read", {"scope": scope, "key": key})
        if isinstance(done, Held):
            return done
        version, found, gone = int(cast(int, done["version"])), bool(done["found"]), bool(done.get("gone"))
        return Remembered(done.get("value"), version, found, gone)

    async def forget(self, key: str, *, scope: str = "session", if_version: int | None = None) -> bool | Held:
        """Forget a value; whether there was one."""
        said: dict[str, Json] = {"scope": scope, "key": key}
        if if_version is not None:
            said["if_version"] = if_version
        done = await self._remembered("forget", said)
        return done if isinstance(done, Held) else bool(done["forgotten"])

    async def history(self, limit: int = 20) -> list[dict[str, Json]] | Held:
        """What was said and answered in this session so far, the oldest first; the release needs `memory.history`.

        A turn has a `role`: `user` with `text` or `goal`, `tool` with `tool` and `result`. What may not be told says `withheld`, what
        was erased says `gone`. At most 50 turns and 48 kB: the last ones.
        """
        done = await self._remembered("history", {"limit": limit})
        return done if isinstance(done, Held) else cast("list[dict[str, Json]]", done["turns"])

    async def read_task(self) -> dict[str, Json] | Held | None:
        """What this session is for, as policies know it: `by` (`channel`, or `agent` of its own word), `goal`, and the fields that
        the release declares. None: nothing was said, or nothing is declared. The release needs `memory.history`."""
        done = await self._remembered("history", {"limit": 1})
        return done if isinstance(done, Held) else cast("dict[str, Json] | None", done.get("task"))

    async def search(
        self, prefix: str = "", *, words: str = "", scope: str = "session", limit: int = 10, before: int = 0
    ) -> FoundKeys | Held:
        """Keys that begin so, of values that hold all these words; newest first."""
        said: dict[str, Json] = {
            "scope": scope,
            "prefix": prefix,
            "words": words,
            "limit": limit,
            "before": before,
        }
        done = await self._remembered("search", said)
        if isinstance(done, Held):
            return done
        rows = cast("list[dict[str, Json]]", done["found"])
        keys = tuple(
            FoundKey(
                str(row["key"]), *(int(cast(int, row[name])) for name in ("version", "bytes", "written_at"))
            )
            for row in rows
        )
        return FoundKeys(keys, int(cast(int, done["examined"])), int(cast(int, done.get("before", 0))))
