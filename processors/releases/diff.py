"""Two releases, in words: what changes for whom.

    tool banking.send_money     argument `purpose` became required
    access role `banking`       `banking.send_money`: may call it in fewer cases, in none more (by `small-transfers`)
    prompt triage               changed, with its lines

Each difference is a row: which part, the name, added, removed or changed, and a sentence. Pure; never says which of the two is
better. Next: `policy/access_diff.py` (who gains and who loses), `releases/contract_diff.py`, `streams/commands/release_diff.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import yaml
from sluicegate.processors.policy.access_diff import ANYBODY, NOBODY, access
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.releases.contract_diff import contract_rows, shown, values
from sluicegate.processors.releases.file import FOLDERS, MANIFEST
from sluicegate.processors.releases.release import CompiledRelease

Json = object

ADDED, REMOVED, CHANGED = "added", "removed", "changed"

PARTS = (
    "release", "role", "access", "tool", "class", "endpoint", "schema", "policy", "route", "prompt", "budget", "limit",
    "price", "guardrail", "recall", "derail", "cache", "setting", "control",
)  # fmt: skip
"""In the order in which they are told."""

_LISTS = {"budgets": "budget", "limits": "limit", "guardrails": "guardrail"}
_TABLES = {"prices": "price", "recall": "recall", "models": "route"}
_TOLD = ("name", "version", "parent", "roles", "derail", *_LISTS, *_TABLES)


_WHOM = {ANYBODY: "every agent", NOBODY: "agents of no role here"}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `detail`: the lines that changed, for texts."""

    part: str
    name: str
    change: str
    sentence: str
    detail: str = ""


Side = tuple[Mapping[str, str], CompiledRelease]
"""The files of a release, and their compiled form."""


def diff(old: Side, new: Side) -> list[Change]:
    """Everything that differs, in order of `PARTS`, then of names. Empty for releases that decide alike and say the same."""
    found = [*_manifest(old[0], new[0]), *_tools(old[1], new[1]), *_access(old[1], new[1])]
    found += _policies("policy", old[1].book.policies, new[1].book.policies)
    before, after = (side[1].control_book.policies if side[1].control_book else [] for side in (old, new))
    found += _policies("control", before, after)
    found += _prompts(old[0], new[0])
    if not found and old[0] != new[0]:
        found.append(Change("release", "files", CHANGED, "the files differ in comments or spacing only"))
    return sorted(found, key=lambda c: (PARTS.index(c.part), c.name))


def _access(old: CompiledRelease, new: CompiledRelease) -> Iterator[Change]:
    for one in access(old, new):
        whom = _WHOM.get(one.subject, f"{one.subject[0]} `{one.subject[1]}`")
        yield Change("access", whom, one.change, f"`{one.tool}`: {one.said}")


def _tools(old: CompiledRelease, new: CompiledRelease) -> Iterator[Change]:
    # Aliases of models are tools, too, and are told as routes.
    before, after = ({n: t for n, t in r.tools.items() if t.route is None} for r in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Change("tool", name, REMOVED, "there is no such contract any more")
        elif name not in before:
            tool = after[name]
            args = sorted(cast("dict[str, Json]", tool.contract.input_schema.get("properties") or {}))
            said = f"a contract of class `{tool.tool_class}`, reached by `{tool.executor_kind}`, with the arguments {', '.join(args) or 'none'}"
            yield Change("tool", name, ADDED, said)
        else:
            for part, sentence in contract_rows(before[name], after[name]):
                yield Change(part, name, CHANGED, sentence)


def _policies(part: str, old: Iterable[Policy], new: Iterable[Policy]) -> Iterator[Change]:
    before, after = ({p.policy_id: p for p in policies} for policies in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Change(part, name, REMOVED, f"the {before[name].effect} is gone", _minus(before[name]))
        elif name not in before:
            yield Change(part, name, ADDED, f"a new {after[name].effect}", _plus(after[name]))
        elif (before[name].est, before[name].annotations) != (after[name].est, after[name].annotations):
            yield Change(
                part, name, CHANGED, _policy(before[name], after[name]),
                _lines(before[name].source.text, after[name].source.text),
            )  # fmt: skip


def _policy(old: Policy, new: Policy) -> str:
    """What is otherwise about a policy that kept its id."""
    said = [] if old.effect == new.effect else [f"was a {old.effect}, is a {new.effect}"]
    scope = [part for part in ("principal", "action", "resource") if old.est[part] != new.est[part]]
    if scope:
        said.append(f"speaks of another {' and '.join(scope)}")
    if old.est.get("conditions") != new.est.get("conditions"):
        said.append("has other conditions")
    before, after = ({f"@{k}": v for k, v in p.annotations.items()} for p in (old, new))
    said += values(before, after, "")
    return ", ".join(said)


def _plus(policy: Policy) -> str:
    return "\n".join(f"+{line}" for line in policy.source.text.splitlines())


def _minus(policy: Policy) -> str:
    return "\n".join(f"-{line}" for line in policy.source.text.splitlines())


def _lines(old: str, new: str) -> str:
    """The lines that changed, with one around them."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def _prompts(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    paths = sorted(p for p in {*old, *new} if p.startswith("prompts/"))
    for path in paths:
        name = path.removeprefix("prompts/").removesuffix(FOLDERS["prompts"])
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        change = ADDED if before is None else REMOVED if after is None else CHANGED
        said = {
            ADDED: "a new prompt",
            REMOVED: "the prompt is gone",
            CHANGED: "models are told another text",
        }[change]
        yield Change("prompt", name, change, said, _lines(before or "", after or ""))


def _manifest(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    before, after = (cast("dict[str, Json]", yaml.safe_load(files[MANIFEST])) for files in (old, new))
    for key in ("name", "version", "parent"):
        if before.get(key) != after.get(key):
            yield Change(
                "release", key, CHANGED, f"was {shown(before.get(key, ''))}, is {shown(after.get(key, ''))}"
            )
    roles = [set(cast("list[str]", m.get("roles") or [])) for m in (before, after)]
    for role in sorted(roles[0] ^ roles[1]):
        change = ADDED if role in roles[1] else REMOVED
        yield Change("role", role, change, "is listed now" if change == ADDED else "is listed no more")
    for key, part in _LISTS.items():
        rows = [{str(r.get("id", i)): r for i, r in enumerate(cast("list[dict[str, Json]]", m.get(key) or []))} for m in (before, after)]  # fmt: skip
        yield from _named(part, rows[0], rows[1])
        if rows[0] == rows[1] and [*rows[0]] != [*rows[1]]:
            yield Change(part, key, CHANGED, "they are asked in another order")
    for key, part in _TABLES.items():
        tables = [cast("dict[str, Json]", m.get(key) or {}) for m in (before, after)]
        yield from _named(part, tables[0], tables[1])
    for sentence in values(before.get("derail") or {}, after.get("derail") or {}, ""):
        yield Change("derail", "limits of a session", CHANGED, sentence)
    rest = [{str(k): v for k, v in m.items() if k not in _TOLD} for m in (before, after)]
    for key in sorted(rest[0].keys() | rest[1].keys()):
        for sentence in values({key: rest[0][key]} if key in rest[0] else {}, {key: rest[1][key]} if key in rest[1] else {}, ""):  # fmt: skip
            yield Change("setting", key, CHANGED, sentence)


def _named(part: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[Change]:
    """Rows with a name of their own."""
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Change(part, name, REMOVED, f"is gone: {shown(old[name])}")
        elif name not in old:
            yield Change(part, name, ADDED, f"is new: {shown(new[name])}")
        else:
            for sentence in values(old[name], new[name], ""):
                yield Change(part, name, CHANGED, sentence)
