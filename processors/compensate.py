"""Compensation: which call takes another one back, as its contract says.

    "compensate": {"tool": "refund", "arguments": {"payment": "$.result.id", "amount": "$.args.amount", "note": "taken back"}}

A text that begins with `$.args.` or `$.result.` names a value of the call or of its result; anything else stands for
itself. Pure: it only says what would be asked; the call is authorised like any other. Next: `streams/rollback.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

ARGS, RESULT = "$.args.", "$.result."


class Compensation(BaseModel):
    """`compensate` of a contract."""

    model_config = ConfigDict(extra="forbid")
    tool: str
    arguments: dict[str, object] = {}


def undo_id(agent_id: str, intent_id: str) -> str:
    """The id of the one intent that takes this call back: the same however often it is asked for."""
    return "undo-" + hashlib.sha256(f"{agent_id}\0{intent_id}".encode()).hexdigest()[:32]


def arguments_of(said: Compensation, args: object, result: object) -> tuple[dict[str, object], str]:
    """(the arguments, what is missing for them: a path, or an empty text)."""
    found: dict[str, object] = {}
    for name, value in said.arguments.items():
        if isinstance(value, str) and value.startswith((ARGS, RESULT)):
            root = args if value.startswith(ARGS) else result
            try:
                value = _at(root, value.removeprefix(ARGS).removeprefix(RESULT))
            except LookupError:
                return {}, str(said.arguments[name])
        found[name] = value
    return found, ""


def _at(value: object, path: str) -> object:
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise LookupError(part)
        value = value[part]
    return value
