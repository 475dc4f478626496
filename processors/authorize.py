"""Authorize: Cedar, default deny, forbid wins, errors refuse.

Principal = the agent with its roles, action and resource = the tool, context = typed arguments, environment,
on_behalf_of, what the session did so far (`history.py`) and where protected values come from (`grounding.py`). The
policies that determined the answer go into the outcome, with what policies in observe mode would have said.
Next: `cedar.py`, `trace.py` (who grounds), `validate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cedarpy
from sluicegate.processors.cedar import (
    OBSERVE,
    Json,
    Slice,
    Verdict,
    entities_for,
    evaluate,
    request_of,
    slice_for,
)
from sluicegate.processors.conform import Misfit, conform
from sluicegate.processors.delegation import delegators, names
from sluicegate.processors.explain_policy import nearest_permit
from sluicegate.processors.grounding import worst_of
from sluicegate.processors.history import session_context
from sluicegate.processors.holds import hold_of
from sluicegate.processors.labels import INTEGRITY
from sluicegate.processors.modes import mode_for
from sluicegate.processors.redact import redact_call, redact_contract
from sluicegate.processors.registry import Agent
from sluicegate.processors.trace import trace, ungrounded
from sluicegate.processors.work import Refusal, Work


def conform_arguments(work: Work) -> Refusal | None:
    """The front half of validation, before any policy sees an argument."""
    assert work.intent is not None and work.tool is not None
    found = conform(work.tool.validator, work.tool.typer, work.intent.arguments)
    if isinstance(found, Misfit):
        return Refusal(found.reason, found.detail)
    work.conformed = found
    return redact_contract(work)


def authorize(work: Work) -> Refusal | None:
    """Ask Cedar. Sets `work.policies`, and `work.hold` where people have to agree first; plain forbids refuse.

    Whether people agreed already is weighed by `approvals.py`. When the words of earlier events are needed and not at
    hand, `work.decision.needs` is set and the answer means nothing.
    """
    agent, tool, conformed = work.agent, work.tool, work.conformed
    assert agent and tool and conformed and work.release
    cut = slice_for(work.release.book, agent.roles, tool.name, policy_modes(work), agent.agent_id)
    if work.release.grounding != "off" or cut.mentions.grounding:
        trace(work)
        if work.decision.needs:
            return None
        if name := ungrounded(work):
            if mode_for(work.control, agent.agent_id, tool.name) != OBSERVE:
                return Refusal("ungrounded", f"`{name}` has a value that no earlier event holds")
            work.observed.append("ungrounded")
    answer = ask(work, agent, tool.name, tool.tool_class)
    verdict, holding = answer.verdict, answer.holding
    _observe(work, answer)
    if verdict.error:
        return Refusal("policy_error", verdict.error)
    if mode_for(work.control, agent.agent_id, tool.name) == OBSERVE and (holding or not verdict.allowed):
        work.observed += sorted({*verdict.policies, *holding}) or ["no_permit"]
        return None  # recorded, not applied
    if verdict.allowed:
        answers = [answer]
        if work.session and work.session.chain:
            refusal = _ask_delegators(work, answers)
            if refusal is not None:
                return refusal
            holding = {policy_id for one in answers for policy_id in one.holding}
        work.policies = sorted({p for one in answers for p in one.verdict.policies} | holding)
        policies = {p.policy_id: p for one in answers for p in one.cut.policies}
        work.determined = [policies[p] for p in work.policies]
        if holding:
            work.hold = hold_of([p for p in work.determined if p.policy_id in holding])
        return redact_call(work)
    if verdict.policies:
        return Refusal(
            "forbidden", "forbidden by `" + "`, `".join(verdict.policies) + "`", tuple(verdict.policies)
        )
    return Refusal("no_permit", nearest_permit(cut, answer.entities, answer.request, conformed.args))


@dataclass(frozen=True, slots=True)
class Answer:
    """What Cedar said of one principal. `holding`: the policies that need people's agreement, taken as given."""

    verdict: Verdict
    holding: set[str]
    cut: Slice
    entities: cedarpy.Entities
    request: dict[str, Json]


def policy_modes(work: Work) -> tuple[tuple[str, str], ...]:
    """(policy, mode) where control says one."""
    return tuple((name, mode) for (scope, name), mode in work.control.modes.items() if scope == "policy")


def ask(work: Work, principal: Agent, action: str, tool_class: str) -> Answer:
    """Ask Cedar whether a principal may, with the call and session of `work`."""
    assert work.release is not None
    book = work.release.book
    cut = slice_for(book, principal.roles, action, policy_modes(work), principal.agent_id)
    entities = entities_for(book, principal, action, tool_class)
    request = request_of(principal, action, context_of(work, cut))
    verdict, holding = _evaluate(cut, entities, request)
    return Answer(verdict, holding, cut, entities, request)


def _ask_delegators(work: Work, answers: list[Answer]) -> Refusal | None:
    """A session that was handed on: everybody in the chain must be permitted the same call."""
    assert work.session and work.tool
    chain, reason = delegators(work.control, work.session)
    if reason:
        return Refusal(reason, "an agent that handed this session on is suspended or retired")
    # INVARIANT: a hand-off only narrows (tests/unit/test_handoff.py::test_a_handoff_only_narrows).
    for principal in chain:
        answer = ask(work, principal, work.tool.name, work.tool.tool_class)
        if answer.verdict.error:
            return Refusal("policy_error", answer.verdict.error)
        if not answer.verdict.allowed:
            said = f"`{principal.agent_id}`, who handed this session on, may not do it itself"
            return Refusal("delegation_exceeded", said, tuple(answer.verdict.policies))
        answers.append(answer)
    return None


def context_of(work: Work, cut: Slice) -> dict[str, Json]:
    """`context` of the request. Shapes: docs/policies.md."""
    session, mentioned = work.session, cut.mentions.args
    assert work.conformed and session
    context: dict[str, Json] = {
        "args": work.conformed.cedar if mentioned is None else _only(work.conformed.cedar, mentioned),
        "session": session_context(session, cut.mentions),
    }
    if cut.mentions.environment:
        context["environment"] = work.control.env
    if session.on_behalf_of and cut.mentions.on_behalf_of:
        context["on_behalf_of"] = session.on_behalf_of
    if session.chain and cut.mentions.delegation:
        chain = names(session.chain)
        context["delegation"] = {"depth": len(chain), "parent": chain[-1]}
    if cut.mentions.grounding:
        context["grounding"] = {
            "worst": INTEGRITY[worst_of(work.grounded)],
            "args": {g.argument: {"from": g.origin, "label": g.label} for g in work.grounded},
        }
    return context


def _only(args: dict[str, Json], names: tuple[str, ...]) -> dict[str, Json]:
    return {name: args[name] for name in names if name in args}


def _evaluate(cut: Slice, entities: cedarpy.Entities, request: dict[str, Json]) -> tuple[Verdict, set[str]]:
    """The verdict with people's agreement taken as given, and the policies that need it."""
    verdict = evaluate(cut.enforced, entities, request)
    determining = set(verdict.policies)
    if verdict.allowed:
        # A permit that asks nobody is enough, whatever others would ask.
        return verdict, determining if determining <= cut.holding else set()
    if cut.relaxed is None or verdict.error or not determining or not determining <= cut.holding:
        return verdict, set()
    relaxed = evaluate(cut.relaxed, entities, request)
    if not relaxed.allowed:
        return (relaxed if relaxed.error else verdict), set()
    asks = set(relaxed.policies)
    return relaxed, determining | (asks if asks <= cut.holding else set())


def _observe(work: Work, answer: Answer) -> None:
    """Record the observing policies that would have decided otherwise."""
    if answer.cut.everything is None:
        return
    other = evaluate(answer.cut.everything, answer.entities, answer.request)
    if other.allowed != answer.verdict.allowed or other.error:
        enforced = {p.policy_id for p in answer.cut.policies}
        work.observed += [p for p in other.policies if p not in enforced] or ["policy_error"]
