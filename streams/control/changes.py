"""Changes that may take several people: what is written as it is, and what as a proposal; to agree, or take one back.

Says in a sentence what would not count, and appends on the head it looked at. Never decides who may: control's fold does.
Next: `processors/control/changes.py`, `control/deployments.py`, `control/identities.py` (who propose), `commands/changes.py`.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.processors.control import changes
from sluicegate.processors.control.changes import PROPOSED, Change
from sluicegate.processors.control.control import Control, perform
from sluicegate.processors.control.policy import asked
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import operator, who
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

Row = dict[str, object]
Events = list[tuple[str, Row]]


def proposals(control: Control, events: Events, me: str, now: int) -> tuple[Events, int]:
    """The events as this person may write them: those that take more people as proposals; and how many people the last of
    those takes. Each is asked about on control as the ones before it leave it. Raises `Terminal` for what is not permitted."""
    written: Events = []
    waits = 0
    scratch = control
    for kind, body in events:
        scratch = replace(scratch, head=scratch.head + 1, at=now)
        # INVARIANT: what the fold would leave out is not written (tests/integration/test_deployments.py::test_who_may_deploy).
        answer = asked(scratch, me, kind, body)
        if answer.reason:
            raise Terminal(answer.reason)
        if answer.quorum > 1:
            waits = answer.quorum
            proposal: Row = {
                "kind": kind, "body": body, "quorum": answer.quorum, "expires_at": now + answer.expires_us,
            }  # fmt: skip
            written.append((PROPOSED, proposal))
            continue
        written.append((kind, body))
        perform(scratch, kind, body, me)
    return written, waits


async def write(
    settings: Settings, keys: Keys, control: Control, events: Events, why: str
) -> tuple[int, int]:
    """Write events on the control that was looked at, or propose them; (control head, how many people it takes or 0)."""
    written, waits = proposals(control, events, who(settings, control), control_log.clock(control))
    head = await control_log.append(
        settings, keys, written, who=operator(), why=why, expected_head=control.head
    )
    return head, waits


async def write_alone(settings: Settings, keys: Keys, head: int, event: tuple[str, Row], why: str) -> int:
    """Write one event on control as it was at `head`, for a command that cannot go on without it; the new head.

    Where it takes several people it is proposed, once, and `Terminal` says who has to agree before the command is run again.
    """
    control = (await control_log.read(settings, with_release=True, any_generation=True)).control
    if control.head != head:
        raise Terminal(f"control moved from {head} to {control.head}, look at it and try again")
    now = control_log.clock(control)
    if (waiting := proposed(control, *event, now)) is None:
        written, waits = await write(settings, keys, control, [event], why)
        if not waits:
            return written
        waiting = written
    raise Terminal(
        f"`{event[0]}` takes several people, and is proposed as control event {waiting}. Once another one agreed "
        f"(`sluicegate changes agree {waiting}`), run this again"
    )


def proposed(control: Control, kind: str, body: Row, now: int) -> int | None:
    """The open change that proposes this event already. An id that is drawn anew for each proposal does not count."""

    def same(one: Change) -> bool:
        return all(one.body.get(name) == value for name, value in body.items() if name != "log_id")

    found = (seq for seq, c in control.changes.items() if c.kind == kind and same(c))
    return next((seq for seq in found if not changes.ended(control, control.changes[seq], now)), None)


def came_of(done: str, head: int, waits: int) -> str:
    """What `write` did, in words: done, or proposed."""
    if not waits:
        return f"{done} as control event {head}"
    return f"proposed as control event {head}: it takes {waits} people, see `sluicegate changes list`"


async def look(settings: Settings) -> Control:
    """Control now, with the release whose `control.cedar` is asked."""
    return (await control_log.read(settings, with_release=True)).control


def find(control: Control, seq: int) -> Change:
    """A proposed change. Raises `Terminal` when there is none."""
    change = control.changes.get(seq)
    if change is None:
        raise Terminal(f"no change {seq} is proposed, see `sluicegate changes list`")
    return change


async def agree(
    settings: Settings, keys: Keys, seq: int, why: str, *, dry_run: bool = False
) -> tuple[int, Change, bool]:
    """Agree to a change; (control head, the change, whether it is done now). Raises `Terminal` when the word would not count."""
    control = await look(settings)
    change, me = find(control, seq), who(settings, control)
    now = control_log.clock(control)
    if reason := changes.may_agree(control, change, me, now):
        raise Terminal(f"you cannot agree to change {seq}: {reason}")
    body: dict[str, object] = {"change": seq, "digest": change.digest}
    after = replace(control, head=control.head + 1, at=now)
    perform(after, changes.AGREED, body, me)
    head = control.head
    if not dry_run:
        head = await control_log.append(
            settings, keys, [(changes.AGREED, body)], who=operator(), why=why, expected_head=control.head
        )
    return head, change, seq not in after.changes


async def withdraw(settings: Settings, keys: Keys, seq: int, why: str, *, dry_run: bool = False) -> int:
    """Take a proposed change back; returns the control head."""
    control = await look(settings)
    find(control, seq)
    if dry_run:
        return control.head
    events: list[tuple[str, dict[str, object]]] = [(changes.WITHDRAWN, {"change": seq})]
    return await control_log.append(
        settings, keys, events, who=operator(), why=why, expected_head=control.head
    )
