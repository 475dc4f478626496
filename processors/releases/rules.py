"""A release's rules against its contracts: guardrails, redactions and defaults, compiled once.

What cannot work becomes a finding of the file and line it stands in. Never decides about a call.
Next: `releases/release.py` (who asks), `guardrails/rules.py`, `guardrails/recipes.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sluicegate.processors.grounding import plain
from sluicegate.processors.guardrails.recall_rules import compile_recalls
from sluicegate.processors.guardrails.recipes import policy_recipes
from sluicegate.processors.guardrails.rules import NO_GUARDRAILS, Guardrails, compile_guardrails
from sluicegate.processors.handoff.terms import RULED
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.errors import Terminal

if TYPE_CHECKING:
    from sluicegate.processors.releases.contract import Contract, Manifest
    from sluicegate.processors.releases.release import CompiledTool


def guardrails(
    manifest: Manifest, tools: dict[str, CompiledTool], files: dict[str, str], findings: list[Finding]
) -> Guardrails:
    """The compiled guardrails, none when one of them does not work."""
    inputs = {HANDOFF: RULED} | {name: closed(tool.contract) for name, tool in tools.items()}
    outputs = {name: tool.contract.output_schema or {} for name, tool in tools.items()}
    try:
        return compile_guardrails(
            manifest.guardrails, inputs, outputs, compile_recalls(manifest.recall, tools)
        )
    except Terminal as error:
        at = [str(i) for i, g in enumerate(manifest.guardrails) if f"`{g.id}`" in str(error)]
        line = line_of(files["release.yaml"], ["guardrails", *at[:1]])
        findings.append(Finding("release.yaml", line, "guardrail", "error", str(error)))
        return NO_GUARDRAILS


def redactions(
    policies: list[Policy], tools: dict[str, CompiledTool], findings: list[Finding]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """(policy, tool) -> recipes of the policy's `@redact`."""
    schemas = {name: closed(tool.contract) for name, tool in tools.items()}
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for policy in policies:
        try:
            found.update(policy_recipes([policy], schemas))
        except Terminal as error:
            source = policy.source
            findings.append(Finding(source.path, source.line_of("redact"), "redaction", "error", str(error)))
    return found


def defaults(schema: dict[str, object]) -> dict[str, frozenset[str]]:
    """Defaults that the contract's schema names, by argument."""
    properties = cast("dict[str, dict[str, object]]", schema.get("properties") or {})
    return {
        name: frozenset([plain(rules["default"])])
        for name, rules in properties.items()
        if isinstance(rules, dict) and rules.get("default") not in (None, "", True, False)
    }


def closed(contract: Contract) -> dict[str, object]:
    """The contract's schema: an argument it does not name is refused unless it opens itself explicitly."""
    return {"additionalProperties": False, **contract.input_schema}
