"""Taking calls back: what the ledger says happened and what followed from it, and what its contracts say undoes it.

Reads only. A plan is made from the ledger alone, so it is the same after a crash, but for what was done meanwhile: the
ids of compensations are made from the calls', and how they stand is on the ledger, too.
Next: `saga.py` (who carries it out), `processors/lineage.py`, `processors/compensate.py`, `commands/rollback.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import orjson
from aiokafka import AIOKafkaConsumer
from sluicegate.processors import lifecycle
from sluicegate.processors.compensate import MAX_TRIES, arguments_of, saga_id, undo_id
from sluicegate.processors.compensate_check import INSIDE
from sluicegate.processors.control import Control
from sluicegate.processors.lineage import Call, Cascade, Key, Lineage, Place, TooWide, cascade
from sluicegate.processors.orders import VERIFIED
from sluicegate.processors.registry import inactive
from sluicegate.processors.release import CompiledRelease, CompiledTool, compile_release
from sluicegate.processors.resolve import DID_NOT_HAPPEN
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import control_log, kafka, releases, topics
from sluicegate.streams.explain import FETCH_WAIT_MS, Opener, record_in
from sluicegate.streams.find import Finder, LedgerEvent, decode
from sluicegate.streams.recovery import read_one
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings

DEFAULT_AGENT = "rollback-{tenant}"
"""The registered agent that carries sagas out, unless another one is named: one a tenant, with policies of its own."""

CLOCKS_MS = 5_000
"""Another partition is read from so long before the call: clocks differ by less than a second."""

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
        verified_users: whether the release wants proof of whom a session is for.
    """

    saga: str
    by: str
    control: Control
    cascade: Cascade
    steps: dict[Key, Step]
    verified_users: bool = False

    @property
    def cannot(self) -> list[Step]:
        """What cannot be taken back."""
        return [step for step in self.steps.values() if step.stands == CANNOT]

    @property
    def left(self) -> list[Step]:
        """What is not taken back as things stand."""
        return [step for step in self.steps.values() if step.stands in (CANNOT, TODO, LEFT)]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for."""

    intent_id: str
    agent_id: str = ""
    cascade: bool = False
    seen: bool = False
    by: str = ""


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
        reader = _Reader(settings, consumer, advance)
        root = await reader.root(wish)
        found = await reader.followed(root, wish)
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
        )
        for step in plan.steps.values():
            _tries(step, reader.lineage, by)
            args, result = await reader.contents(step.call, opener)
            fill(step, release, control, args, result)
        return plan
    except TooWide as error:
        raise Terminal(str(error)) from error
    finally:
        await consumer.stop()


class _Reader:
    """Fills a lineage from the ledger."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, advance: Callable[[int], None]
    ) -> None:
        self._settings, self._consumer, self._advance = settings, consumer, advance
        self._finder = Finder(settings, consumer)
        self._loaded: set[int] = set()
        self._since_ms = 0
        self.lineage = Lineage("")

    async def root(self, wish: Wish) -> Call:
        """The call that is to be taken back."""
        await self._finder.open()
        events = await self._finder.intent(wish.intent_id, wish.agent_id) if wish.intent_id else []
        owners = sorted({e.header.agent_id for e in events})
        if len(owners) != 1:
            many = f"was asked by {len(owners)} agents, say which with --agent"
            said = many if owners else "is not on the ledger, look for it with `sluicegate intents`"
            raise Terminal(f"intent `{wish.intent_id[:80]}` {said}")
        self.lineage = Lineage(events[0].header.tenant)
        self._since_ms = events[0].header.decided_at // 1000 - CLOCKS_MS
        self._take(events)
        call = self.lineage.calls.get((owners[0], wish.intent_id))
        if call is None:
            raise Terminal(
                f"intent `{wish.intent_id[:80]}` is no call, name one that `sluicegate intents` lists"
            )
        return call

    def _take(self, events: Iterable[LedgerEvent]) -> None:
        for e in events:
            self.lineage.take(e.partition, e.offset, e.header, e.facts)

    async def followed(self, root: Call, wish: Wish) -> Cascade:
        """What followed: the agent's own partition, and those to which work was handed on, as far as that leads."""
        if not wish.cascade:
            return Cascade(root.key, [root.key], {}, {}, set())
        count = await topics.partitions_of(self._settings)
        self.lineage = Lineage(root.tenant)
        await self._load(root.partition)
        while True:
            found = cascade(self.lineage, root.key, seen=wish.seen)
            missing = sorted({partition_of(agent, count) for agent in found.hands} - self._loaded)
            if not missing:
                return found
            for partition in missing:
                await self._load(partition)

    async def read_compensations(self, found: Cascade, by: str) -> None:
        """How the compensations stand that were asked for before."""
        if self._loaded:  # a cascade: their partition is read once, since the call
            home = partition_of(by, await topics.partitions_of(self._settings))
            if home not in self._loaded:
                await self._load(home)
            return
        for attempt in range(1, MAX_TRIES + 1):
            events = await self._finder.intent(undo_id(*found.root, attempt), by)
            self._take(events)
            if not events:
                return

    async def _load(self, partition: int) -> None:
        self._loaded.add(partition)
        [place] = places(self._settings.env, "outcomes", [partition])
        [stretch] = await stretches(self._consumer, [place])
        start = (await self._consumer.offsets_for_times({place: self._since_ms}))[place]
        begin = stretch.end if start is None else max(stretch.begin, start.offset)
        async for batch in scan(self._consumer, place, begin, stretch.end):
            self._take(decode(partition, record.offset, record.value) for record in batch)
            self._advance(len(batch))

    async def contents(self, call: Call, opener: Opener) -> tuple[object, object]:
        """The call's arguments and its result, None where they were erased or there are none."""
        args = await self._record(call.first, opener)
        edit = await self._record(call.edited, opener)
        last = await self._record(call.last, opener)
        asked = edit.arguments if isinstance(edit, r.Review) else None
        if asked is None and call.edited is None and isinstance(args, r.Intent):
            asked = args.arguments
        told = last.result if isinstance(last, r.Receipt | r.Resolution) else None
        return _json(asked), _json(told)

    async def _record(self, at: Place | None, opener: Opener) -> object:
        if at is None:
            return None
        [place] = places(self._settings.env, "outcomes", [at[0]])
        record = await read_one(self._consumer, place, at[1])
        if record is None:
            return None
        event = decode(at[0], at[1], record.value)
        if event.sealed is None:
            return None
        try:
            return record_in(opener(event.header.subject, event.header.event_id, event.sealed))
        except SluicegateError:
            return None


def _json(value: bytes | None) -> object:
    try:
        return None if value is None else cast(object, orjson.loads(value))
    except orjson.JSONDecodeError:
        return None


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
    agent = control.agents.get(by)
    if inactive(agent) or agent is None:
        raise Terminal(
            f"agent `{by}` carries it out and is not registered or not active: `sluicegate agents register {by} "
            f"--role rollback --tenant {root.tenant}`, and permit that role the compensations"
        )
    if agent.tenant != root.tenant:
        raise Terminal(
            f"agent `{by}` is of tenant `{agent.tenant}`, and the call of `{root.tenant}`: name one with --by"
        )
    return by


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


def fill(step: Step, release: CompiledRelease, control: Control, args: object, result: object) -> None:
    """Say how a call stands, and what would take it back."""
    call = step.call
    tool = step.tool = release.tools.get(call.tool)
    step.args, step.result = args, result
    if step.stands == CANNOT:
        return
    known = control.orders.get(undo_id(*call.key))
    step.verified = step.undone and known is not None and known.state == VERIFIED
    step.stands, step.why = _stands(step)
    if step.stands != TODO or tool is None:
        return
    said, check = tool.contract.governance.compensate, tool.contract.governance.verify
    if said is None:
        step.stands, step.why = CANNOT, f"the contract of `{call.tool}` has no `compensate`"
        return
    step.arguments, missing = arguments_of(said, args, result)
    if not missing and check is not None:
        step.verify_arguments, missing = arguments_of(check, args, result)
    if missing:
        why = f"`{missing}` is not there: the call or its result has no such value, or it was erased"
        step.stands, step.why = CANNOT, why
    elif step.undone and (check is None or step.verified):
        step.stands = DONE
    elif step.undo_state in _PEOPLE:
        step.stands, step.why = LEFT, f"`{step.undo}` is `{step.undo_state}`: {_PEOPLE[step.undo_state]}"


def _stands(step: Step) -> tuple[str, str]:
    call = step.call
    if call.to is not None:
        return NOTHING, "a hand-off: what it led to is taken back"
    if call.tool_class == "read_only" and call.op != "write":
        return NOTHING, "it only reads"
    if no_effect(call):
        return NOTHING, f"it ended `{call.state}`: nothing happened"
    if call.state == "in_doubt":
        return CANNOT, "nobody knows whether it happened: `sluicegate in-doubt list`"
    if call.state not in lifecycle.EXECUTED_TERMINAL:
        return CANNOT, f"it is `{call.state}` and may still happen: wait for its end"
    if step.tool is None:
        return CANNOT, f"the deployed release has no contract `{call.tool}`"
    if step.tool.executor_kind == INSIDE[1]:
        return CANNOT, "what an agent remembers is its own: only the agent can forget it"
    return TODO, ""
