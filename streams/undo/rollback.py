"""Taking calls back: what the ledger says happened and what followed from it, and what its contracts say undoes it.

Reads only. A plan is made from the ledger alone, so it is the same after a crash, but for what was done meanwhile: the
ids of compensations are made from the calls', and how they stand is on the ledger, too.
Next: `undo/saga.py` (who carries it out), `processors/replay/lineage.py`, `processors/jobs/compensate.py`, `commands/rollback.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sluicegate.processors import lifecycle
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.orders import VERIFIED
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.jobs.compensate import (
    KEY,
    MAX_TRIES,
    RESULT,
    arguments_of,
    saga_id,
    shared_value,
    undo_id,
)
from sluicegate.processors.jobs.resolve import DID_NOT_HAPPEN
from sluicegate.processors.plan import idempotency_key
from sluicegate.processors.releases.compensate_check import INSIDE
from sluicegate.processors.releases.release import CompiledRelease, CompiledTool, compile_release
from sluicegate.processors.replay.lineage import Call, Cascade, Key, Lineage, TooWide
from sluicegate.processors.replay.recorded import Opener
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.inspect.lineage_reader import LineageReader
from sluicegate.streams.scan import FETCH_WAIT_MS
from sluicegate.streams.settings import Settings

DEFAULT_AGENT = "rollback-{tenant}"
"""The registered agent that carries sagas out, unless another one is named: one a tenant, with policies of its own."""

MAX_UNSURE = 50
"""Calls that may have followed and are looked into; 60 ms each."""

_PEOPLE = {
    "held": "a person has to agree, see `sluicegate approvals`",
    "in_doubt": "nobody knows whether it happened, see `sluicegate in-doubt list`",
}
"""States of a compensation that only people end: it is not asked for again before."""

NOTHING, CANNOT, TODO, DONE, LEFT = "nothing", "cannot", "todo", "done", "left"


@dataclass(slots=True)
class Step:
    """One call of the plan, and how it stands.

    Attributes:
        stands: `nothing` to take back, `cannot` be, `todo`, `done` (and verified where the contract says how), `left`.
        why: of `nothing`, `cannot` and `left`.
        undo: id of the compensation's next try, or of the one that was done.
        undone: the compensation is done; what may be missing is the read-back.
        verified: it was read back.
        args, result: of the call that is taken back.
    """

    call: Call
    stands: str = TODO
    why: str = ""
    undo: str = ""
    undo_state: str = ""
    tool: CompiledTool | None = None
    arguments: dict[str, object] = field(default_factory=dict)
    verify_arguments: dict[str, object] = field(default_factory=dict)
    undone: bool = False
    verified: bool = False
    args: object = None
    result: object = None

    @property
    def undo_tool(self) -> str:
        """The tool that takes it back, or an empty text."""
        said = self.tool.contract.governance.compensate if self.tool is not None else None
        return said.tool if said is not None else ""


@dataclass(slots=True)
class Plan:
    """What would be taken back, in this order, and what not.

    Attributes:
        saga: its id.
        by: the agent that carries it out.
        control: as it was read; the order must still find this head.
        steps: by call, every call after all that followed from it.
        hints: of calls that may have followed, a value that stands in the result and in their arguments.
        verified_users: whether the release wants proof of whom a session is for.
        unready: why `by` cannot carry it out, and what to do; empty where it can.
    """

    saga: str
    by: str
    control: Control
    cascade: Cascade
    steps: dict[Key, Step]
    verified_users: bool = False
    hints: dict[Key, str] = field(default_factory=dict)
    unready: str = ""

    @property
    def cannot(self) -> list[Step]:
        """What cannot be taken back."""
        return [step for step in self.steps.values() if step.stands == CANNOT]

    @property
    def left(self) -> list[Step]:
        """What is not taken back as things stand."""
        return [step for step in self.steps.values() if step.stands in (CANNOT, TODO, LEFT)]

    @property
    def waits_for(self) -> str:
        """What has to be done before the rest can be taken back; empty where nothing has, or nothing is to do."""
        return self.unready if any(step.stands == TODO for step in self.steps.values()) else ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for. `doubt`: the call is in doubt, and taken for one that happened."""

    intent_id: str
    agent_id: str = ""
    cascade: bool = False
    seen: bool = False
    by: str = ""
    doubt: bool = False


async def make_plan(
    settings: Settings, wish: Wish, opener: Opener, advance: Callable[[int], None] = lambda _: None
) -> Plan:
    """Read the ledger and say what would be done. Raises `Terminal` for what is unknown or too wide."""
    control = (await control_log.read(settings)).control
    if not control.deployed:
        raise Terminal("no release is deployed, so no contract says how to take anything back: deploy one")
    release = compile_release(await releases.fetch(settings, control.deployed), proven=True)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        reader = LineageReader(settings, consumer, advance)
        root = await reader.root(wish.intent_id, wish.agent_id)
        found = await reader.followed(root, wide=wish.cascade, seen=wish.seen)
        by = _by(control, found, wish, root)
        await reader.read_compensations(found, by)
        order = found.backwards(reader.lineage)
        plan = Plan(
            saga_id(*root.key),
            by,
            control,
            found,
            {call.key: Step(call) for call in order},
            release.require_verified_user,
            unready=unready(control, by, root.tenant),
        )
        for step in plan.steps.values():
            _tries(step, reader.lineage, by)
            judge(step, release, control, doubt=wish.doubt)
            if step.stands == TODO:
                fill(step, *await reader.contents(step.call, opener))
            if step.stands == TODO and not step.undone:
                same = await reader.same(step.call, step.undo_tool, step.arguments, by, opener)
                settled(step, same)
                if step.stands == NOTHING and same is not None and same.key in plan.steps:
                    plan.steps[same.key].stands = NOTHING
                    plan.steps[same.key].why = f"it took `{step.call.intent_id}` back"
        await _look_at_unsure(plan, reader, opener)
        return plan
    except TooWide as error:
        raise Terminal(str(error)) from error
    finally:
        await consumer.stop()


async def _look_at_unsure(plan: Plan, reader: LineageReader, opener: Opener) -> None:
    """Whether what may have followed holds a value of the result that its session saw."""
    results: dict[Key, object] = {}
    for key, link in list(plan.cascade.unsure.items())[:MAX_UNSURE]:
        if link.parent not in results:
            _, results[link.parent] = await reader.contents(reader.lineage.calls[link.parent], opener)
        args, _ = await reader.contents(reader.lineage.calls[key], opener)
        if value := shared_value(args, results[link.parent]):
            plan.hints[key] = value


def _by(control: Control, found: Cascade, wish: Wish, root: Call) -> str:
    """The agent that carries it out: the one of an earlier order, else the one asked for."""
    before = {one.agent_id for k in found.calls if (one := control.orders.get(undo_id(*k))) is not None}
    if len(before) > 1:
        raise Terminal(
            f"calls of it were ordered for {' and '.join(sorted(before))}: take those parts back one by one"
        )
    by = next(iter(before), wish.by or DEFAULT_AGENT.format(tenant=root.tenant))
    if wish.by and wish.by != by:
        # INVARIANT: one agent takes a call back, so that it is done once (tests/integration/test_saga.py).
        raise Terminal(f"it was ordered before for agent `{by}`, go on with --by {by}")
    return by


def unready(control: Control, by: str, tenant: str) -> str:
    """Why an agent cannot take back calls of a tenant. A plan is made all the same: what nobody can take back needs no agent."""
    agent = control.agents.get(by)
    if inactive(agent) or agent is None:
        return (
            f"agent `{by}` carries it out and is not registered or not active: `sluicegate agents register {by} "
            f"--role rollback --tenant {tenant}`, and permit that role the compensations"
        )
    if agent.tenant != tenant:
        return f"agent `{by}` is of tenant `{agent.tenant}`, and the call of `{tenant}`: name one with --by"
    return ""


def _tries(step: Step, lineage: Lineage, by: str) -> None:
    """Which try of the compensation counts, and how it stands."""
    for attempt in range(1, MAX_TRIES + 1):
        step.undo = undo_id(*step.call.key, attempt)
        tried = lineage.calls.get((by, step.undo))
        step.undo_state = tried.state if tried is not None else ""
        if tried is None or not no_effect(tried):
            step.undone = tried is not None and tried.state in lifecycle.EXECUTED_TERMINAL
            return
    step.stands, step.why = CANNOT, f"{MAX_TRIES} compensations were tried, settle it by hand"


def no_effect(call: Call) -> bool:
    """Whether it ended, and nothing happened."""
    never = call.state == "resolved" and call.proof == DID_NOT_HAPPEN
    return never or call.state in (*lifecycle.DECIDED_TERMINAL, "failed")


def judge(step: Step, release: CompiledRelease, control: Control, *, doubt: bool = False) -> None:
    """Say how a call stands as far as its end and its contract tell; with `doubt` one in doubt counts as one that happened."""
    step.tool = release.tools.get(step.call.tool)
    if step.stands == CANNOT:
        return
    known = control.orders.get(undo_id(*step.call.key))
    step.verified = step.undone and known is not None and known.state == VERIFIED
    step.stands, step.why = _stands(step, doubt)
    if step.stands == TODO and step.undo_state in _PEOPLE:
        step.stands, step.why = LEFT, f"`{step.undo}` is `{step.undo_state}`: {_PEOPLE[step.undo_state]}"


def fill(step: Step, args: object, result: object) -> None:
    """Say what would take back a call that is to do, from its arguments and its result."""
    assert step.tool is not None
    said, check = step.tool.contract.governance.compensate, step.tool.contract.governance.verify
    assert said is not None
    step.args, step.result = args, result
    call = step.call
    key = idempotency_key(call.tenant, call.agent_id, call.intent_id, call.digest) if call.digest else ""
    step.arguments, missing = arguments_of(said, args, result, key)
    if not missing and check is not None:
        step.verify_arguments, missing = arguments_of(check, args, result, key)
    if missing:
        why = f"`{missing}` is not there: the call or its result has no such value, or it was erased"
        step.stands, step.why = CANNOT, why
    elif step.undone and (check is None or step.verified):
        step.stands = DONE


def settled(step: Step, call: Call | None) -> None:
    """Somebody did the same already: taken back, where the arguments name something that only this call led to."""
    if call is None or step.tool is None or step.tool.contract.governance.compensate is None:
        return
    given = step.tool.contract.governance.compensate.arguments.values()
    if any(isinstance(value, str) and (value.startswith(RESULT) or value == KEY) for value in given):
        step.stands, step.why = NOTHING, f"`{call.intent_id}` of `{call.agent_id}` took it back already"
    else:
        step.stands = CANNOT
        step.why = (
            f"`{call.intent_id}` of `{call.agent_id}` did the same later, for this call or another one: look"
        )


def _stands(step: Step, doubt: bool) -> tuple[str, str]:
    call = step.call
    if call.to is not None:
        return NOTHING, "a hand-off: what it led to is taken back"
    if call.tool_class == "read_only" and call.op != "write":
        return NOTHING, "it only reads"
    if no_effect(call):
        return NOTHING, f"it ended `{call.state}`: nothing happened"
    if call.state == "in_doubt" and not doubt:
        return CANNOT, "nobody knows whether it happened: `sluicegate in-doubt list`, then `in-doubt resolve`"
    if call.state not in (*lifecycle.EXECUTED_TERMINAL, "in_doubt"):
        return CANNOT, f"it is `{call.state}` and may still happen: wait for its end"
    if step.tool is None:
        return CANNOT, f"the deployed release has no contract `{call.tool}`"
    if step.tool.executor_kind == INSIDE[1]:
        return CANNOT, "what an agent remembers is its own: only the agent can forget it"
    if step.tool.contract.governance.compensate is None:
        return CANNOT, f"the contract of `{call.tool}` has no `compensate`"
    return TODO, ""
