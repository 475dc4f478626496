"""Authorize: Cedar, default deny, forbid wins, errors refuse.

Principal = the agent with its roles, action and resource = the tool, context = typed arguments, environment,
on_behalf_of and what the session did so far. The policies that determined the answer go into the outcome.
Next: `cedar.py`, `validate.py`.
"""

from __future__ import annotations

from sluicegate.processors.cedar import entities_for, evaluate, request_of, slice_for
from sluicegate.processors.conform import Misfit, conform
from sluicegate.processors.explain_policy import nearest_permit
from sluicegate.processors.redact import redact_call, redact_contract
from sluicegate.processors.work import Refusal, Work

HOLD_ANNOTATION = "hold"
"""`@hold("why")` on a permit: it permits only after a person agreed."""


def conform_arguments(work: Work) -> Refusal | None:
    """The front half of validation, before any policy sees an argument."""
    assert work.intent is not None and work.tool is not None
    found = conform(work.tool.validator, work.tool.typer, work.intent.arguments)
    if isinstance(found, Misfit):
        return Refusal(found.reason, found.detail)
    work.conformed = found
    return redact_contract(work)


def authorize(work: Work) -> Refusal | None:
    """Ask Cedar. Sets `work.policies`, and `work.hold` where only held permits matched."""
    agent, tool, session, conformed = work.agent, work.tool, work.session, work.conformed
    assert agent and tool and session and conformed and work.release
    context: dict[str, object] = {
        "args": conformed.cedar,
        "environment": work.control.env,
        "session": {"calls": session.calls, "user_messages": session.user_messages},
    }
    if session.on_behalf_of:
        context["on_behalf_of"] = session.on_behalf_of
    book = work.release.book
    cut = slice_for(book, agent.roles, tool.name)
    entities = entities_for(book, agent, tool.name, tool.tool_class)
    request = request_of(agent, tool.name, context)
    verdict = evaluate(cut, entities, request)
    if verdict.error:
        return Refusal("policy_error", verdict.error)
    if verdict.allowed:
        work.policies = verdict.policies
        holds = [p.annotations.get(HOLD_ANNOTATION) for p in cut.policies if p.policy_id in verdict.policies]
        if holds and all(h is not None for h in holds):
            work.hold = holds[0] or "a policy asks for a person's agreement"
        return redact_call(work)
    if verdict.policies:
        return Refusal(
            "forbidden", "forbidden by `" + "`, `".join(verdict.policies) + "`", tuple(verdict.policies)
        )
    return Refusal("no_permit", nearest_permit(cut, entities, request, conformed.args))
