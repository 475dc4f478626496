"""What a check of a release found, as rows: file, line, rule, severity, sentence.

An `error` means that the release is refused; a `warning` that it decides, but hardly what its author meant.
Never checks anything itself. Next: `policy/check.py`, `releases/check.py` (who find), `commands/release.py` (who shows).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

RULES: dict[str, str] = {
    "syntax": "a file does not parse, or a policy has no id of its own",
    "unknown-field": "a policy, or `x-sluicegate`, names something the contract does not have",
    "optional-field": "a policy reads what may be absent without asking `has` first",
    "untyped-field": "a policy reads what the contract says nothing exact about",
    "type": "a policy compares or computes with the wrong types",
    "unknown-tool": "a policy names a tool that has no contract",
    "unknown-role": "a policy names a role that `release.yaml` does not list",
    "unknown-annotation": "an annotation that means nothing here, or has a value that means nothing",
    "contract": "a contract is not what `x-sluicegate` and JSON Schema say it must be",
    "executor": "`executor` of a contract names what its kind does not have, or lacks what it needs",
    "guessed": "a contract still holds guesses of `release init`",
    "never-matches": "no call can meet a policy's scope and conditions",
    "nobody-may-call": "no policy can permit a tool",
    "shadowed": "another policy decides first, whatever the call",
    "duplicate": "two policies say the same",
    "hold-without-effect": "a wider permit without @hold lets through what should be held",
    "guardrail": "a guardrail of `release.yaml` does not compile or names what is not there",
    "route": "a route of `models:` leads nowhere, its candidates do not take and give the same, or it goes by prices that are missing",
    "prompt": "a prompt cannot be rendered",
    "redaction": "a policy's `@redact` names what is not there, or could never fit the contract",
    "compensation": "`compensate` or `verify` of a contract could never work",
    "spend": "prices that no record of costs is made with",
    "release": "`release.yaml` is not valid",
    "parent": "`parent:` of `release.yaml` is no digest",
    "case": "a row of `tests/` cannot be read",
}
"""Rule -> what it finds. Docs list this table."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding. `line` counts from 1; 0 is the file as a whole."""

    file: str
    line: int
    rule: str
    severity: Severity
    sentence: str

    def __str__(self) -> str:
        where = f"`{self.file}` line {self.line}" if self.line else f"`{self.file}`"
        return f"{where}: {self.sentence}"


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those for which a release is refused, in order of file and line."""
    return sorted(f for f in findings if f.severity == "error")


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` with the nearest of the known names; when none is near, up to eight that there are."""
    names = sorted(set(known))
    if near := difflib.get_close_matches(word, names, 1, 0.6):
        return f", did you mean `{near[0]}`?"
    if not names:
        return ", there is none"
    shown = ", ".join(f"`{n}`" for n in names[:8])
    return f", there is {shown}" + (" and more" if len(names) > 8 else "")
