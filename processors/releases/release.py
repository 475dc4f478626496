"""A release: everything that decides, under one digest; and its compiled form.

A release is a folder (`release.yaml`, `contracts/*.json`, `policies/*.cedar`, `prompts/*.md`). Its digest is the sha256 of the
canonical JSON of {path: sha256 of the file}. `compile_release` parses policies, compiles schemas and typers once;
nothing of that happens per intent. Pure: files arrive as texts. Next: `releases/contract.py` (what people write), `route.py`,
`conform.py`, `policy/cedar.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jsonschema_rs
import orjson
import yaml
from pydantic import ValidationError
from sluicegate.processors.artifacts import with_limit
from sluicegate.processors.budget.rules import NO_BUDGETS, Budgets, read_budgets
from sluicegate.processors.cache.rules import CacheRule, check_cache
from sluicegate.processors.canary.rules import DEFAULT_RULES, CanaryRules, compile_canary
from sluicegate.processors.conform import Typer, compile_typer
from sluicegate.processors.drift.rules import DEFAULT_DRIFT, Drift, check_drift, compile_drift
from sluicegate.processors.grounding import plain
from sluicegate.processors.guardrails.derail import NO_LIMITS, Derail
from sluicegate.processors.guardrails.recipes import compile_recipes
from sluicegate.processors.guardrails.rules import NO_GUARDRAILS, Guardrails
from sluicegate.processors.handoff.terms import TYPES as HANDOFF_TYPES
from sluicegate.processors.labels import (
    CONFIDENTIALITY_RANK,
    RANK,
    UNKNOWN,
    PathLabels,
    compile_labels,
)
from sluicegate.processors.models.routes import CompiledRoute, compile_routes
from sluicegate.processors.policy.cedar import PolicyBook, names_action
from sluicegate.processors.policy.cedar_schema import HANDOFF, ToolTypes
from sluicegate.processors.policy.check import check_control, check_policies
from sluicegate.processors.policy.expressions import short
from sluicegate.processors.policy.files import read_policies
from sluicegate.processors.releases.compensate_check import check_compensations
from sluicegate.processors.releases.contract import MEMORY_OPS, Contract, Manifest
from sluicegate.processors.releases.contract_check import check_contract, check_executor, line_of
from sluicegate.processors.releases.evaluators import EvaluatorRow, check_evaluators
from sluicegate.processors.releases.file import CONTROL_CEDAR, check_parent, digest_of, parent_in
from sluicegate.processors.releases.findings import Finding, errors
from sluicegate.processors.releases.job_check import check_completion
from sluicegate.processors.releases.prompts import READ, Prompt, compile_prompts, contract_for
from sluicegate.processors.releases.rules import closed, defaults, guardrails, redactions
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.processors.releases.task_rules import CompiledTask, compile_task, with_task
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.kinds import BUFFERED, MODEL

UNREADABLE = ("syntax", "contract", "release", "guardrail", "redaction", "route", "prompt")
"""Rules without which there is nothing to decide by, however often a release was proven before."""


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
    protected: dict[str, str]
    constants: dict[str, frozenset[str]]
    defaults: dict[str, frozenset[str]]
    labels: PathLabels
    confidential: PathLabels
    measures: list[str]
    redact_arguments: tuple[str, ...] = ()
    redact_result: tuple[str, ...] = ()
    path: str = ""
    cache: CacheRule | None = None
    route: CompiledRoute | None = None
    """Of an alias: the contracts its calls may go to. Everything else is what these have in common."""
    stream: str = ""
    """Of a model: how a streamed answer leaves it (`models/streaming.py`)."""


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
    roles: tuple[str, ...] = ()
    """Those that `release.yaml` lists; none when it does not."""
    grounding: str = "observe"
    guardrails: Guardrails = NO_GUARDRAILS
    derail: Derail = NO_LIMITS
    require_verified_user: bool = False
    budgets: Budgets = NO_BUDGETS
    prompts: dict[str, Prompt] = field(default_factory=dict)
    canary: CanaryRules = DEFAULT_RULES
    """How a canary against this release is judged."""
    drift: Drift = DEFAULT_DRIFT
    parent: str = ""
    """Digest of the release it was derived from, or empty."""
    evaluators: tuple[EvaluatorRow, ...] = ()
    task: CompiledTask | None = None


def compile_release(files: dict[str, str], *, proven: bool = False) -> CompiledRelease:
    """Compile a release. Raises `Terminal` with the file, the line and what is wrong there.

    `proven`: it was checked when it was published. Then policies are not checked against the contracts again: what
    history was decided under must stay readable by a later, stricter engine (docs/decisions/0007).
    """
    release, findings = build(files, proven=proven)
    wrong = [f for f in errors(findings) if not proven or f.rule in UNREADABLE]
    if release is None or wrong:
        more = f" ({len(wrong) - 1} more: sluicegate release check)" if len(wrong) > 1 else ""
        raise Terminal(f"{wrong[0]}{more}")
    return release


def build(files: dict[str, str], *, proven: bool = False) -> tuple[CompiledRelease | None, list[Finding]]:
    """A release as far as it can be compiled, and everything that is wrong with it. None without a manifest."""
    findings: list[Finding] = []
    manifest = _manifest(files, findings)
    tools: dict[str, CompiledTool] = {}
    for path in sorted(p for p in files if p.startswith("contracts/") and p.endswith(".json")):
        tool = _tool(path, files[path], findings)
        if tool is not None and tool.name == HANDOFF:
            said = f"`{HANDOFF}` is the name of hand-offs, choose another"
            findings.append(_wrong(path, files[path], ["name"], said))
        elif tool is not None and tool.name in tools:
            findings.append(_wrong(path, files[path], ["name"], f"contract `{tool.name}` stands twice"))
        elif tool is not None:
            tools[tool.name] = tool
    prompts = compile_prompts(files, findings)
    models = manifest.models if manifest is not None else {}
    ways = compile_routes(models, tools, files.get("release.yaml", ""), findings)
    texts = {p: t for p, t in files.items() if p.startswith("policies/") and p.endswith(".cedar")}
    policies, unread = read_policies(texts)
    findings += unread
    if text := contract_for(prompts, policies):
        if READ in tools:
            findings.append(_wrong(tools[READ].path, "", [], f"`{READ}` reads prompts, choose another name"))
        elif (read := _tool("", text, findings)) is not None:
            tools[READ] = read
    control = None
    if CONTROL_CEDAR in files:
        rules, unread = read_policies({CONTROL_CEDAR: files[CONTROL_CEDAR]})
        findings += unread
        findings += check_control(rules)
        control = PolicyBook(rules)
    if manifest is None:
        return None, findings
    task = compile_task(manifest.task, files["release.yaml"], findings)
    if not proven:
        # Hand-offs exist for policies only where one names them: else a policy for all tools would have to fit them.
        delegates = any(names_action(p, HANDOFF) for p in policies)
        types = [types_of(t) for t in tools.values()] + ([HANDOFF_TYPES] if delegates else [])
        known = with_task(types, task)
        findings += check_policies(policies, known, manifest.roles)
        findings += check_compensations(tools, files)
        findings += check_parent(manifest.parent, files["release.yaml"])
    findings += check_drift(manifest.drift, set(tools), files["release.yaml"])
    findings += check_evaluators(manifest.evaluators, tools, prompts, files["release.yaml"])
    recipes = redactions(policies, tools, findings)
    release = CompiledRelease(
        digest_of(files), manifest.name, manifest.version, tools, PolicyBook(policies, ways=ways), recipes, control,
        tuple(manifest.roles), manifest.grounding, guardrails(manifest, tools, files, findings), manifest.derail,
        manifest.require_verified_user,
        read_budgets(manifest, sorted(tools), files["release.yaml"], findings), prompts,
        compile_canary(manifest.canary, files["release.yaml"], findings), compile_drift(manifest.drift),
        parent_in(manifest.parent), tuple(manifest.evaluators), task,
    )  # fmt: skip
    return release, findings


def types_of(tool: CompiledTool) -> ToolTypes:
    """What policies may say about a tool."""
    governance = tool.contract.governance
    return ToolTypes(
        tool.name, tool.tool_class, shape_of(tool.contract.input_schema), tuple(governance.protected), tuple(tool.measures),
        tool.executor_kind == MODEL, tool.executor_kind == "memory",
        tuple(way.tool.name for way in tool.route.ways) if tool.route else (),
    )  # fmt: skip


def _manifest(files: dict[str, str], findings: list[Finding]) -> Manifest | None:
    name = "release.yaml"
    if name not in files:
        said = "the release has no `release.yaml`, point at a release folder"
        findings.append(Finding(name, 0, "release", "error", said))
        return None
    try:
        return Manifest.model_validate(yaml.safe_load(files[name]))
    except ValidationError as error:
        path = [str(part) for part in error.errors()[0]["loc"]]
        said = f"`{'.'.join(path) or name}`: {error.errors()[0]['msg']}"
        findings.append(Finding(name, line_of(files[name], path), "release", "error", said))
    except yaml.YAMLError as error:
        findings.append(Finding(name, 0, "release", "error", f"it is not YAML: {short(error)}"))
    return None


def _wrong(path: str, text: str, key: list[str], sentence: str) -> Finding:
    return Finding(path, line_of(text, key), "contract", "error", sentence)


def _tool(path: str, text: str, findings: list[Finding]) -> CompiledTool | None:
    """One contract; None, and a finding, when it is none."""
    key: list[str] = []
    try:
        contract = Contract.model_validate(orjson.loads(text))
        schema, governance = closed(contract), contract.governance
        key = ["x-sluicegate", "executor"]
        if (
            governance.executor.kind == "memory"
            and governance.executor.model_dump().get("op") not in MEMORY_OPS
        ):
            raise Terminal(f"the op of a memory contract is one of {', '.join(MEMORY_OPS)}")
        key = ["x-sluicegate", "redact"]
        if governance.executor.kind == "in_process" and governance.redact.result:
            raise Terminal("it redacts a result that the agent makes itself, run the tool elsewhere")
        arguments = compile_recipes(schema, governance.redact.arguments, "the contract")
        result = compile_recipes(contract.output_schema or {}, governance.redact.result, "the contract")
        key = ["x-sluicegate", "labels"]
        labels = compile_labels(governance.labels, RANK, UNKNOWN)
        key = ["x-sluicegate", "confidential"]
        internal = CONFIDENTIALITY_RANK["internal"]
        confidential = compile_labels(governance.confidential, CONFIDENTIALITY_RANK, internal)
        key = ["inputSchema"]
        validator = jsonschema_rs.validator_for(schema)
        key = ["outputSchema"]
        checker = jsonschema_rs.validator_for(contract.output_schema) if contract.output_schema else None
    except orjson.JSONDecodeError as error:
        findings.append(Finding(path, error.lineno, "contract", "error", f"it is not JSON: {error.msg}"))
        return None
    except ValidationError as error:
        where = [str(part) for part in error.errors()[0]["loc"]]
        said = f"`{'.'.join(where) or 'contract'}`: {error.errors()[0]['msg']}"
        findings.append(_wrong(path, text, where, said))
        return None
    except Terminal as error:
        findings.append(_wrong(path, text, key, str(error)))
        return None
    except (ValueError, jsonschema_rs.ValidationError) as error:
        findings.append(_wrong(path, text, key, f"`{key[0]}` is no JSON Schema: {short(error)}"))
        return None
    shape = shape_of(schema)
    findings += check_contract(path, text, governance.model_dump(by_alias=True), shape)
    executor = governance.executor.model_dump()
    findings += check_executor(path, text, executor, governance.tool_class, schema)
    findings += check_cache(path, text, governance.cache, governance.tool_class, governance.executor.kind)
    findings += check_completion(
        path, text, executor, governance.completion, governance.timeout_ms, governance.heartbeat_s
    )
    findings += with_limit(executor, path, text, governance, governance.cache)
    if governance.completion != "answer":
        executor["completion"] = governance.completion
    return CompiledTool(
        contract.name, governance.version, governance.tool_class, governance.executor.kind,
        orjson.dumps(executor, option=orjson.OPT_SORT_KEYS), governance.timeout_ms,
        validator, compile_typer(shape), checker, contract, dict(governance.protected),
        {name: frozenset(map(plain, values)) for name, values in governance.constants.items()}, defaults(schema),
        labels, confidential, governance.measures, arguments, result, path, governance.cache,
        stream=str(executor.get("stream", BUFFERED)) if governance.executor.kind == MODEL else "",
    )  # fmt: skip
