"""`release check`: everything for which a release is refused, and what its author hardly meant.

    errors      what `compile_release` refuses: it does not parse, or a policy and a contract do not agree
    warnings    it decides, but a policy can never match, is shadowed, holds without effect; nobody may call a tool;
                a contract still holds guesses

Pure: files arrive as texts, findings go out as rows. Next: `policy/logic.py` (what follows from policies),
`releases/findings.py` (the rules), `streams/commands/release.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import orjson
import yaml
from sluicegate.processors.budget.costs import has_price
from sluicegate.processors.policy.cedar import Policy, names_action
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.policy.logic import Reach, impossible, reach_of
from sluicegate.processors.releases.contract import Manifest
from sluicegate.processors.releases.contract_check import GOVERNANCE, line_of
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.processors.releases.release import CompiledRelease, build
from sluicegate.schemas.kinds import MODEL


def check_release(files: dict[str, str]) -> tuple[CompiledRelease | None, list[Finding]]:
    """A release as far as it compiles, and all findings in order of file and line."""
    release, findings = build(files)
    if release is None:
        return None, sorted(set(findings))
    found = [*findings, *_guessed(files, release), *_unknown_keys(files["release.yaml"])]
    found += _unpriced(files["release.yaml"], release)
    found += _without_tools(files, release)
    found += _Book(release).findings()
    return release, sorted(set(found))


def _unknown_keys(text: str) -> Iterator[Finding]:
    """Keys of `release.yaml` that nothing reads: own keys are welcome, misspelt ones are not."""
    known = list(Manifest.model_fields)
    for key in yaml.safe_load(text):
        if key not in known and difflib.get_close_matches(str(key), known, 1, 0.8):
            said = f"nothing reads `{key}`{nearest(str(key), known)}"
            yield Finding("release.yaml", line_of(text, [str(key)]), "release", "warning", said)


def _guessed(files: dict[str, str], release: CompiledRelease) -> Iterator[Finding]:
    for path in sorted(p for p in files if p.startswith("contracts/")):
        for tool in release.tools.values():
            if tool.path == path and tool.contract.governance.guessed:
                names = ", ".join(f"`{g}`" for g in tool.contract.governance.guessed)
                said = (
                    f"`{tool.name}` still has guesses: {names}; look at them and take them out of `guessed`"
                )
                yield Finding(path, line_of(files[path], [GOVERNANCE, "guessed"]), "guessed", "warning", said)


def _unpriced(text: str, release: CompiledRelease) -> Iterator[Finding]:
    """Candidates of a route that goes by price, and have none."""
    for alias, tool in release.tools.items():
        if tool.route is None or tool.route.choose != "cheapest":
            continue
        for way in tool.route.ways:
            if not has_price(way.tool, release.budgets):
                said = (
                    f"route `{alias}` asks the cheapest first, and `{way.tool.name}` has neither a price nor a `max_cost`:"
                    " it is asked last"
                )
                yield Finding("release.yaml", line_of(text, ["models", alias]), "route", "warning", said)


def _without_tools(files: dict[str, str], release: CompiledRelease) -> Iterator[Finding]:
    """Model contracts that declare the feature `tools` and let no call bring any."""
    for name, tool in release.tools.items():
        if tool.executor_kind != MODEL or tool.route is not None:
            continue
        features, schema = orjson.loads(tool.executor).get("features"), tool.contract.input_schema
        known, open_to = schema.get("properties"), schema.get("additionalProperties", False)
        takes = open_to is not False or (isinstance(known, dict) and "tools" in known)
        if isinstance(features, list) and "tools" in features and not takes:
            line = line_of(files[tool.path], [GOVERNANCE, "executor", "features"])
            said = f"`{name}` has the feature `tools`, and its `inputSchema` takes none: add `tools` there, or take the feature out"
            yield Finding(tool.path, line, "executor", "warning", said)


class _Book:
    """The policies of a release against each other."""

    def __init__(self, release: CompiledRelease) -> None:
        self._release = release
        self._policies = release.book.policies
        # A hand-off is permitted by policies that name it only; a permit of everything does not reach it.
        self._reach = {
            p.policy_id: reach_of(
                p, [*release.tools, HANDOFF] if names_action(p, HANDOFF) else release.tools, release.book.ways
            )
            for p in self._policies
        }
        self._dead: dict[str, str] = {}

    def findings(self) -> list[Finding]:
        """All warnings."""
        found = [*self._never()]
        found += self._shadowed()
        found += self._nobody()
        return found

    def _never(self) -> Iterator[Finding]:
        for policy in self._policies:
            why = impossible(policy)
            if not self._reach[policy.policy_id].tools:
                why = "no tool fits its action and its resource at once"
            if why:
                self._dead[policy.policy_id] = why
                yield _about(policy, "never-matches", f"`{policy.policy_id}` can never match: {why}")

    def _shadowed(self) -> Iterator[Finding]:
        live = [p for p in self._policies if p.policy_id not in self._dead and not _observed(p)]
        for at, policy in enumerate(live):
            mine = self._reach[policy.policy_id]
            for other_at, other in enumerate(live):
                if other is policy or not self._reach[other.policy_id].covers(mine):
                    continue
                same = self._reach[other.policy_id] == mine and other.effect == policy.effect
                finding = _over(policy, other, same and other_at > at, same)
                if finding is not None:
                    yield finding
                    break

    def _nobody(self) -> Iterator[Finding]:
        permits = [p for p in self._policies if p.effect == "permit" and p.policy_id not in self._dead]
        reaches = [self._reach[p.policy_id] for p in permits]
        stops = [
            self._reach[p.policy_id]
            for p in self._policies
            if p.effect == "forbid" and not _held(p) and not _observed(p)
        ]
        ways = self._release.book.ways
        led = {
            name for alias, names in ways.items() for name in names if any(alias in r.tools for r in reaches)
        }
        for name in sorted(self._release.tools):
            tool = self._release.tools[name]
            mine = [Reach(r.principal, frozenset([name]), r.conditions) for r in reaches if name in r.tools]
            if not mine and name in led:
                continue  # calls of an alias come here
            if not mine:
                yield Finding(
                    tool.path, 1, "nobody-may-call", "warning", f"no policy permits `{name}` to anybody"
                )
            elif all(any(s.covers(m) for s in stops) for m in mine):
                said = f"every permit of `{name}` is forbidden by another policy"
                yield Finding(tool.path, 1, "nobody-may-call", "warning", said)
        for role in self._release.roles:
            if not any(r.principal[0] != "role" or r.principal[1] == role for r in reaches):
                said = f"no policy permits anything to the role `{role}`"
                yield Finding("release.yaml", 0, "nobody-may-call", "warning", said)


def _over(policy: Policy, other: Policy, later: bool, same: bool) -> Finding | None:
    """What it means that `other` matches whenever `policy` does; None when that is as it should be."""
    name, wide = policy.policy_id, other.policy_id
    if other.effect == "forbid" and policy.effect == "permit" and not _held(other):
        said = f"`{name}` never permits: `{wide}` forbids whatever it would permit"
        return _about(policy, "shadowed", said)
    if other.effect != policy.effect:
        return None
    if policy.effect == "forbid":
        if _held(policy) and not _held(other):
            return _about(policy, "shadowed", f"nobody is asked by `{name}`: `{wide}` forbids it anyway")
        if same and not later and _held(policy) == _held(other):
            return _about(policy, "duplicate", f"`{name}` says the same as `{wide}`")
        return None
    if _held(policy) and not _held(other):
        said = f"@hold of `{name}` has no effect: `{wide}` permits the same without asking"
        return _about(policy, "hold-without-effect", said)
    if _held(other) or "redact" in policy.annotations:
        return None  # it changes what happens to the call
    if same:
        return None if later else _about(policy, "duplicate", f"`{name}` says the same as `{wide}`")
    return _about(policy, "shadowed", f"`{name}` adds nothing: `{wide}` permits all of it")


def _held(policy: Policy) -> bool:
    return "hold" in policy.annotations


def _observed(policy: Policy) -> bool:
    return policy.annotations.get("mode") == "observe"


def _about(policy: Policy, rule: str, sentence: str) -> Finding:
    return Finding(policy.source.path, policy.source.line, rule, "warning", sentence)
