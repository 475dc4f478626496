"""A call in doubt is taken for one that happened, taken back as its contract says, and then resolved by that.

    plan ▸ order (control event) ▸ compensate ▸ read back ▸ end (control event) ▸ resolution ▸ `resolved`, `compensated`

The first five are a saga as any (`undo/saga.py`). The ledger takes the resolution only when control says that the order was done,
so killed anywhere the same command goes on where it stopped, and nothing is taken back twice. Never repeats the call.
Next: `undo/rollback.py` (the plan), `processors/jobs/resolve.py` (who decides), `commands/in_doubt.py`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluicegate.processors.jobs.resolve import COMPENSATED
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Header, Resolution
from sluicegate.streams import reviewing
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.undo.rollback import CANNOT, DONE, TODO, Plan, Step, Wish, make_plan
from sluicegate.streams.undo.saga import How, carry_out

KNOWN_LIMIT_S = 15.0
"""For the ledger to learn of the saga's end: it reads control ten times a second, a new owner needs up to 10 s."""
AGAIN_S = 0.5
_NOT_YET = ("not_compensated", "control_stale")


@dataclass(frozen=True, slots=True)
class Said:
    """Who says it, and why. `key`: signed environments, the person's key file."""

    person: str
    why: str = ""
    key: Path | None = None


async def doubt_plan(settings: Settings, keys: Keys, intent: str, agent: str, by: str) -> Plan:
    """What would take the call back. Raises `Terminal` for a call that is not in doubt, or was resolved otherwise."""
    plan = await make_plan(settings, Wish(intent, agent, by=by, doubt=True), keys.open)
    call = root(plan).call
    if call.state != "in_doubt" and not (call.state == "resolved" and call.proof == COMPENSATED):
        raise Terminal(
            f"`{intent[:80]}` is `{call.state}`, not in doubt: `sluicegate rollback call` takes back what happened"
        )
    return plan


def root(plan: Plan) -> Step:
    """The step of the call itself."""
    return plan.steps[plan.cascade.root]


async def settle(
    settings: Settings,
    keys: Keys,
    plan: Plan,
    how: How,
    said: Said,
    told: Callable[[Step], None] = lambda _: None,
) -> Header | None:
    """Take the call back and resolve it; the resolving record's header, or None when it stands in the plan's step why not."""
    step = root(plan)
    if step.call.state == "resolved":
        return None
    if step.stands == TODO:
        await carry_out(settings, keys, plan, how, told)
    if step.stands != DONE:
        return None
    deadline = time.monotonic() + KNOWN_LIMIT_S
    while True:
        word = Resolution(
            uuid.uuid4().hex, step.call.agent_id, step.call.intent_id, COMPENSATED, said.person, time.time_ns() // 1000,
            said.why,
        )  # fmt: skip
        [event, *_] = await reviewing.send(settings, word, key=said.key)
        if event.header.reason not in _NOT_YET or time.monotonic() > deadline:
            return event.header
        await asyncio.sleep(AGAIN_S)


def stands_because(plan: Plan) -> str:
    """Why the call is not taken back."""
    step = root(plan)
    return f"cannot be taken back: {step.why}" if step.stands == CANNOT else step.why
