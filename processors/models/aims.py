"""Aims: which candidate of its route a model call is offered to now, and what exactly that one is asked.

The first aim is the first candidate that may be asked; a failed attempt aims at another one (`models/attempts.py`); a second offer of
the same attempt keeps its aim, which the state remembers. What approvals, quarantine and second offers are bound to
is the call as the agent made it; the message that asks for a repair comes on top, out of the receipt it is about.
Never asks a policy: who may be asked was settled at authorize, all but the kill switch. Next: `plan.py` (who uses it),
`models/routed.py` (what the state remembers).
"""

from __future__ import annotations

from typing import cast

import jsonschema_rs
import orjson
from sluicegate.processors.control import quarantine
from sluicegate.processors.models.routes import Aim, CompiledRoute
from sluicegate.processors.payload import record_in
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.work import Work
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import AttemptFacts, PlanFacts, Receipt

RECEIPTS = "receipts"
FIRST, AGAIN = "first", "again"
SAID_CHARS = 500
"""Of a validator's message that a model is told."""
ANSWER_CHARS = 8_000
"""Of its own answer that it is shown again."""


def aim(work: Work) -> bool:
    """Set `work.aim` for a routed call that has none. False when no candidate is left that may be asked; what it needs to know
    may be asked for in `work.decision.needs`."""
    tool = work.tool
    if tool is None or tool.route is None or work.aim is not None:
        return True
    entry = work.state.intents.get(key_of(work.origin))
    known = entry if type(entry) is OpenIntent else None
    if known is not None and known.candidate:
        work.attempt = known.attempt
        work.aim = (
            _again(work, known, tool)
            if not stopped(work, known.candidate)
            else _instead(work, known, tool.route)
        )
        return work.aim is not None
    usable = work.choice.usable if work.choice is not None else known.routes if known is not None else ()
    name = next_of(work, tool.route, usable, ())
    if name:
        work.aim = Aim(name, FIRST, (), 1)
    return bool(name)


def stopped(work: Work, name: str) -> bool:
    """Whether control forbids this candidate now."""
    o = work.origin
    return bool(quarantine.quarantined(work.control, o.agent_id, name, o.session_id, work.control.deployed))


def _instead(work: Work, entry: OpenIntent, route: CompiledRoute) -> Aim | None:
    """The aim of an offer that is made again, when its candidate was quarantined meanwhile: the next one, if there is any."""
    tried = (*entry.tried, f"{entry.candidate} {quarantine.REASON}")
    name = next_of(work, route, entry.routes, tried)
    attempt = entry.attempt if entry.state == "waiting" else entry.attempt + 1
    return Aim(name, f"{quarantine.REASON} next", tried, attempt) if name else None


def _again(work: Work, entry: OpenIntent, tool: CompiledTool) -> Aim:
    """The aim of an offer that is made again: as it was, with the message of its repair."""
    aimed = Aim(entry.candidate, AGAIN, entry.tried, entry.aimed, entry.repair)
    if entry.repair >= 0:
        receipt = _receipt_in(at_hand(work, (RECEIPTS, entry.repair)))
        if receipt is not None:  # else it is asked as it was at first
            aimed.message = repair_message(receipt, tool.result_validator)
    return aimed


def next_of(work: Work, route: CompiledRoute, usable: tuple[str, ...], tried: tuple[str, ...]) -> str:
    """The first candidate that may be asked, was not asked yet and is not stopped; or an empty text."""
    before = {row.rsplit(" ", 1)[0] for row in tried}
    for name in usable:
        if name in before or route.way(name) is None:
            continue
        # INVARIANT: a quarantined candidate is not asked (tests/unit/test_attempts.py::test_a_quarantined_candidate_is_not_asked).
        if not stopped(work, name):
            return name
    return ""


def asked(work: Work) -> CompiledTool:
    """The contract that is asked now: the aim's, or the call's own. Raises `KeyError` when the aim has none."""
    assert work.tool is not None
    if work.aim is None or work.tool.route is None:
        return work.tool
    way = work.tool.route.way(work.aim.candidate)
    if way is None:
        raise KeyError(work.aim.candidate)
    return way.tool


def facts_of(work: Work, facts: PlanFacts) -> PlanFacts:
    """The facts of an offer: with the aim, where there is one."""
    aimed = work.aim
    if aimed is None:
        return facts
    return widen(
        AttemptFacts, facts, candidate=aimed.candidate, why=aimed.why, tried=list(aimed.tried), aimed=aimed.aimed,
        repair=aimed.repair,
    )  # fmt: skip


def arguments_of(work: Work) -> bytes:
    """What the candidate is asked: the call, and the repair where one is asked for."""
    assert work.conformed is not None
    if work.aim is None or not work.aim.message:
        return work.conformed.canonical
    more = cast("list[object]", orjson.loads(work.aim.message))
    said = [*cast("list[object]", work.conformed.args.get("messages") or []), *more]
    return orjson.dumps({**work.conformed.args, "messages": said}, option=orjson.OPT_SORT_KEYS)


def key_part(work: Work) -> bytes:
    """What tells requests of one call apart for servers that remember keys: each aim is another request."""
    return b"" if work.aim is None or work.aim.aimed <= 1 else b"\0%d" % work.aim.aimed


# -- the repair --------------------------------------------------------------------------------------------------------


def repair_message(receipt: Receipt, validator: jsonschema_rs.Validator | None) -> bytes:
    """The messages, as JSON, that ask for an answer that can be used: what was said, and what is wrong with it."""
    said, text = receipt.error, ""
    if receipt.kind == "finished":
        said = "it is not what was asked for"
        try:
            value = orjson.loads(receipt.result or b"null")
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            text = value["text"][:ANSWER_CHARS]
        if validator is not None:
            wrong = next(iter(validator.iter_errors(value)), None)
            if wrong is not None:
                said = f"`{'.'.join(map(str, wrong.instance_path)) or 'answer'}`: {wrong.message}"
    ask = f"Your last answer could not be used: {said[:SAID_CHARS]}. Answer again, in the form that was asked for."
    messages = [{"role": "user", "content": ask}]
    if text:
        messages.insert(0, {"role": "assistant", "content": text})
    return orjson.dumps(messages)


def _receipt_in(value: bytes | None) -> Receipt | None:
    """The receipt in an input's bytes, signed or not. Who signed it was checked when it was folded."""
    record = record_in(value)
    return record if isinstance(record, Receipt) else None
