"""Attempts: what follows when a model of a route fails. Decided here, by the ledger, on the failed attempt's receipt.

    rule of the error's class     what follows
    next                          the next candidate that may be asked and was not yet
    retry                         the same candidate once more, not before the `Retry-After` it named; then `next`
    repair                        the same candidate once more, told what is wrong with its answer; then `next`
    stop                          the call ends with this failure

A candidate that was quarantined between its offer and its call is followed by the next one, whatever the rules say.
Each is a new `dispatched` with the next attempt, which names the candidate, everybody tried, and why. It is bounded by the
route's `attempts`, by its candidates and by the call's deadline, and never begins for a session nobody has open any more.
Who may be asked was settled at authorize. Never repeats by itself what may have had an effect: candidates are `read_only`.
Next: `models/aims.py` (what exactly is asked), `offering.py` (the one way out), `ticks.py` (pauses end there).
"""

from __future__ import annotations

import orjson
from sluicegate.processors.artifacts import STORED
from sluicegate.processors.control import quarantine
from sluicegate.processors.models.aims import next_of, repair_message
from sluicegate.processors.models.routed import class_of
from sluicegate.processors.models.routes import Aim, CompiledRoute
from sluicegate.processors.offering import proceed
from sluicegate.processors.plan import MAX_ATTEMPTS, deadline_of, pause
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.validate import check_result
from sluicegate.processors.work import Work
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import AnswerFacts, Receipt, ResultFacts

MIN_LEFT_US = 100_000
"""With less time than this before the deadline nothing more is begun."""


def follow(work: Work, entry: OpenIntent, receipt: Receipt) -> bool:
    """Whether a failed attempt of a routed call is followed by another one, which is offered then.

    Also true when `work.decision.needs` was set, which asks for the call's own bytes.
    """
    tool = work.control.release.tools.get(entry.tool) if work.control.release is not None else None
    if tool is None or tool.route is None or tool.version != entry.version:
        return False  # another release routes by now: the failure stands
    stopped = receipt.kind == "failed" and receipt.error_class == quarantine.REASON
    failure = quarantine.REASON if stopped else _failure(receipt, tool)
    if not failure:
        return False
    tried = (*entry.tried, f"{entry.candidate} {failure}")
    wait_us = receipt.retry_after_ms * 1_000
    left_us = deadline_of(entry) - work.now
    if len(tried) >= tool.route.attempts or entry.attempt >= MAX_ATTEMPTS or left_us < MIN_LEFT_US:
        return False
    aimed = _next_aim(work, entry, tool.route, failure, tried, left_us - wait_us)
    if aimed is None:
        return False
    problem = restore_call(work, entry)
    if work.decision.needs:
        return True
    if problem or work.action_digest != entry.action_digest or work.session is None:
        return False
    if aimed.repair >= 0:
        aimed.message = repair_message(receipt, tool.result_validator)
    work.aim = aimed
    if wait_us and aimed.why.endswith(" retry"):
        pause(work, entry.attempt + 1, work.now + wait_us)
        work.decision.outcomes[0].caused_by = [entry.last_event]
        return True
    proceed(work, entry.attempt + 1)
    if work.decision.outcomes:
        work.decision.outcomes[0].caused_by = [entry.last_event]
    return True


def _failure(receipt: Receipt, tool: CompiledTool) -> str:
    """The class of what went wrong; empty when nothing did."""
    if receipt.kind == "failed":
        return class_of(receipt.error_class or "crashed")
    if receipt.kind == STORED:  # its executor validated it
        return ""
    return class_of(check_result(receipt.result, tool.result_validator))


def _next_aim(
    work: Work, entry: OpenIntent, route: CompiledRoute, failure: str, tried: tuple[str, ...], left_us: int
) -> Aim | None:
    """Who is asked next by the route's rule; None when the failure stands. `left_us`: after the wait it asks for."""
    # Stopped at the executor: this candidate, or the whole call, which `restore_call` finds out.
    rule = "next" if failure == quarantine.REASON else route.rules[failure]
    attempt = entry.attempt + 1
    if rule == "stop":
        return None
    again = entry.candidate if tried.count(tried[-1]) == 1 else ""
    if rule == "repair" and again:
        return Aim(again, f"{failure} repair", tried, attempt, work.origin.offset)
    if rule == "retry" and again and left_us >= MIN_LEFT_US:
        return Aim(again, f"{failure} retry", tried, attempt)
    name = next_of(work, route, entry.routes, tried)
    return Aim(name, f"{failure} next", tried, attempt) if name else None


def answer_facts(
    work: Work, entry: OpenIntent, tool: CompiledTool | None, base: ResultFacts, result: bytes | None
) -> ResultFacts:
    """The facts of a model call's end: with who answered, what it used and how sure it was."""
    release = work.control.release
    wanted = (
        release is not None
        and release.derail.falling_confidence
        and tool is not None
        and tool.executor_kind == "model"
    )
    if not entry.candidate and not wanted and not entry.stream:
        return base
    try:
        value = orjson.loads(result or b"null")
    except orjson.JSONDecodeError:
        value = None
    answer = value if isinstance(value, dict) else {}
    used = answer.get("usage")
    usage = used if isinstance(used, dict) else {}
    return widen(
        AnswerFacts, base, candidate=entry.candidate, served_model=str(answer.get("served_model") or "")[:128],
        input_tokens=_count(usage.get("input_tokens")), output_tokens=_count(usage.get("output_tokens")),
        confidence=_permille(answer.get("confidence")),
    )  # fmt: skip


def _count(value: object) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if known and isinstance(value, int) else -1


def _permille(value: object) -> int:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return round(value * 1_000) if known and isinstance(value, int | float) else -1
