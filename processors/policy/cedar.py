"""Cedar, sliced: which policies may speak about a tool and a role, and what they say.

Parsing and slicing happen once a release; a request costs one evaluation over a handful of policies. Cedar
*skips* a policy that errors, so any error is a refusal here (DESIGN §5.2). Pure; never reads files.
Next: `policy/files.py` (parsing), `policy/explain.py` (the nearest permit, in words), `authorize.py` (who calls this).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import cedarpy
import orjson
from cedarpy import _internal
from sluicegate.processors.approval.holds import HOLD
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.mentions import Mentions, mentions_of
from sluicegate.processors.policy.text import NOWHERE, Source

Json = object
Modes = tuple[tuple[str, str], ...]

OBSERVE = "observe"
"""`@mode("observe")`: decided and recorded, not applied."""

MAX_VERDICTS = 20_000
"""Answers remembered of one release, about 1 kB each: 20 MB; emptied when full. Cedar is a function of policies,
entities and request, and reads repeat: with only what policies mention in it, a tool's context is often the same."""

MAX_REMEMBERED_CONTEXT_CHARS = 500

MAX_SLICES = 10_000
"""Cached (roles, tool) slices and (agent, tool) entities of one release, a few kB each; emptied when full."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One static policy: its `@id`, effect, scope, text, and where its author wrote it."""

    policy_id: str
    effect: str
    text: str
    est: dict[str, Json]
    annotations: dict[str, str]
    source: Source = NOWHERE


@dataclass(frozen=True, slots=True)
class Verdict:
    """Cedar's answer. `policies` determined it; `error` is set when any policy failed."""

    allowed: bool
    policies: list[str]
    error: str


Memo = dict[tuple[Json, ...], "tuple[Handle, cedarpy.Entities, Verdict]"]
"""(handle, principal, action, resource, context) -> what was asked with which objects, and the answer."""


@dataclass(slots=True)
class Handle:
    """Parsed policies, and which id stands behind each positional one of Cedar's answers."""

    parsed: cedarpy.PolicySet
    ids: dict[str, str]
    memo: Memo = field(default_factory=dict)
    """Shared by a release's handles."""
    alike: bool = False
    """Every principal of the slice gets the same answer: no condition looks at who asks."""


@dataclass(slots=True)
class Slice:
    """The policies that may apply to one tool and one set of roles.

    Attributes:
        policies: those that decide.
        enforced: the same, parsed.
        relaxed: without the forbids that a person's agreement lifts; None where there are none.
        everything: with the policies in observe mode; None where there are none.
        holding: ids of policies that hold.
    """

    policies: list[Policy]
    enforced: Handle
    relaxed: Handle | None
    everything: Handle | None
    holding: frozenset[str]
    mentions: Mentions


@dataclass(slots=True)
class PolicyBook:
    """All policies of a release, with caches that hold nothing but what follows from them."""

    policies: list[Policy]
    slices: dict[tuple[tuple[str, ...], str, Modes, str], Slice] = field(default_factory=dict)
    entities: dict[tuple[Agent, str, str], cedarpy.Entities] = field(default_factory=dict)
    memo: Memo = field(default_factory=dict)
    ways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Alias of models -> its candidates, the resources of its action."""
    named: frozenset[str] = frozenset()
    """Agents that a policy is for by name: each has slices of its own."""

    def __post_init__(self) -> None:
        self.named = frozenset(filter(None, map(_agent_of, self.policies)))


def to_text(est: dict[str, Json]) -> str:
    """Cedar text of one policy given as EST JSON."""
    document = {"staticPolicies": {"p": est}, "templates": {}, "templateLinks": []}
    return str(cedarpy.policies_from_json_str(json.dumps(document)))


def _agent_of(policy: Policy) -> str:
    """The one agent that the policy's scope names, or an empty string."""
    principal = cast("dict[str, Json]", policy.est["principal"])
    entity = cast("dict[str, str]", principal.get("entity") or {})
    return entity["id"] if principal["op"] == "==" and entity.get("type") == "Agent" else ""


def _may_apply(
    policy: Policy, roles: tuple[str, ...], tool: str, agent_id: str, resources: tuple[str, ...]
) -> bool:
    """Whether the policy's scope can match. Anything not understood counts as a match."""
    if _agent_of(policy) not in ("", agent_id):
        return False
    action = cast("dict[str, Json]", policy.est["action"])
    if action["op"] == "==" and cast("dict[str, str]", action["entity"])["id"] != tool:
        return False
    if action["op"] == "in":
        listed = action.get("entities") or [action.get("entity")]
        if tool not in [cast("dict[str, str]", e)["id"] for e in cast("list[Json]", listed)]:
            return False
    resource = cast("dict[str, Json]", policy.est["resource"])
    if resource["op"] == "==":
        entity = cast("dict[str, str]", resource["entity"])
        if entity["type"] == "Tool" and entity["id"] not in resources:
            return False
    principal = cast("dict[str, Json]", policy.est["principal"])
    if principal["op"] == "in":
        entity = cast("dict[str, str]", principal["entity"])
        return entity["type"] != "Role" or entity["id"] in roles
    return True


def _by_role(policy: Policy) -> bool:
    """Whether the policy's scope tells agents apart by nothing but their roles, or by a name that has its own slice."""
    principal = cast("dict[str, Json]", policy.est["principal"])
    if principal["op"] == "in":
        return cast("dict[str, str]", principal.get("entity") or {}).get("type") == "Role"
    return principal["op"] in ("All", "==")


def names_action(policy: Policy, action: str) -> bool:
    """Whether the policy's scope names the action, rather than leaving it open."""
    scope = cast("dict[str, Json]", policy.est["action"])
    named = [scope.get("entity"), *cast("list[Json]", scope.get("entities") or [])]
    return action in [cast("dict[str, str]", e)["id"] for e in named if e]


def slice_for(
    book: PolicyBook, roles: tuple[str, ...], tool: str, modes: Modes = (), agent_id: str = ""
) -> Slice:
    """The cached slice for a tool, a set of roles, and an agent that policies name. `modes`: (policy id, mode) where
    control overrides `@mode`."""
    who = agent_id if agent_id in book.named else ""
    key = (roles, tool, modes, who)
    found = book.slices.get(key)
    if found is None:
        resources = book.ways.get(tool) or (tool,)
        chosen = [p for p in book.policies if _may_apply(p, roles, tool, who, resources)]
        found = _cut(chosen, dict(modes), book.memo)
        if len(book.slices) >= MAX_SLICES:
            book.slices.clear()
        book.slices[key] = found
    return found


def _cut(chosen: list[Policy], modes: dict[str, str], memo: Memo) -> Slice:
    enforced = [p for p in chosen if modes.get(p.policy_id, p.annotations.get("mode")) != OBSERVE]
    lifted = [p for p in enforced if not (p.effect == "forbid" and HOLD in p.annotations)]
    mentions = mentions_of([p.est for p in chosen])
    # A slice has one set of roles and one tool, and an agent that a scope names has its own: the rest of a request is
    # its context. INVARIANT: agents share an answer only where nothing tells them apart
    # (tests/unit/test_authorize.py::test_agents_share_an_answer_unless_a_condition_tells_them_apart).
    alike = not mentions.principal and all(map(_by_role, chosen))
    return Slice(
        enforced,
        handle_of(enforced, memo, alike),
        handle_of(lifted, memo, alike) if len(lifted) < len(enforced) else None,
        handle_of(chosen, memo, alike) if len(enforced) < len(chosen) else None,
        frozenset(p.policy_id for p in enforced if HOLD in p.annotations),
        mentions,
    )


def handle_of(policies: list[Policy], memo: Memo | None = None, alike: bool = False) -> Handle:
    """Policies parsed together, for `evaluate`. `alike`: whoever asks gets the same answer."""
    parsed = cedarpy.PolicySet.from_str("\n".join(p.text for p in policies))
    ids = {f"policy{i}": p.policy_id for i, p in enumerate(policies)}
    return Handle(parsed, ids, {} if memo is None else memo, alike)


def entities_for(book: PolicyBook, agent: Agent, tool: str, tool_class: str) -> cedarpy.Entities:
    """Principal, its roles, and the tool that is the resource, parsed once."""
    key = (agent, tool, tool_class)
    found = book.entities.get(key)
    if found is None:
        rows: list[Json] = [
            {
                "uid": {"type": "Agent", "id": agent.agent_id},
                "attrs": {"tenant": agent.tenant, "team": agent.team},
                "parents": [{"type": "Role", "id": r} for r in agent.roles],
            },
            {"uid": {"type": "Tool", "id": tool}, "attrs": {"class": tool_class}, "parents": []},
        ]
        rows += [{"uid": {"type": "Role", "id": r}, "attrs": {}, "parents": []} for r in agent.roles]
        found = cedarpy.Entities.from_json_str(json.dumps(rows))
        if len(book.entities) >= MAX_SLICES:
            book.entities.clear()
        book.entities[key] = found
    return found


def request_of(agent: Agent, tool: str, context: Json, resource: str = "") -> dict[str, Json]:
    """The request in the form cedarpy takes without converting it again. The resource is the tool, or another one."""
    return {
        "principal": {"type": "Agent", "id": agent.agent_id},
        "action": {"type": "Action", "id": tool},
        "resource": {"type": "Tool", "id": resource or tool},
        "context": orjson.dumps(context).decode(),
    }


def evaluate(handle: Handle, entities: cedarpy.Entities, request: dict[str, Json]) -> Verdict:
    """One authorization. Total: what Cedar cannot answer is a refusal with `error` set."""
    context = cast(str, request["context"])
    if len(context) > MAX_REMEMBERED_CONTEXT_CHARS:
        return _evaluate(handle, entities, request)
    principal, action, resource = (
        cast("dict[str, str]", request[part])["id"] for part in ("principal", "action", "resource")
    )
    key = (id(handle), "" if handle.alike else principal, action, resource, context)
    known = handle.memo.get(key)
    if known is not None and known[0] is handle and (handle.alike or known[1] is entities):
        return known[2]
    if len(handle.memo) >= MAX_VERDICTS:
        handle.memo.clear()
    verdict = _evaluate(handle, entities, request)
    handle.memo[key] = (handle, entities, verdict)
    return verdict


def _evaluate(handle: Handle, entities: cedarpy.Entities, request: dict[str, Json]) -> Verdict:
    try:
        # What `cedarpy.is_authorized_batch` does, without its copies and its objects: a third of its time
        # (tests/properties/test_policies.py::test_the_short_way_answers_as_cedarpys_own).
        raw = _internal.is_authorized_batch([request], handle.parsed, entities._inner, None, False)
        answer = orjson.loads(raw[0])
        diagnostics = answer["diagnostics"]
        errors, reasons, decision = diagnostics["errors"], diagnostics["reason"], answer["decision"]
    except Exception as error:
        return Verdict(False, [], f"cedar could not decide: {str(error)[:200]}")
    # INVARIANT: an erring policy never permits (tests/unit/test_authorize.py::test_erring_forbid_never_permits).
    if errors:
        return Verdict(False, [], "; ".join(str(e) for e in errors)[:300])
    policies = [handle.ids.get(r, r) for r in reasons]
    return Verdict(decision == "Allow", sorted(policies), "")
