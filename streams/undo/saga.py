"""A saga: carries out what an operator ordered to be taken back, one compensation after the other.

    order (control event) ▸ a session of the saga ▸ for each call, the latest first: compensate, read back ▸ end (control event)

Each compensation is an ordinary intent of the saga's agent, decided, recorded and executed like any; all of them go through
that agent's partition, the saga's home. Killed anywhere, it is begun again by the same command: what was done is seen on
the ledger by its id, and an id is used once. A call is taken back only when all that followed from it is; when one
fails, those it followed from are left, and the others go on. Never decides anything itself.
Next: `undo/rollback.py` (who makes the plan), `processors/control/orders.py` (what an order allows).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from aiokafka import TopicPartition
from sluicegate.processors.control.orders import DONE as WAS_DONE
from sluicegate.processors.control.orders import ENDED_KIND, ORDERED_KIND, VERIFIED
from sluicegate.processors.jobs.compensate import base_of, check_id, met, undo_id
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.client import AgentClient
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import operators
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.scan import FETCH_WAIT_MS
from sluicegate.streams.sdk.errors import NotReleased, Unanswered, Withheld
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import Session
from sluicegate.streams.settings import Settings
from sluicegate.streams.undo.rollback import DONE, LEFT, TODO, Plan, Step

KNOWN_LIMIT_S = 15.0
"""For the ledger to decide under the order: it reads control ten times a second, a new owner needs up to 10 s."""
MAX_WHY_CHARS = 500


@dataclass(frozen=True, slots=True)
class How:
    """How it is carried out.

    Attributes:
        key, channel_key: signed environments: files of the saga's agent, and of the channel that says who ordered it.
        timeout_s: for each call.
    """

    why: str = ""
    timeout_s: float = 30.0
    key: Path | None = None
    channel_key: Path | None = None


async def carry_out(
    settings: Settings, keys: Keys, plan: Plan, how: How, said: Callable[[Step], None] = lambda _: None
) -> int:
    """Take back what the plan says is to do; the order's control event, or -1 when nothing is. Changes the steps.

    `said` hears each step that was tried. Raises `Terminal` when control moved since the plan was made, or where the
    agent that carries it out is not ready, and `Retryable` when nobody decides.
    """
    steps = [step for step in plan.steps.values() if step.stands == TODO]
    if not steps:
        return -1
    if plan.unready:
        raise Terminal(plan.unready)
    signed = plan.control.signing == "signed"
    if signed and how.key is None:
        raise Terminal(
            f"this environment takes signed intents only: give --key, the key file of agent `{plan.by}`"
        )
    who = operators.who(settings, plan.control)
    order = await _order(settings, keys, plan, steps, who, how.why)
    channel: bool | Path = how.channel_key if how.channel_key is not None else not signed
    try:
        async with AgentClient(plan.by, settings=settings, key=how.key, channel=channel) as agent:
            session = await _session(settings, agent, plan, order, who, channel is not False)
            try:
                for step in plan.steps.values():
                    if step.stands == TODO:
                        await _Try(agent, session, how, order).step(plan, step)
                        said(step)
            finally:
                await session.__aexit__(None, None, None)
    finally:
        await _end(settings, keys, plan, who, how.why)
    return order


async def _order(settings: Settings, keys: Keys, plan: Plan, steps: list[Step], who: str, why: str) -> int:
    """Record who ordered what. What is not ordered is not asked for."""
    root = plan.cascade.root
    calls: list[dict[str, object]] = []
    for step in steps:
        base = undo_id(*step.call.key)
        about = {"of_agent": step.call.agent_id, "of_intent": step.call.intent_id}
        calls.append({"id": base, "tool": step.undo_tool, **about})
        if (reader := _reader(step)) is not None:
            calls.append({"id": base_of(check_id(base, 0)), "tool": reader, **about})
    body: dict[str, object] = {
        "saga": plan.saga, "agent_id": plan.by, "of_agent": root[0], "of_intent": root[1], "calls": calls
    }  # fmt: skip
    # INVARIANT: the head is the plan's, so of two operators at once one has to look again (tests/integration/test_saga.py).
    return await control_log.append(
        settings,
        keys,
        [(ORDERED_KIND, body)],
        who=who,
        why=why[:MAX_WHY_CHARS],
        expected_head=plan.control.head,
    )


async def _end(settings: Settings, keys: Keys, plan: Plan, who: str, why: str) -> None:
    """Record what came of it. Lost with the operator's process, it is made up for by the next run."""
    steps = plan.steps.values()
    body: dict[str, object] = {
        "saga": plan.saga,
        WAS_DONE: [undo_id(*s.call.key) for s in steps if s.undone and not s.verified],
        VERIFIED: [undo_id(*s.call.key) for s in steps if s.verified],
        "left": [{"agent_id": s.call.agent_id, "intent_id": s.call.intent_id} for s in plan.left],
    }
    await control_log.append(settings, keys, [(ENDED_KIND, body)], who=who, why=why[:MAX_WHY_CHARS])


def _reader(step: Step) -> str | None:
    verify = step.tool.contract.governance.verify if step.tool is not None else None
    return verify.tool if verify is not None else None


async def _session(
    settings: Settings, agent: AgentClient, plan: Plan, order: int, who: str, channel: bool
) -> Session:
    """An open session of the saga, opened by a ledger that knows of the order."""
    place = TopicPartition(
        full_name(settings.space, "outcomes"), partition_of(plan.by, await topics.partitions_of(settings))
    )
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        consumer.assign([place])
        consumer.seek(place, (await consumer.end_offsets([place]))[place])
        deadline = asyncio.get_running_loop().time() + KNOWN_LIMIT_S
        goal = f"take back {plan.cascade.root[1]} of {plan.cascade.root[0]}"
        tries = 0
        while True:
            tries += 1
            session = agent.session(
                goal,
                session_id=f"{plan.saga}.{order}.{tries}",
                on_behalf_of=who if channel and not plan.verified_users else "",
            )
            await session.__aenter__()
            while True:
                batch = (await consumer.getmany(place, timeout_ms=FETCH_WAIT_MS)).get(place, [])
                headers = [decode(place.partition, b.offset, b.value).header for b in batch]
                heads = [h.control_head for h in headers if h.session_id == session.session_id]
                if heads:
                    break
                if asyncio.get_running_loop().time() > deadline:
                    raise Retryable(
                        "no ledger decides under the order, see `sluicegate doctor` and run it again"
                    )
            if heads[-1] >= order:
                return session
            await session.__aexit__(None, None, None)
    finally:
        await consumer.stop()


@dataclass(slots=True)
class _Try:
    """One step's try."""

    agent: AgentClient
    session: Session
    how: How
    order: int

    async def step(self, plan: Plan, step: Step) -> None:
        """Compensate and read back, or say why not."""
        step.stands = LEFT
        if left := _left_after(plan, step):
            step.why = f"`{left.call.intent_id}` followed from it and is not taken back"
            return
        if not step.undone:
            step.undone, _, step.why = await self._ask(step.undo_tool, step.arguments, step.undo)
        if step.undone:
            step.why = await self._check(step)
            step.stands = LEFT if step.why else DONE

    async def _check(self, step: Step) -> str:
        """Why it is not seen to be undone; an empty text when it is, or the contract says no way to look."""
        verify = step.tool.contract.governance.verify if step.tool is not None else None
        if verify is None:
            return ""
        done, result, why = await self._ask(
            verify.tool, step.verify_arguments, check_id(step.undo, self.order)
        )
        if not done:
            return f"undone, but not read back: {why}"
        step.verified, why = met(verify.expect, result, step.args, step.result)
        return "" if step.verified else f"`{step.undo_tool}` was done, and what was read back says no: {why}"

    async def _ask(self, tool: str, arguments: dict[str, object], ident: str) -> tuple[bool, object, str]:
        """(whether it was done, its result, why not)."""
        given = cast("dict[str, Json]", arguments)
        try:
            if self.session.channel:  # the operator's own words: what is asked comes from there
                await self.session.user_said(f"{tool} {json.dumps(arguments, ensure_ascii=False)}")
            result = await self.session.call_tool(tool, given, timeout_s=self.how.timeout_s, intent_id=ident)
        except Withheld as withheld:
            return True, None, str(withheld)
        except NotReleased as refused:
            if refused.reason != "id_conflict" and not isinstance(refused, Unanswered):
                return False, None, f"`{ident}` {refused}"
            # It was asked for before, by a run that was ended: how that went is what counts.
            return await self._asked_before(ident)
        return (False, None, _held(result)) if isinstance(result, Held) else (True, result, "")

    async def _asked_before(self, ident: str) -> tuple[bool, object, str]:
        try:
            result = await self.agent.result(ident, self.how.timeout_s)
        except Withheld as withheld:
            return True, None, str(withheld)
        except NotReleased as refused:
            return False, None, f"`{ident}` {refused}"
        return (False, None, _held(result)) if isinstance(result, Held) else (True, result, "")


def _held(held: Held) -> str:
    return f"a person has to agree: {held.why} (`{held.intent_id}`), then run it again"


def _left_after(plan: Plan, step: Step) -> Step | None:
    """A call that followed from this one, at whatever distance, and is not taken back though it could be."""
    todo, seen = [step.call.key], {step.call.key}
    while todo:
        for child in plan.cascade.children.get(todo.pop(), []):
            if plan.steps[child].stands in (LEFT, TODO):
                return plan.steps[child]
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return None
