"""`compensate` and `verify` of contracts against the other contracts of a release.

A compensation that cannot work is found when the release is built, not on the day it is needed: the tool exists, its
arguments exist and the required ones are given, and each path exists in the schema it speaks of.
Pure; never says whether a call can be taken back (`jobs/compensate.py`, `streams/undo/rollback.py`). Next: `releases/release.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sluicegate.processors.jobs.compensate import ARGS, RESULT, Compensation, Verification, unfit
from sluicegate.processors.releases.contract_check import GOVERNANCE, line_of, missing_part
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.processors.releases.shapes import shape_of

if TYPE_CHECKING:
    from sluicegate.processors.releases.release import CompiledTool

INSIDE = ("in_process", "memory")
"""Kinds of executors that only the agent itself has."""
COMPENSATE, VERIFY = "compensate", "verify"


def check_compensations(tools: Mapping[str, CompiledTool], files: Mapping[str, str]) -> list[Finding]:
    """What contracts say about taking calls back that cannot be meant."""
    return [
        Finding(tool.path, line_of(files[tool.path], [GOVERNANCE, key]), "compensation", "error", said)
        for _, tool in sorted(tools.items())
        for key, said in _faults(tool, tools)
    ]


def _faults(tool: CompiledTool, tools: Mapping[str, CompiledTool]) -> Iterator[tuple[str, str]]:
    """(key, sentence)."""
    governance = tool.contract.governance
    if governance.compensate is not None:
        if tool.tool_class == "read_only":
            yield COMPENSATE, f"`{tool.name}` is read only: there is nothing to take back"
        yield from _call_faults(COMPENSATE, governance.compensate, tool, tools)
    verify = governance.verify
    if verify is None:
        return
    if governance.compensate is None:
        yield VERIFY, "`verify` reads back a compensation, give the contract `compensate`, too"
    reader = tools.get(verify.tool)
    if reader is not None and reader.tool_class != "read_only":
        yield VERIFY, f"`{verify.tool}` is {reader.tool_class}, `verify` needs a tool that is read_only"
    yield from _call_faults(VERIFY, verify, tool, tools)
    if wrong := unfit(verify.expect):
        yield VERIFY, f"`expect` {wrong}"


def _call_faults(
    key: str, said: Compensation | Verification, tool: CompiledTool, tools: Mapping[str, CompiledTool]
) -> Iterator[tuple[str, str]]:
    other = tools.get(said.tool)
    if other is None:
        yield (
            key,
            f"`{key}` names the tool `{said.tool}`, and no contract does{nearest(said.tool, sorted(tools))}",
        )
        return
    if other.executor_kind in INSIDE:
        yield (
            key,
            f"`{said.tool}` runs inside an agent, and an operator takes calls back: name a tool of an executor",
        )
    takes = shape_of(other.contract.input_schema)
    required = other.contract.input_schema.get("required")
    for name in required if isinstance(required, list) else []:
        if name not in said.arguments:
            yield key, f"`{said.tool}` needs the argument `{name}`, and `{key}` does not give it"
    for name, value in said.arguments.items():
        if missing := missing_part(takes, name):
            part, names = missing
            yield key, f"`{said.tool}` has no argument `{part}`{nearest(part, names)}"
        if isinstance(value, str) and value.startswith((ARGS, RESULT)):
            yield from _path_fault(key, value, tool)


def _path_fault(key: str, path: str, tool: CompiledTool) -> Iterator[tuple[str, str]]:
    if path.startswith(ARGS):
        where, schema = "inputSchema", tool.contract.input_schema
    else:
        where, schema = "outputSchema", tool.contract.output_schema or {}
    if "properties" not in schema:
        return  # it says nothing of what there is
    if missing := missing_part(shape_of(schema), path.removeprefix(ARGS).removeprefix(RESULT)):
        part, names = missing
        yield key, f"`{key}` names `{path}`, but {where} has no `{part}`{nearest(part, names)}"
