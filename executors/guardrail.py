"""The `guardrail` adapter: asks the plug-ins that rules of a release name, each in a process that can be killed.

    pyproject.toml of the plug-in's package:      [project.entry-points."sluicegate.guardrails"]
                                                  sanctions = "my_rules.sanctions:check"

    def check(tool: str, arguments: dict, agent: str, session: str) -> str:
        return "" or "why this call is refused" or {"verdict": "hold", "why": "a person should look"}

An empty text passes, another one refuses; a mapping says `pass`, `refuse` or `hold` itself. Anything else, an exception, a
crash and a time-out are failures, and the rule says what those mean (`processors/guardrails/verdicts.py`). A plug-in is not imported here, and gets no Kafka and none of
Sluicegate's own settings. Next: `python.py`, whose processes these are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points

import orjson
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.python import PythonAdapter
from sluicegate.processors.guardrails.verdicts import HOLD, PASS, REFUSE, WHY_CHARS
from sluicegate.schemas.records import Dispatch

GROUP = "sluicegate.guardrails"
"""The entry point group."""

FAILED = "failed"


class GuardrailAdapter:
    """Asks plug-ins one after the other. `plugins`: name -> `module:function`."""

    def __init__(self, plugins: Mapping[str, str], *, environ: Mapping[str, str] = os.environ) -> None:
        self._names = frozenset(plugins)
        self._python = PythonAdapter(plugins, environ=environ)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> GuardrailAdapter:
        """All plug-ins installed beside Sluicegate."""
        return cls({point.name: point.value for point in entry_points(group=GROUP)}, environ=environ)

    async def close(self) -> None:
        """End the idle processes."""
        await self._python.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """Ask every plug-in of the dispatch. Always `Finished`: what failed is said in its row."""
        until = time.monotonic() + timeout_s
        arguments = {
            "tool": dispatch.tool,
            "arguments": orjson.loads(dispatch.arguments),
            "agent": dispatch.agent_id,
            "session": dispatch.session_id,
        }
        rows = []
        for rule in orjson.loads(dispatch.executor)["plugins"]:
            limit_s = min(rule["timeout_ms"] / 1_000, until - time.monotonic())
            verdict, why = await self._ask(dispatch, rule, arguments, limit_s)
            rows.append({"id": rule["id"], "verdict": verdict, "why": why[:WHY_CHARS]})
        return Finished(orjson.dumps(rows))

    async def _ask(
        self, dispatch: Dispatch, rule: dict[str, str], arguments: object, limit_s: float
    ) -> tuple[str, str]:
        """(verdict, why) of one plug-in."""
        name = rule["plugin"]
        if name not in self._names:
            return (
                FAILED,
                f"no plug-in `{name}` is installed here, it is an entry point of the group `{GROUP}`",
            )
        if limit_s <= 0:
            return FAILED, "the plug-ins before it took all the time"
        call = replace(
            dispatch,
            executor=orjson.dumps({"kind": "python", "entry": name}),
            arguments=orjson.dumps(arguments),
            timeout_ms=int(rule["timeout_ms"]),
        )
        answer = await self._python.call(call, limit_s)
        if not isinstance(answer, Finished):
            return FAILED, answer.error if isinstance(answer, Failed) else "it handed work over"
        return _read(orjson.loads(answer.result))


def _read(said: object) -> tuple[str, str]:
    """(verdict, why) of what a plug-in returned."""
    if isinstance(said, str):
        return (REFUSE, said) if said else (PASS, "")
    if not isinstance(said, dict):
        return FAILED, f"the plug-in answered {type(said).__name__}, not a text or a verdict"
    verdict, why = said.get("verdict"), said.get("why", "")
    if verdict in (PASS, REFUSE, HOLD) and isinstance(why, str) and not set(said) - {"verdict", "why"}:
        return verdict, why
    return (
        FAILED,
        'the plug-in answered a mapping that is not {"verdict": "pass | refuse | hold", "why": text}',
    )
