"""What a release declares of its sessions' tasks: `task:` of `release.yaml`, the JSON Schema of an object.

Never reads a session. Pure. Next: `sessions/task.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import jsonschema_rs
from pydantic import BaseModel
from sluicegate.processors.conform import Json, Typer, compile_typer
from sluicegate.processors.policy.cedar_schema import ToolTypes
from sluicegate.processors.policy.expressions import short
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.processors.releases.shapes import Shape, shape_of

GOAL = "goal"
"""The field that every task has, and no release may declare."""


class Tasks(BaseModel):
    """`task:` of `release.yaml`."""

    task: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class CompiledTask:
    """What `task:` of a release declares."""

    shape: Shape
    validator: jsonschema_rs.Validator
    typer: Typer
    required: bool
    """Whether there is no task without a field."""


def compile_task(schema: dict[str, Json], text: str, findings: list[Finding]) -> CompiledTask | None:
    """Compile `task:` of a release; None where there is none, or it is none."""
    if not schema:
        return None
    whole: dict[str, Json] = {"type": "object", "additionalProperties": False, **schema}
    properties, problem = whole.get("properties", {}), ""
    try:
        validator = jsonschema_rs.validator_for(whole)
    except (ValueError, jsonschema_rs.ValidationError) as error:
        problem = f"it is no JSON Schema of an object: {short(error)}"
    if not problem and (not isinstance(properties, dict) or whole["type"] != "object"):
        problem = "it is the schema of an object, declare its fields under `properties`"
    elif not problem and GOAL in cast("dict[str, Json]", properties):
        problem = f"every task has `{GOAL}`, choose another name"
    if problem:
        findings.append(
            Finding("release.yaml", line_of(text, ["task"]), "release", "error", f"`task`: {problem}")
        )
        return None
    required = cast("list[Json]", whole.get("required") or [])
    fields = {**cast("dict[str, Json]", properties), GOAL: {"type": "string"}}
    shape = shape_of({**whole, "properties": fields, "required": [*required, GOAL]})
    return CompiledTask(shape, validator, compile_typer(shape), bool(required))


def with_task(types: Iterable[ToolTypes], declared: CompiledTask | None) -> list[ToolTypes]:
    """What policies may say about tools, and of the task of the sessions they are called in."""
    return [replace(one, task=declared.shape) if declared is not None else one for one in types]
