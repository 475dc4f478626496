"""Authorize: Cedar, default deny, forbid wins, errors refuse.

Principal = the agent with its roles, action and resource = the tool, context = typed arguments, environment,
on_behalf_of, what the session did so far (`sessions/history.py`) and where protected values come from (`grounding.py`). The
policies that determined the answer go into the outcome, with what policies in observe mode would have said.
Next: `policy/cedar.py`, `trace.py` (who grounds), `validate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cedarpy
from sluicegate.processors.approval.holds import hold_of, stricter, under_review
from sluicegate.processors.conform import Misfit, conform, parse
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.grounding import worst_of
from sluicegate.processors.guardrails.redact import redact_call, redact_contract
from sluicegate.processors.handoff.delegation import delegators, names
from sluicegate.processors.labels import INTEGRITY
from sluicegate.processors.large_arguments import bring
from sluicegate.processors.memory import scope as memory_scope
from sluicegate.processors.models.candidates import rank
from sluicegate.processors.models.routes import CompiledRoute, may_be_asked
from sluicegate.processors.models.streaming import mode_of
from sluicegate.processors.modes import mode_for
from sluicegate.processors.policy.cedar import (
    OBSERVE,
    Json,
    Slice,
    Verdict,
    entities_for,
    evaluate,
    request_of,
    slice_for,
)
from sluicegate.processors.policy.explain import nearest_permit
from sluicegate.processors.releases import prompts
from sluicegate.processors.sessions import task
from sluicegate.processors.sessions.history import session_context
from sluicegate.processors.trace import trace, ungrounded
from sluicegate.processors.work import Refusal, Work
from sluicegate.schemas.kinds import MEMORY, MODEL


def conform_arguments(work: Work) -> Refusal | None:
    """The front half of validation, before any policy sees an argument."""
    assert work.intent is not None and work.tool is not None
    if work.session is not None:
        refusal = task.read(work, work.session)
        if refusal is not None or work.decision.needs:
            return refusal
    refusal = bring(work, work.origin.offset)
    if refusal is not None or work.decision.needs:
        return refusal
    raw = work.intent.arguments
    if work.tool.executor_kind == MODEL:
        told = tell(work, raw)
        if isinstance(told, Refusal):
            return told
        raw = told
    found = conform(work.tool.validator, work.tool.typer, raw)
    if isinstance(found, Misfit):
        return Refusal(found.reason, found.detail)
    work.conformed = found
    return redact_contract(work)


def tell(work: Work, raw: bytes) -> bytes | Refusal:
    """Set `work.told`; the arguments of a model call with the prompt they name in `messages`."""
    assert work.release is not None
    parsed = parse(raw)
    if isinstance(parsed, Misfit):
        return raw  # which is said next
    if "prompt" not in parsed[0] or not work.release.prompts:
        work.told = prompts.told_of(parsed[0])
        return raw
    rendered = prompts.render(work.release.prompts, parsed[0], task_words(work))
    if isinstance(rendered[0], str):
        return Refusal(rendered[0], str(rendered[1]))
    raw, work.told = rendered
    return raw


def task_words(work: Work) -> dict[str, str] | None:
    """What a prompt may say of the session's task; None where the release declares none."""
    assert work.release is not None
    if work.release.task is None:
        return None
    said = task.trusted(work.task).items()
    return {f"task_{name}": str(value) for name, value in said if isinstance(value, str | int | float)}


def authorize(work: Work) -> Refusal | None:
    """Ask Cedar. Sets `work.policies`, and `work.hold` where people have to agree first; plain forbids refuse.

    Whether people agreed already is weighed by `approval/approvals.py`. When the words of earlier events are needed and not at
    hand, `work.decision.needs` is set and the answer means nothing. An agent under review is held whatever permits it.
    """
    refusal = _by_policies(work)
    if refusal is None and work.control.reviews and work.agent is not None:
        why = work.control.reviews.get(work.agent.agent_id)
        if why is not None:
            # INVARIANT: no call of an agent under review runs without a person (tests/unit/test_reviewed_agents.py).
            work.hold = stricter(work.hold, under_review(why)) if work.hold is not None else under_review(why)
    return refusal


def _by_policies(work: Work) -> Refusal | None:
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
    answer = (
        _ask_candidates(work, agent, tool.route)
        if tool.route
        else ask(work, agent, tool.name, tool.tool_class)
    )
    if isinstance(answer, Refusal):
        return answer
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
        if tool.executor_kind == MEMORY and memory_scope.is_shared(conformed.args):
            for one in answers:
                if not memory_scope.said(one.cut.policies, one.verdict.policies):
                    said = f"no permit of `{tool.name}` that decided speaks of `context.memory.scope`"
                    return Refusal("scope_not_permitted", said, tuple(one.verdict.policies))
        work.policies = sorted({p for one in answers for p in one.verdict.policies} | holding)
        policies = {p.policy_id: p for one in answers for p in one.cut.policies}
        work.determined = [policies[p] for p in work.policies]
        if unversioned(work):
            return Refusal(
                "unversioned_prompt",
                "none of the permits that decided has @unversioned",
                tuple(work.policies),
            )
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
    if not work.control.modes:
        return ()
    return tuple((name, mode) for (scope, name), mode in work.control.modes.items() if scope == "policy")


def unversioned(work: Work) -> bool:
    """Whether a release with prompts is asked for system text of the call's own, and no permit that decided says so."""
    # INVARIANT: free-form system text needs a permit of its own (tests/unit/test_prompts.py::test_free_form_needs_a_permit).
    told = (
        work.told is not None and work.told.unversioned and work.release is not None and work.release.prompts
    )
    permits = (p for p in work.determined if p.effect == "permit")
    return bool(told) and not any(prompts.ANNOTATION in p.annotations for p in permits)


def _ask_candidates(work: Work, agent: Agent, route: CompiledRoute) -> Answer | Refusal:
    """Ask about every candidate of a routed call, in order; the first that may be asked answers for the call.

    A policy's answer about each is recorded (`work.choice`), so that a fallback needs no second one.
    """
    assert work.tool is not None
    choice = work.choice = rank(work, route)
    chosen: Answer | None = None
    refused: Answer | None = None
    observing = mode_for(work.control, agent.agent_id, work.tool.name) == OBSERVE
    chain = delegators(work.control, work.session)[0] if work.session and work.session.chain else ()
    for index, name in enumerate(choice.names):
        if not may_be_asked(choice.standing[index]):
            continue
        answer = ask(work, agent, work.tool.name, work.tool.tool_class, name)
        standing = _standing(answer, chosen)
        if not standing and not all(
            ask(work, who, work.tool.name, work.tool.tool_class, name).verdict.allowed for who in chain
        ):
            standing = "delegation_exceeded"
        if observing:  # what a policy says is recorded and not applied
            return answer
        if standing:
            choice.standing[index] = standing
            refused = refused or answer
        chosen = chosen or (None if standing else answer)
    if chosen is None and refused is None:
        rows = zip(choice.names, choice.standing, strict=True)
        return Refusal("no_route", "; ".join(f"`{name}`: {standing}" for name, standing in rows))
    return chosen or cast(Answer, refused)


def _standing(answer: Answer, chosen: Answer | None) -> str:
    """Why a policy keeps a candidate out, or an empty text."""
    verdict = answer.verdict
    if verdict.error:
        return "policy_error"
    if not verdict.allowed:
        return " ".join(["forbidden", *verdict.policies]) if verdict.policies else "no_permit"
    # People who are asked about the first one agree to what holds that one, to nothing more.
    if chosen is not None and not answer.holding <= chosen.holding:
        return " ".join(["held", *sorted(answer.holding)])
    return ""


def ask(work: Work, principal: Agent, action: str, tool_class: str, resource: str = "") -> Answer:
    """Ask Cedar whether a principal may, with the call and session of `work`. The resource is the tool, or a candidate."""
    assert work.release is not None
    book = work.release.book
    cut = slice_for(book, principal.roles, action, policy_modes(work), principal.agent_id)
    entities = entities_for(book, principal, resource or action, tool_class)
    request = request_of(principal, action, context_of(work, cut, resource), resource)
    verdict, holding = _evaluate(cut, entities, request)
    return Answer(verdict, holding, cut, entities, request)


def _ask_delegators(work: Work, answers: list[Answer]) -> Refusal | None:
    """A session that was handed on: everybody in the chain must be permitted the same call."""
    assert work.session and work.tool
    chain, reason = delegators(work.control, work.session)
    if reason:
        return Refusal(reason, "an agent that handed this session on is suspended or retired")
    # INVARIANT: a hand-off only narrows (tests/unit/test_handoff.py::test_a_handoff_only_narrows).
    first = work.choice.usable[0] if work.choice and work.choice.usable else ""
    for principal in chain:
        answer = ask(work, principal, work.tool.name, work.tool.tool_class, first)
        if answer.verdict.error:
            return Refusal("policy_error", answer.verdict.error)
        if not answer.verdict.allowed:
            said = f"`{principal.agent_id}`, who handed this session on, may not do it itself"
            return Refusal("delegation_exceeded", said, tuple(answer.verdict.policies))
        answers.append(answer)
    return None


def context_of(work: Work, cut: Slice, candidate: str = "") -> dict[str, Json]:
    """`context` of the request, about a candidate of a routed call. Shapes: docs/policies.md."""
    session, mentioned = work.session, cut.mentions.args
    assert work.conformed and session
    context: dict[str, Json] = {
        "args": work.conformed.cedar if mentioned is None else _only(work.conformed.cedar, mentioned),
        "session": session_context(session, cut.mentions),
    }
    if cut.mentions.prompt and work.tool is not None and work.tool.executor_kind == MODEL:
        context["prompt"] = prompts.context_of(work.told or prompts.Told())
    if cut.mentions.stream and work.tool is not None and work.tool.executor_kind == MODEL:
        way = work.tool.route.way(candidate) if work.tool.route else None
        context["stream"] = mode_of(work, way.tool if way else work.tool)
    if cut.mentions.memory and work.tool is not None and work.tool.executor_kind == MEMORY:
        context["memory"] = memory_scope.context_of(work.conformed.args)
    if cut.mentions.task:
        context.update(task.contexts(work.task))
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
