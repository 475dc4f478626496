"""Policies against the contracts: what a policy reads must be there, of the type it takes it for.

Cedar's own strict validator is the authority on types; its answers are said again with file, line and the nearest
real name. Cedar stays silent where a condition can never hold (`context.args has recipent`), and about words that
are plain text to it (roles, labels, names of tools), so those are looked at here.
Pure; never evaluates a request. Next: `policy/cedar_schema.py`, `releases/check.py` (what a whole release is checked for).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import cedarpy
from sluicegate.processors.approval.holds import EXPIRES, QUORUM
from sluicegate.processors.control.deployments import DEPLOYING
from sluicegate.processors.control.policy import GOVERNED, terms_of
from sluicegate.processors.control.registry import ERASING, GUARDING, MANAGING
from sluicegate.processors.policy.cedar import Json, Policy, names_action
from sluicegate.processors.policy.cedar_schema import UNTYPED_NAME, ToolTypes, control_schema, schema_of
from sluicegate.processors.policy.vocabulary import Vocabulary, dotted, scope_tools
from sluicegate.processors.policy.words import Words
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.schemas.errors import Terminal

_CONTEXT = re.compile(r'attribute `(?P<path>.+)` in context for Action::"(?P<tool>.+?)"')
_ENTITY = re.compile(r"attribute `(?P<attr>.+?)` on entity type `(?P<type>\w+)`")
_ACTION = re.compile(r'unrecognized action `Action::"(?P<tool>.+?)"`')
_NOWHERE = "unable to find an applicable action"
_PART = re.compile(r'\["((?:\\.|[^"\\])*)"\]|([^.\[\]]+)')


def check_policies(
    policies: Sequence[Policy], tools: Iterable[ToolTypes], roles: Sequence[str] = ()
) -> list[Finding]:
    """Everything that makes a policy mean something else than its author thinks, in order of file and line."""
    known = Vocabulary({t.name: t for t in tools}, roles)
    findings = [*_from_cedar(policies, known)]
    for policy in policies:
        findings += Words(policy, known).findings()
    return sorted(set(findings))


_CONTROL_SAYS = (
    'there is Person in Role, Action::"mode.set" with context.mode and .environment, '
    + ", ".join(f'"{kind}"' for kind in DEPLOYING)
    + " with context.environment, .now, .weight_bp and .attested, "
    + ", ".join(f'"{kind}"' for kind in MANAGING)
    + " with context.environment and .roles, "
    + ", ".join(f'"{kind}"' for kind in ERASING)
    + " with context.environment and .subjects, and "
    + ", ".join(f'"{kind}"' for kind in GUARDING)
    + " with context.environment and what docs/releases.md says of each"
)


def check_control(policies: Sequence[Policy]) -> list[Finding]:
    """What is wrong with `control.cedar`, where people change modes and nothing is held, observed or redacted."""
    found = []
    for policy in policies:
        for name in sorted(policy.annotations.keys() - {"id", "description", QUORUM, EXPIRES}):
            said = f"`{policy.policy_id}`: @{name} means nothing in control.cedar"
            line = policy.source.line_of(name)
            found.append(Finding(policy.source.path, line, "unknown-annotation", "error", said))
        if said := _terms(policy):
            found.append(Finding(policy.source.path, policy.source.line_of(QUORUM, EXPIRES), "unknown-annotation", "error", said))  # fmt: skip
    kinds = {"deploying": DEPLOYING, "managing": MANAGING, "erasing": ERASING, "guarding": GUARDING}
    groups = {
        g: [p for p in policies if any(names_action(p, kind) for kind in named)] for g, named in kinds.items()
    }
    said_of = _cedar_says(
        [p for p in policies if not any(p in group for group in groups.values())], control_schema()
    )
    for group, chosen in groups.items():
        said_of += _cedar_says(chosen, control_schema(group))
    for about, text in said_of:
        name, source = (about.policy_id, about.source) if about else ("", policies[0].source)
        said = f"`{name}`: {text}, {_CONTROL_SAYS}"
        found.append(Finding(source.path, source.line, "type", "error", said))
    return sorted(found)


def _terms(policy: Policy) -> str:
    """What is wrong with `@quorum` and `@expires` of a policy of `control.cedar`."""
    asks = {QUORUM, EXPIRES} & policy.annotations.keys()
    if not asks:
        return ""
    if policy.effect == "forbid" or not any(names_action(policy, kind) for kind in GOVERNED):
        events = ", ".join(GOVERNED)
        return f"`{policy.policy_id}`: @{min(asks)} stands on a permit that names one of {events}"
    if QUORUM not in asks:
        return f"`{policy.policy_id}` has @expires without @quorum, nobody is asked"
    try:
        terms_of(policy.policy_id, policy.annotations)
    except Terminal as error:
        return str(error)
    return ""


# -- what Cedar's validator says -----------------------------------------------------------------------------------


def _cedar_says(policies: Sequence[Policy], schema: dict[str, Json]) -> list[tuple[Policy | None, str]]:
    """(policy, message) of every error of Cedar's validator; None when it names no policy. What only follows from
    another error of the same policy is left out."""
    answer = cedarpy.validate_policies(
        "\n".join(p.source.text for p in policies), cedarpy.Schema.from_json_str(json.dumps(schema))
    )
    found: list[tuple[Policy | None, str]] = []
    for error in answer.errors:
        index = error.policy_id.removeprefix("policy")
        policy = policies[int(index)] if index.isdecimal() else None
        found.append((policy, error.error.removeprefix(f"for policy `{error.policy_id}`, ")))
    others = {p.policy_id for p, text in found if p is not None and _NOWHERE not in text}
    return [(p, text) for p, text in found if p is None or _NOWHERE not in text or p.policy_id not in others]


def _from_cedar(policies: Sequence[Policy], known: Vocabulary) -> Iterator[Finding]:
    for policy, text in _cedar_says(policies, schema_of(known.tools.values())):
        if policy is None:  # nothing can be told apart any more: it is refused as a whole
            yield Finding(policies[0].source.path if policies else "", 0, "type", "error", text)
        else:
            yield _say(policy, text, known)


def _say(policy: Policy, text: str, known: Vocabulary) -> Finding:
    """One of Cedar's messages, with its place and what to do."""
    source = policy.source

    def no(rule: str, line: int, sentence: str) -> Finding:
        return Finding(source.path, line, rule, "error", f"`{policy.policy_id}`: {sentence}")

    if match := _CONTEXT.search(text):
        path = [
            json.loads(f'"{quoted}"') if quoted else plain for quoted, plain in _PART.findall(match["path"])
        ]
        shown, line = dotted(["context", *path]), source.line_of(path[-1])
        if "optional attribute" in text:
            guard = f"{dotted(['context', *path[:-1]])} has {_name(path[-1])}"
            return no(
                "optional-field",
                line,
                f"`{shown}` may be absent in `{match['tool']}`, write `{guard} && ...`",
            )
        return no("unknown-field", line, _unknown(path, match["tool"], policy, known))
    if match := _ENTITY.search(text):
        name = match["attr"]
        if match["type"] == UNTYPED_NAME:
            said = f"the contract says nothing exact about what `{name}` belongs to, give it a type in inputSchema"
            return no("untyped-field", source.line_of(name), said)
        there = {"Agent": ("tenant", "team"), "Tool": ("class",)}.get(match["type"], ())
        return no(
            "unknown-field", source.line_of(name), f"`{match['type']}` has no `{name}`{nearest(name, there)}"
        )
    if match := _ACTION.search(text):
        name = json.loads(f'"{match["tool"]}"')
        said = f"no contract is named `{name}`{nearest(name, known.tools)}"
        return no("unknown-tool", source.line_of(name, match["tool"]), said)
    if _NOWHERE in text:
        return no("never-matches", source.line, "no tool fits its scope, so no call can ever meet it")
    hint = ""
    if UNTYPED_NAME in text:
        hint = ", the contract says nothing exact about one of them: give it a type in inputSchema"
    elif "decimal" in text:
        hint = ', compare a `number` with `.lessThanOrEqual(decimal("100.0"))` and the like'
    return no("untyped-field" if UNTYPED_NAME in text else "type", source.line, text + hint)


def _unknown(path: list[str], tool: str, policy: Policy, known: Vocabulary) -> str:
    names = known.names_at(tool, path[:-1])
    sentence = f"`{dotted(['context', *path])}` does not exist in `{tool}`"
    others = [
        t
        for t in scope_tools(policy, known.tools, known.ways)
        if path[-1] in (known.names_at(t, path[:-1]) or {})
    ]
    if others:
        return f"{sentence}, only in `{others[0]}` and the like: give those a policy of their own"
    return sentence + nearest(path[-1], names or ())


def _name(part: str) -> str:
    return part if part.isidentifier() else json.dumps(part)
