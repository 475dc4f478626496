"""What people do about proposed changes: agree, or take them back. Each is one control event.

Says in a sentence what would not count, and appends on the head it looked at. Never decides who may: control's fold does.
Next: `processors/changes.py`, `deployments.py` (who proposes), `commands/changes.py`.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.processors import changes
from sluicegate.processors.changes import Change
from sluicegate.processors.control import Control, perform
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import control_log
from sluicegate.streams.keys import Keys
from sluicegate.streams.operators import operator, who
from sluicegate.streams.settings import Settings


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
