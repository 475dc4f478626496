"""Who may change control: `control.cedar` of the deployed release, or the role `operator` where there is none.

Principal = the registered person, action = the control event's kind, resource = what it is about, context = what it
would become. Default deny and errors refuse, as for agents. Tightening needs no permission: whoever may write control
may always enforce, suspend and revoke. Pure. Next: `control/control.py` (the fold that asks), `policy/cedar.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cedarpy
import orjson
from sluicegate.processors.approval.holds import EXPIRES, MAX_HOLD_US, QUORUM, parse_hold
from sluicegate.processors.control.deployments import DEPLOYING
from sluicegate.processors.control.registry import ERASING, GUARDING, MANAGING, OPERATOR_ROLE, Person
from sluicegate.processors.modes import ENFORCE
from sluicegate.processors.policy.cedar import PolicyBook, evaluate, handle_of, names_action
from sluicegate.processors.seam import generations
from sluicegate.schemas import signing

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control
    from sluicegate.schemas.records import ControlFacts

OPERATOR = "operator"
"""Role of the keys that sign control events."""


def not_signed(control: Control, seq: int, facts: ControlFacts) -> str:
    """Why an event has no effect: in a signed environment with an operator's key only operators change control.

    Empty when it counts. Before the first such key the environment is being set up, by whoever writes its genesis.
    """
    # INVARIANT: once there is an operator, nobody else changes control (tests/unit/test_control_signed.py).
    if control.signing != "signed" or not control.operated:
        return ""
    key = control.keys.get(facts.kid)
    if key is None or key.role != OPERATOR:
        return f"it is not signed by an operator's key, but by `{facts.kid[:80]}`"
    if key.not_after == 0 or key.principal not in control.people:
        return f"the key `{key.kid}` is revoked, or `{key.principal[:80]}` is no registered person any more"
    if facts.who != key.principal:
        return f"it says `{facts.who[:80]}`, and the key is that of `{key.principal[:80]}`"
    if not signing.verify_control(facts, control.own_log, seq, key.public):
        return f"its signature does not verify under key `{key.kid}`"
    return ""


_RESOURCES = {"agent": "Agent", "tool": "Tool", "environment": "Environment", "policy": "Policy"}
"""Scope of a mode -> type of the Cedar resource."""


def may_set_mode(control: Control, who: str, scope: str, value: str, mode: str) -> str:
    """Empty when `who` may do it now, else the reason in words.

    `control.release` must be attached where `control.deployed` names one; without it only the role counts.
    """
    if mode == ENFORCE:
        return ""
    person = control.people.get(who)
    if person is None:
        return f"`{who}` is no registered person, register them with `sluicegate people register`"
    book = control.release.control_book if control.release is not None else None
    if book is None:
        if OPERATOR_ROLE in person.roles:
            return ""
        return f"`{who}` has not the role `{OPERATOR_ROLE}`, which it takes without a `control.cedar`"
    resource = {"type": _RESOURCES.get(scope, "Scope"), "id": value}
    answer = _answer(book, person, "mode.set", resource, {"mode": mode, "environment": control.env})
    # INVARIANT: what takes two people is not done by one (tests/unit/test_control.py::test_a_mode_is_never_set_past_a_quorum).
    if not answer.reason and answer.quorum > 1:
        return f"its permit takes {answer.quorum} people, and a mode is set by one: write a permit for `mode.set` without @quorum"
    return answer.reason


@dataclass(frozen=True, slots=True)
class Answer:
    """What `control.cedar` says about an event: why not, or an empty text; and how many people it takes, how fast."""

    reason: str = ""
    quorum: int = 1
    expires_us: int = MAX_HOLD_US


YES = Answer()

GOVERNED = (*DEPLOYING, *MANAGING, *ERASING, *GUARDING)
"""Events that `control.cedar` may name."""


def may_deploy(control: Control, who: str, kind: str, body: Mapping[str, object]) -> str:
    """Empty when `who` may write this event now and alone, else the reason in words."""
    answer = asked(control, who, kind, body)
    if not answer.reason and answer.quorum > 1:
        return f"it takes {answer.quorum} people: propose it, and have another one agree"
    return answer.reason


def asked(control: Control, who: str, kind: str, body: Mapping[str, object]) -> Answer:
    """Whether `who` may do this now, and whether others must agree.

    Asked only where `control.cedar` names the event: else whoever may write control may. Without the deployed
    release at hand nothing is asked, and `ledger verify` finds what the fold of a worker left out.
    """
    book = control.release.control_book if control.release is not None else None
    if book is None or kind not in GOVERNED or not any(names_action(p, kind) for p in book.policies):
        return YES
    person = control.people.get(who)
    if person is None:
        return Answer(f"`{who}` is no registered person, register them with `sluicegate people register`")
    if kind in MANAGING:
        resource = {"type": "Environment", "id": control.env}
        return _answer(book, person, kind, resource, {"environment": control.env, "roles": _roles_of(body)})
    if kind in ERASING:
        subjects = len(cast("list[object]", body["subjects"]))
        context: dict[str, object] = {"environment": control.env, "subjects": subjects}
        return _answer(book, person, kind, {"type": "Environment", "id": control.env}, context)
    if kind in GUARDING:
        return _answer(book, person, kind, *_guarded(control, kind, body))
    arm = control.canary.digest if control.canary is not None and kind == "canary.promoted" else ""
    digest = str(body.get("to", body.get("digest", arm)))
    context = {
        "environment": control.env, "weight_bp": body.get("weight_bp", 0), "now": bool(body.get("now", False)),
        "attested": digest in control.attested,
    }  # fmt: skip
    return _answer(book, person, kind, {"type": "Release", "id": digest}, context)


_SCOPES = {"agent": "Agent", "tool": "Tool", "session": "Session", "release": "Release"}
"""Scope of a quarantine -> type of the Cedar resource."""


def _guarded(
    control: Control, kind: str, body: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, object]]:
    """Resource and context of an event in `GUARDING`."""
    resource, context = {"type": "Environment", "id": control.env}, {"environment": cast(object, control.env)}
    if kind == "agents.registered":
        context["roles"] = _roles_of(body)
    elif kind == "quarantine.lifted":
        resource = {"type": _SCOPES.get(str(body["scope"]), "Environment"), "id": str(body["value"])}
    elif kind in ("review.ended", "agent.rolled_back"):
        resource = {"type": "Agent", "id": str(body["agent_id"])}
    elif kind == "alarm.acked":
        alarm = control.alarms.get(str(body["id"]))
        context["rule"], context["action"] = (alarm.rule, alarm.action) if alarm is not None else ("", "")
    elif kind == "alarms.bounded":
        bounds = control.bounds
        for name, now in (("unacknowledged", bounds.unacknowledged), ("per_day", bounds.per_day)):
            context[name] = cast(int, body.get(name, now))
            context[f"{name}_before"] = now
    elif kind in (generations.BEGUN, generations.STARTED):
        begun = control.repartition.partitions if control.repartition is not None else 0
        context["partitions"] = cast(int, body.get("partitions", begun))
        context["partitions_before"] = control.partitions
    return resource, context


def _roles_of(body: Mapping[str, object]) -> list[str]:
    """The roles that an event gives to people, agents, or to a key; of an API key its scopes."""
    rows = cast("list[Mapping[str, object]]", body.get("people") or body.get("agents") or [])
    given = {str(role) for row in rows for role in cast("list[object]", row.get("roles") or [])}
    given |= {str(scope) for scope in cast("list[object]", body.get("scopes") or [])}
    return sorted(given | ({str(body["role"])} if "role" in body else set()))


def _answer(
    book: PolicyBook, person: Person, action: str, resource: dict[str, str], context: dict[str, object]
) -> Answer:
    # All of it: the slices of tools drop what names another tool than the action, and here that is the resource.
    whole = handle_of(book.policies)
    request: dict[str, object] = {
        "principal": {"type": "Person", "id": person.person_id},
        "action": {"type": "Action", "id": action},
        "resource": resource,
        "context": orjson.dumps(context).decode(),
    }
    verdict = evaluate(whole, _entities(person), request)
    if not verdict.allowed:
        named = "`, `".join(verdict.policies)
        return Answer(
            verdict.error
            or (
                f"`control.cedar` forbids it by `{named}`"
                if named
                else f"`control.cedar` does not permit it to `{person.person_id}`"
            )
        )
    terms = [terms_of(p.policy_id, p.annotations) for p in book.policies if p.policy_id in verdict.policies]
    # A permit that asks nobody else is enough, as a permit without @hold is for calls.
    return min(terms, key=lambda t: (t.quorum, -t.expires_us), default=YES)


def terms_of(policy_id: str, annotations: Mapping[str, str]) -> Answer:
    """What a permit asks for. Raises `Terminal` for an annotation that says nothing usable, which a release never has."""
    hold = parse_hold(
        policy_id, {"hold": "", **{k: v for k, v in annotations.items() if k in (QUORUM, EXPIRES)}}
    )
    return YES if hold is None else Answer("", hold.quorum, hold.expires_us)


def _entities(person: Person) -> cedarpy.Entities:
    rows: list[object] = [
        {
            "uid": {"type": "Person", "id": person.person_id},
            "attrs": {},
            "parents": [{"type": "Role", "id": role} for role in person.roles],
        }
    ]
    rows += [{"uid": {"type": "Role", "id": role}, "attrs": {}, "parents": []} for role in person.roles]
    return cedarpy.Entities.from_json_str(json.dumps(rows))
