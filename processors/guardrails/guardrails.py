"""Guardrails: the release's own rules over a permitted call, and over a result before the agent sees it.

The rules of a tool are asked in the order they stand, each of the call as it is by then, so what one took out the next
does not see. The first refusal ends it. A rule that errors refuses, and so does what is too large to look at: nothing
passes because nobody could say. In mode `observe` a rule is asked and recorded, never applied.
Pure: no clock, no model, nothing outside. Next: `guardrails/rules.py` (how rules are written), `validate.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cel
import jsonschema_rs
import orjson
from sluicegate.processors.approval.holds import Hold, stricter
from sluicegate.processors.conform import Json
from sluicegate.processors.guardrails.detectors import DETECTORS, detects
from sluicegate.processors.guardrails.recall import recall
from sluicegate.processors.guardrails.recipes import parts, redact
from sluicegate.processors.guardrails.redact import transform
from sluicegate.processors.guardrails.rules import Rule
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.policy.expressions import ExpressionError, truth
from sluicegate.processors.policy.mentions import Mentions
from sluicegate.processors.sessions.history import session_context
from sluicegate.processors.state import Session
from sluicegate.processors.work import Refusal, Work

MAX_GUARDED_BYTES = 64 * 1024
"""A call that guardrails look at; results are never larger. The slowest detector takes about 0.1 s for that much text
made to be slow, and 1 ms for a letter of that length."""

_ALL_BUT_TABLES = Mentions(
    session=("calls", "user_messages", "origin", "integrity", "confidentiality", "labels", "tools", "last")
)


def guard_call(work: Work) -> Refusal | None:
    """Ask the tool's rules of a permitted call. Sets `work.hold`, `work.observed`, `work.redacted` and,
    where plug-ins have to be asked, `work.asks`."""
    tool, conformed, release = work.tool, work.conformed, work.release
    assert tool and conformed and release
    rules = release.guardrails.calls.get(tool.name, ())
    if not rules:
        return None
    if len(conformed.canonical) > MAX_GUARDED_BYTES:
        size = len(conformed.canonical)
        return Refusal(
            "guardrail_error", f"arguments have {size} bytes, guardrails look at most at {MAX_GUARDED_BYTES}"
        )
    work.asks = []
    wanted = {one.name: one for rule in rules for one in rule.seen}
    seen = recall(work, wanted.values()) if wanted and work.session is not None else {}
    if work.decision.needs:
        return None
    asked = _Asked("args", conformed.args, lambda: around(work), seen)
    for rule in rules:
        refusal = _apply(work, rule, asked)
        if refusal is not None:
            return refusal
    return None


def guard_handoff(work: Work, goal: str) -> Refusal | None:
    """Ask the rules about hand-offs, over its terms and its goal. They refuse or let it pass; nothing else."""
    release, conformed = work.release, work.conformed
    assert release and conformed
    asked = _Asked("args", {**conformed.args, "goal": goal}, lambda: around(work))
    for rule in release.guardrails.calls.get(HANDOFF, ()):
        try:
            hit = asked.hit(rule)
        except ExpressionError as error:
            return Refusal("guardrail_error", f"`{rule.rule_id}` failed: {error}", (rule.rule_id,))
        if hit:
            return Refusal("guardrail", _told(rule), (rule.rule_id,))
    return None


def _apply(work: Work, rule: Rule, asked: _Asked) -> Refusal | None:
    try:
        hit = asked.hit(rule)
    except ExpressionError as error:
        # INVARIANT: a rule that errors never lets a call pass (tests/unit/test_guardrails.py).
        if not rule.observe:
            return Refusal("guardrail_error", f"`{rule.rule_id}` failed: {error}", (rule.rule_id,))
        hit = True
    if not hit:
        return None
    if rule.plugin:
        work.asks.append(rule)
    elif rule.observe:
        work.observed.append(rule.rule_id)
    elif rule.verdict == "refuse":
        return Refusal("guardrail", _told(rule), (rule.rule_id,))
    elif rule.verdict == "hold":
        hold = Hold(_told(rule), (rule.rule_id,))
        work.hold = hold if work.hold is None else stricter(work.hold, hold)
    else:
        refusal = transform(work, rule.recipes)
        if refusal is not None:
            return Refusal(refusal.reason, refusal.detail, (rule.rule_id,))
        assert work.conformed is not None
        asked.change(work.conformed.args)
    return None


@dataclass(slots=True)
class Guarded:
    """What became of a result.

    Attributes:
        reason: why it is withheld, or empty.
        result: what is released; None when it is withheld.
        redacted: recipes that took something out.
        rules: ids of the rules that withheld it or took something out.
        observed: ids of the rules that would have.
        detail: for the developer, where it is withheld.
    """

    result: bytes | None
    reason: str = ""
    redacted: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    detail: str = ""


def guard_result(
    work: Work,
    result: bytes,
    recipes: Sequence[str],
    rules: Sequence[Rule],
    validator: jsonschema_rs.Validator | None,
) -> Guarded:
    """Take out of a valid result what the contract (`recipes`) and its rules say, or withhold it."""
    return guard_value(lambda: around(work), result, recipes, rules, validator)


def guard_value(
    names: Callable[[], dict[str, Json]],
    result: bytes,
    recipes: Sequence[str],
    rules: Sequence[Rule],
    validator: jsonschema_rs.Validator | None,
) -> Guarded:
    """The same without a decision at hand: `names` are what rules see beside the result."""
    found = Guarded(result)
    if not recipes and not rules:
        return found
    value: Json = orjson.loads(result)
    asked = _Asked("result", value, names)
    value = _taken_out(value, recipes, found)
    for rule in rules:
        asked.change(value)
        try:
            hit = asked.hit(rule)
        except ExpressionError as error:
            if not rule.observe:
                return _withheld(found, rule, "guardrail_error", f"`{rule.rule_id}` failed: {error}")
            hit = True
        if hit and rule.observe:
            found.observed.append(rule.rule_id)
        elif hit and rule.verdict == "withhold":
            return _withheld(found, rule, "guardrail", _told(rule))
        elif hit:
            before, value = value, _taken_out(value, rule.recipes, found)
            if value != before:
                found.rules.append(rule.rule_id)
    if found.redacted:
        if validator is not None and not validator.is_valid(value):
            return Guarded(None, "redaction_breaks_schema", [], found.rules, found.observed)
        found.result = orjson.dumps(value)
    return found


def _taken_out(value: Json, recipes: Sequence[str], found: Guarded) -> Json:
    for recipe in recipes:
        after = redact(value, (recipe,))
        if after != value:
            value = after
            found.redacted = sorted({*found.redacted, recipe})
    return value


def _withheld(found: Guarded, rule: Rule, reason: str, detail: str) -> Guarded:
    return Guarded(None, reason, [], [rule.rule_id], found.observed, detail)


class _Asked:
    """What rules are asked about: arguments or a result, and what stands around them."""

    def __init__(
        self,
        name: str,
        value: Json,
        around: Callable[[], dict[str, Json]],
        seen: dict[str, Json] | None = None,
    ) -> None:
        self._name, self._value, self._around, self._seen = name, value, around, seen or {}
        self._context: cel.Context | None = None

    def change(self, value: Json) -> None:
        """The value is another one from now on."""
        if value is not self._value:
            self._value, self._context = value, None

    def hit(self, rule: Rule) -> bool:
        """Whether a rule matches. Raises `ExpressionError` when it cannot say."""
        if rule.kinds and not self._found(rule):
            return False
        return rule.program is None or self._true(rule.program)

    def _found(self, rule: Rule) -> bool:
        return any(
            detects(kind, part)
            for steps in rule.fields
            for part in parts(self._value, steps)
            for kind in rule.kinds
        )

    def _true(self, program: cel.Program) -> bool:
        if self._context is None:
            names = {"seen": self._seen, **self._around()}
            self._context = cel.Context({self._name: self._value, **names}, {"detects": _detects})
        return truth(program, self._context)


def _detects(kind: str, value: object) -> bool:
    return kind in DETECTORS and detects(kind, value)


def around(work: Work) -> dict[str, Json]:
    """What an expression may look at beside the arguments or the result."""
    agent, tool, session = work.agent, work.tool, work.session
    assert agent
    return {
        "tool": tool.name if tool else HANDOFF,
        "environment": work.control.env,
        "agent": {
            "id": agent.agent_id,
            "tenant": agent.tenant,
            "team": agent.team,
            "roles": list(agent.roles),
        },
        "session": _session(session) if session else {},
    }


def _session(session: Session) -> dict[str, Json]:
    return {
        **session_context(session, _ALL_BUT_TABLES),
        "counts": dict(session.counts),
        "on_behalf_of": session.on_behalf_of,
    }


def _told(rule: Rule) -> str:
    return f"`{rule.rule_id}`: {rule.say}" if rule.say else f"guardrail `{rule.rule_id}` matched"
