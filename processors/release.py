"""A release: everything that decides, under one digest; and its compiled form.

A release is a folder (`release.yaml`, `contracts/*.json`, `policies/*.cedar`). Its digest is the sha256 of the
canonical JSON of {path: sha256 of the file}. `compile_release` parses policies, compiles schemas and typers once;
nothing of that happens per intent. Pure: files arrive as texts. Next: `route.py`, `conform.py`, `cedar.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, cast

import jsonschema_rs
import orjson
import rfc8785
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sluicegate.processors.cedar import PolicyBook, parse_policies
from sluicegate.processors.conform import Typer, compile_typer
from sluicegate.processors.recipes import compile_recipes, policy_recipes
from sluicegate.schemas.errors import Terminal

ToolClass = Literal["read_only", "idempotent", "queryable", "irreversible"]

DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 600_000
"""One call; longer work needs `completion: callback | poll`, which is not built yet."""
CONTROL_CEDAR = "control.cedar"
MAX_RELEASE_BYTES = 16 * 1024 * 1024
"""All files of a release: 32 chunks of 512 kB."""


class Executor(BaseModel):
    """How a tool is reached. Further keys belong to the executor kind."""

    model_config = ConfigDict(extra="allow")
    kind: Literal["http", "python", "in_process"]


class Redactions(BaseModel):
    """What never reaches a tool, and what of its result never reaches an agent."""

    model_config = ConfigDict(extra="forbid")
    arguments: list[str] = []
    result: list[str] = []


class Governance(BaseModel):
    """`x-sluicegate` of a contract. The class defaults to the worst."""

    model_config = ConfigDict(extra="forbid")
    version: str = "1"
    tool_class: ToolClass = Field("irreversible", alias="class")
    executor: Executor
    timeout_ms: int = Field(DEFAULT_TIMEOUT_MS, gt=0, le=MAX_TIMEOUT_MS)
    protected: list[str] = []
    asset: str = ""
    redact: Redactions = Redactions()


class Contract(BaseModel):
    """An MCP tool descriptor plus `x-sluicegate`."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=128)
    description: str = ""
    input_schema: dict[str, object] = Field(alias="inputSchema")
    output_schema: dict[str, object] | None = Field(None, alias="outputSchema")
    governance: Governance = Field(alias="x-sluicegate")


class Manifest(BaseModel):
    """`release.yaml`."""

    model_config = ConfigDict(extra="allow")
    name: str
    version: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class CompiledTool:
    """A contract, ready to be decided on."""

    name: str
    version: str
    tool_class: str
    executor_kind: str
    executor: bytes
    timeout_ms: int
    validator: jsonschema_rs.Validator
    typer: Typer
    result_validator: jsonschema_rs.Validator | None
    contract: Contract
    redact_arguments: tuple[str, ...] = ()
    redact_result: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledRelease:
    """A release, ready to decide."""

    digest: str
    name: str
    version: str
    tools: dict[str, CompiledTool]
    book: PolicyBook
    redactions: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(policy, tool) -> recipes of the policy's `@redact`."""
    control_book: PolicyBook | None = None
    """`control.cedar`: who may change control; None leaves that to the role `operator`."""


def digest_of(files: dict[str, str]) -> str:
    """`sha256:<hex>` over the canonical manifest of the files."""
    manifest = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}
    return (
        "sha256:"
        + hashlib.sha256(rfc8785.dumps(cast("dict[str, rfc8785._impl._Value]", manifest))).hexdigest()
    )


def compile_release(files: dict[str, str]) -> CompiledRelease:
    """Compile a release. Raises `Terminal` with the file and what is wrong with it."""
    if "release.yaml" not in files:
        raise Terminal("the release has no `release.yaml`, point at a release folder")
    try:
        manifest = Manifest.model_validate(yaml.safe_load(files["release.yaml"]))
    except (ValidationError, yaml.YAMLError) as error:
        raise Terminal(f"`release.yaml` is not valid: {_first_line(error)}") from error
    tools: dict[str, CompiledTool] = {}
    for path in sorted(p for p in files if p.startswith("contracts/") and p.endswith(".json")):
        tool = _compile_tool(path, files[path])
        if tool.name in tools:
            raise Terminal(f"contract `{tool.name}` stands twice, the second time in `{path}`")
        tools[tool.name] = tool
    policies = {p: t for p, t in files.items() if p.startswith("policies/") and p.endswith(".cedar")}
    book = parse_policies(policies)
    schemas = {name: _closed(tool.contract) for name, tool in tools.items()}
    redactions = policy_recipes(book.policies, schemas)
    control = parse_policies({CONTROL_CEDAR: files[CONTROL_CEDAR]}) if CONTROL_CEDAR in files else None
    return CompiledRelease(
        digest_of(files), manifest.name, manifest.version, tools, book, redactions, control
    )


def _compile_tool(path: str, text: str) -> CompiledTool:
    try:
        contract = Contract.model_validate(orjson.loads(text))
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise Terminal(f"contract `{path}` is not valid: {_first_line(error)}") from error
    schema = _closed(contract)
    governance = contract.governance
    if governance.executor.kind == "in_process" and governance.redact.result:
        raise Terminal(
            f"contract `{path}` redacts a result that the agent makes itself, run the tool elsewhere"
        )
    try:
        validator = jsonschema_rs.validator_for(schema)
        result = jsonschema_rs.validator_for(contract.output_schema) if contract.output_schema else None
    except (ValueError, jsonschema_rs.ValidationError) as error:
        raise Terminal(
            f"contract `{path}` has a schema that is no JSON Schema: {_first_line(error)}"
        ) from error
    return CompiledTool(
        contract.name, governance.version, governance.tool_class, governance.executor.kind,
        orjson.dumps(governance.executor.model_dump(), option=orjson.OPT_SORT_KEYS), governance.timeout_ms,
        validator, compile_typer(schema, schema), result, contract,
        compile_recipes(schema, governance.redact.arguments, f"contract `{path}`"),
        compile_recipes(contract.output_schema or {}, governance.redact.result, f"contract `{path}`"),
    )  # fmt: skip


def _closed(contract: Contract) -> dict[str, object]:
    # An argument the contract does not name is refused unless the contract opens itself explicitly.
    return {"additionalProperties": False, **contract.input_schema}


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
