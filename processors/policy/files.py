"""Cedar files into policies: parsed once a release, each with its id, its annotations and its place in a file.

What does not parse is a finding with a line, and the other policies are read on. Cedar gives a bare annotation
(`@hold`) no value; here it is the empty text, so that it is never taken for absent. Templates are refused: nothing
links them. Never evaluates. Next: `policy/check.py` (against the contracts), `policy/cedar.py` (slices, evaluation).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import cedarpy
from sluicegate.processors.approval.holds import parse_hold
from sluicegate.processors.policy.cedar import Json, Policy, PolicyBook, to_text
from sluicegate.processors.policy.text import Source, split
from sluicegate.processors.releases.file import CONTROL_CEDAR
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.schemas.errors import Terminal

MODES = ("observe", "enforce")
ANNOTATIONS: dict[str, str] = {
    "id": "the policy's name, in outcomes and refusals",
    "hold": "permits after a person agreed; on a forbid: forbids until one did",
    "quorum": "how many people must agree",
    "reviewers": "the roles of those who may agree",
    "expires": "how long a held call waits",
    "mode": "`observe`: decided and recorded, not applied",
    "unversioned": "on a permit of model calls: system text that no release holds is permitted, too",
    "redact": "arguments that are blanked before anything else happens",
    "description": "for people",
}
"""What a policy may say about itself."""


def read_policies(files: Mapping[str, str]) -> tuple[list[Policy], list[Finding]]:
    """The policies of `*.cedar` texts in order of path and place, and what is wrong with the rest."""
    policies: list[Policy] = []
    findings: list[Finding] = []
    places: dict[str, Source] = {}
    for path in sorted(files):
        for source, est in _parse(path, files[path], findings):
            policy = _policy(source, est, places, findings)
            if policy is not None:
                policies.append(policy)
    return policies, findings


def _parse(path: str, text: str, findings: list[Finding]) -> list[tuple[Source, dict[str, Json]]]:
    """(place, EST) of each policy that parses: the file as one text when it can be, else one policy after the other."""
    sources = split(path, text)
    parsed = _est(text)
    if isinstance(parsed, dict) and len(parsed) == len(sources):
        return [
            (s, est) for s, est in zip(sources, parsed.values(), strict=True) if _static(s, est, findings)
        ]
    found: list[tuple[Source, dict[str, Json]]] = []
    for source in sources:
        one = _est(source.text)
        if isinstance(one, str):
            findings.append(
                Finding(path, source.line, "syntax", "error", f"the policy does not parse: {one}")
            )
        else:
            found += [(source, est) for est in one.values() if _static(source, est, findings)]
    return found


def _est(text: str) -> dict[str, dict[str, Json]] | str:
    """Positional id -> EST of policies and templates, in order; or why the text does not parse."""
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        return " ".join(str(error).split())[:200]
    both = {**parsed["staticPolicies"], **parsed["templates"]}
    return {key: both[key] for key in sorted(both, key=lambda k: int(k.removeprefix("policy")))}


def _static(source: Source, est: dict[str, Json], findings: list[Finding]) -> bool:
    """Whether it is a policy; a template is a finding."""
    if not any("slot" in cast("dict[str, Json]", est[part]) for part in ("principal", "resource")):
        return True
    sentence = "templates are not supported, write the policy with the principal and resource it is for"
    findings.append(Finding(source.path, source.line_of("?"), "syntax", "error", sentence))
    return False


def _policy(
    source: Source, est: dict[str, Json], places: dict[str, Source], findings: list[Finding]
) -> Policy | None:
    annotations = {k: v or "" for k, v in cast("dict[str, str | None]", est.get("annotations", {})).items()}
    policy_id = annotations.get("id", "")

    def no(rule: str, line: int, sentence: str) -> None:
        findings.append(Finding(source.path, line, rule, "error", sentence))

    if not policy_id:
        no("syntax", source.line, 'the policy has no @id, add one such as `@id("refund-small")`')
        return None
    if policy_id in places:
        first = places[policy_id]
        no(
            "syntax",
            source.line,
            f"policy id `{policy_id}` stands in `{first.path}` line {first.line} too, rename one",
        )
        return None
    places[policy_id] = source
    for name in sorted(annotations.keys() - ANNOTATIONS.keys()):
        near = nearest(name, ANNOTATIONS)
        no(
            "unknown-annotation",
            source.line_of(name),
            f"`{policy_id}` has @{name}, which means nothing here{near}",
        )
    if annotations.get("mode", "enforce") not in MODES:
        said = f'`{policy_id}` has @mode("{annotations["mode"]}"), write `observe` or `enforce`'
        no("unknown-annotation", source.line_of("mode"), said)
    try:
        if source.path != CONTROL_CEDAR:  # there @quorum is about people who write events (`policy/check.py`)
            parse_hold(policy_id, annotations)  # refused here, so that a hold is never unreadable later
    except Terminal as error:
        no("unknown-annotation", source.line, str(error))
    return Policy(policy_id, str(est["effect"]), to_text(est), est, annotations, source)


def parse_policies(files: Mapping[str, str]) -> PolicyBook:
    """The policies alone, unchecked against contracts. Raises `Terminal` for the first that cannot be read."""
    policies, findings = read_policies(files)
    if findings:
        raise Terminal(str(sorted(findings)[0]))
    return PolicyBook(policies)
