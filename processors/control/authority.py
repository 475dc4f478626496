"""Who may change control, all of it in one place: why a control event has no effect although its form is right.

    signature  an operator's key, and that person's       `control_policy.not_signed`
    rules      `control.cedar` of the release that stands `control_policy.may_deploy`, `may_set_mode`
    people     a proposal, and who agrees to one          `control/changes.py`
    bounds     what a sentinel may do by itself           `alarm_events.may_act`

The fold leaves such an event out, and `ledger verify` reports it (`authority`): who writes control was checked before, so
it was put there past every command. Never changes anything. Pure. Next: `control/control.py` (the fold).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sluicegate.processors.control import changes
from sluicegate.processors.control import policy as control_policy
from sluicegate.processors.drift import alarm_events
from sluicegate.schemas.records import ControlFacts

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

MODE_SET = "mode.set"


def unauthorised(new: Control, facts: ControlFacts, body: Body) -> str:
    """Why `facts.who` may not do this, in words; empty when they may. `new`: control that the event would change.

    For the kinds in `control.ASKS_RELEASE` the release must be attached to it. The signature is asked before its body is
    read (`control_policy.not_signed`). Raises for a body of another form.
    """
    who, kind = facts.who, facts.kind
    return (
        control_policy.may_deploy(new, who, kind, body)
        or alarm_events.may_act(new, who, kind, body)
        or _mode(new, who, kind, body)
        or _change(new, who, kind, body)
    )


def _mode(new: Control, who: str, kind: str, body: Body) -> str:
    if kind != MODE_SET:
        return ""
    return control_policy.may_set_mode(new, who, str(body["scope"]), str(body["value"]), str(body["mode"]))


def _change(new: Control, who: str, kind: str, body: Body) -> str:
    """Of a proposal, and of who agrees to it or takes it back. One that ended is nobody's fault."""
    if kind == changes.PROPOSED:
        inner = str(body["kind"])
        answer = control_policy.asked(new, who, inner, cast("Body", body["body"]))
        if answer.reason or cast(int, body["quorum"]) >= answer.quorum:
            return answer.reason
        return f"it asks for {body['quorum']} people, and `{inner[:40]}` takes {answer.quorum}"
    change = new.changes.get(cast(int, body["change"])) if kind in changes.KINDS else None
    if change is None or changes.ended(new, change, new.at):
        return ""
    if kind == changes.WITHDRAWN:
        return "" if who == change.who else control_policy.asked(new, who, change.kind, change.body).reason
    if body["digest"] != change.digest:
        return f"it agrees to another body than change {change.seq} has"
    return changes.may_agree(new, change, who, new.at)
