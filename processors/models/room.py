"""Room: what asking a candidate of a route may cost, and whether budgets and limits are known to leave it none.

Looks only, and only at what this partition knows: of a shared budget that is its lease, and the home's last no. So a
candidate may be asked for that turns out to have none; the reservation decides (`budget/budgets.py`). Never reserves, never
asks a home. Next: `models/candidates.py` (who orders by this), `budget/costs.py` (bounds).
"""

from __future__ import annotations

from sluicegate.processors.budget.costs import bound
from sluicegate.processors.budget.rules import MAX_AMOUNT, Rule, fits
from sluicegate.processors.budget.state import Account, frozen, shared
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.work import Work

UNKNOWN = MAX_AMOUNT + 1
"""What has no price: dearer than all that have one."""


def account_for(work: Work, rule: Rule, tool: str) -> str:
    """The account of a rule for this call, asked of a tool or candidate; empty when the call does not fall under it."""
    assert work.agent is not None
    o = work.origin
    name = {
        "agent": o.agent_id, "session": f"{o.agent_id}\t{o.session_id}", "team": work.agent.team,
        "tenant": work.agent.tenant, "tool": tool,
    }[rule.scope]  # fmt: skip
    matched = o.agent_id if rule.scope == "session" else name
    return f"{rule.scope}:{name}/{rule.rule_id}" if name and fits(rule.match, matched) else ""


def most(work: Work, tool: CompiledTool) -> int:
    """The most that one attempt may cost, in micro-units; `UNKNOWN` without a price."""
    assert work.environment is not None and work.conformed is not None
    amount = bound("money", tool, work.conformed.canonical, work.environment.budgets)
    return UNKNOWN if amount is None else amount


def full(work: Work, tool: CompiledTool) -> str:
    """The id of a budget or limit that has no room for this call asked of this candidate; or an empty text."""
    release = work.environment
    assert release is not None and work.conformed is not None
    for rule in release.budgets.rules_of(tool.name):
        account = account_for(work, rule, tool.name) if rule.unit != "depth" else ""
        amount = bound(rule.unit, tool, work.conformed.canonical, release.budgets) if account else 0
        if amount and _lacks(
            work, rule, account, amount
        ):  # without a price: refused as such when it is asked
            return rule.rule_id
    return ""


def _lacks(work: Work, rule: Rule, account: str, amount: int) -> bool:
    one = work.state.accounts.get(account) or Account()
    window = max(rule.window_at(work.now), one.window)
    if amount > rule.ceiling or (not rule.limit and frozen(one, account, rule.cap, work.control)):
        return True
    if not shared(account):
        return one.used(window) + amount > rule.ceiling
    return one.free(window) < amount and one.denied_until > work.now and window <= one.window
