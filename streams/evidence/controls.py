"""`sluicegate evidence controls`: which records Sluicegate produces for which control of which list, and the query that shows them.

Rows of OWASP's Top 10 for Agentic Applications 2026, the EU AI Act's Articles 12, 19 and 26(6), SOC 2's common criteria and NIST's AI
RMF. A row says "produces these records" and shows how many there are and how recent the last one is: it never says that
somebody meets a control, since that takes people, purpose and a reading of the text. Every query is one select that gives
(count, last time), over the days that are asked for. Next: `commands/evidence.py`, docs/evidence.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluicegate.streams.evidence.html import page, table

OWASP = "OWASP Agentic Top 10 (2026)"
AI_ACT = "EU AI Act"
SOC2 = "SOC 2"
NIST = "NIST AI RMF"


@dataclass(frozen=True, slots=True)
class Control:
    """One row. `sql` may use `{since}`, a time."""

    framework: str
    ident: str
    title: str
    records: str
    sql: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A row with its query as it was asked, and what that found. `error`: why it could not be asked."""

    control: Control
    sql: str
    count: int = 0
    last: str = ""
    error: str = ""


def _events(condition: str, topic: str = "outcomes") -> str:
    return f"select count(), max(decided_at) from events final where src_topic = '{topic}' and decided_at > {{since}} and ({condition})"


def _control(*kinds: str) -> str:
    return _events(" or ".join(f"kind like '{k}%'" for k in kinds), "control")


def _view(view: str, condition: str = "1", at: str = "decided_at") -> str:
    return f"select count(), max({at}) from {view} where {at} > {{since}} and ({condition})"


_STARTS = "facts_type = 'intent_facts'"

CONTROLS = (
    Control(OWASP, "ASI01", "Agent goal hijack", "every value that neither the user nor a trusted source gave, refused or held before the call",
            _view("violations", "reason in ('ungrounded', 'approval_required', 'loop', 'no_progress') or outcome = 'withheld'")),
    Control(OWASP, "ASI02", "Tool misuse and exploitation", "every call that schema, policy, rule or budget refused, with the policy's id",
            _view("refusals", "stage in ('conform', 'authorize', 'validate', 'plan')")),
    Control(OWASP, "ASI03", "Identity and privilege abuse", "inputs that were not taken since nobody entitled had signed them, and every hand-off with its narrowed rights",
            _events("stage = 'intake' or status = 'delegated' or reason in ('delegation_exceeded', 'delegation_ended', 'delegation_too_deep', 'wrong_signer')")),
    Control(OWASP, "ASI04", "Agentic supply chain vulnerabilities", "releases by digest, who put which into force, and calls refused because a tool's descriptor had changed",
            "select count(), max(decided_at) from events final where decided_at > {since} and (kind like 'release.%' or reason = 'descriptor_changed')"),
    Control(OWASP, "ASI05", "Unexpected code execution", "calls refused for egress, for an unknown tool or without an executor: only what a contract names is ever run",
            _events("reason in ('unknown_tool', 'egress_denied', 'no_executor')")),
    Control(OWASP, "ASI06", "Memory and context poisoning", "every memory operation with label and writer, and every restored agent",
            _events("facts_type in ('memory_facts', 'cell_facts', 'restore_facts')")),
    Control(OWASP, "ASI07", "Insecure inter-agent communication", "records between partitions and sessions opened by another agent, each with its chain",
            _events("stage = 'transfer' or status = 'delegated'")),
    Control(OWASP, "ASI08", "Cascading failures", "calls refused by budgets, limits, halts and quarantines, and what waited",
            _events("reason like 'budget%' or reason in ('rate_limit', 'halted', 'loop', 'step_cap', 'no_progress', 'quarantined', 'overloaded')")),
    Control(OWASP, "ASI09", "Human-agent trust exploitation", "every question to a person: the exact bytes' digest, who agreed, how long it took",
            _view("approvals", at="held_at")),
    Control(OWASP, "ASI10", "Rogue agents", "alarms with their evidence, quarantines, suspended and rolled-back agents",
            _control("alarm.", "quarantine.", "agent.", "review.")),
    Control(AI_ACT, "Art. 12(1)", "Automatic recording of events", "every decision on every call, with time, agent, session, release and reason",
            _view("decisions")),
    Control(AI_ACT, "Art. 12(2)(a)", "Situations that present a risk, and substantial modifications", "alarms, withheld results, calls in doubt, and every change of a release or a mode",
            "select count(), max(decided_at) from events final where decided_at > {since} and (kind like 'alarm.%' or kind like 'release.%' or kind = 'mode.set' or status in ('withheld', 'in_doubt'))"),
    Control(AI_ACT, "Art. 12(2)(b)", "Post-market monitoring", "what happened in each minute, by agent, release and tool",
            "select count(), max(minute) from drift where minute > {since}"),
    Control(AI_ACT, "Art. 12(2)(c)", "Monitoring of operation", "sessions with their beginning, end, person on whose behalf and counts",
            _view("sessions", at="opened_at")),
    Control(AI_ACT, "Art. 19", "Logs kept by the provider", "the oldest record that is kept, and how complete the copy is (`freshness`); what is kept for ever is the ledger",
            "select count(), min(decided_at) from events where src_topic = 'outcomes'"),
    Control(AI_ACT, "Art. 26(6)", "Logs kept by the deployer", "ranges of the ledger that were copied, each with the hash of its records",
            "select count(), max(complete_until) from freshness where topic = 'outcomes'"),
    Control(SOC2, "CC6.1", "Logical access", "every permit and refusal with the policies that decided it",
            _events("stage = 'authorize'")),
    Control(SOC2, "CC6.2", "Registration of users and credentials", "agents, people and keys that were registered, by whom",
            _control("agents.", "people.", "key.", "api_key.", "issuer.")),
    Control(SOC2, "CC6.3", "Access is changed and taken away", "removed people, revoked keys, suspended agents",
            _control("people.removed", "key.revoked", "agent.", "api_key.revoked", "issuer.removed")),
    Control(SOC2, "CC7.2", "Anomalies are monitored", "alarms and drift, by minute",
            "select count(), max(minute) from drift where minute > {since}"),
    Control(SOC2, "CC7.3", "Security events are evaluated", "alarms and who acknowledged them",
            _control("alarm.")),
    Control(SOC2, "CC7.4", "Response to incidents", "quarantines, rollbacks, calls taken back",
            _control("quarantine.", "rollback.", "release.rolled_back", "agent.rolled_back", "canary.aborted")),
    Control(SOC2, "CC8.1", "Changes are authorised and tested", "releases, canaries and changes that several people agreed to",
            _control("release.", "canary.", "change.", "mode.")),
    Control(SOC2, "PI1.4", "Outputs are complete and accurate", "intents and how each ended: asked = ended + open",
            "select count(), max(last_decided_at) from intents where last_decided_at > {since}"),
    Control(NIST, "GOVERN 1.4", "Risk management is transparent", "policies by digest, and decisions under each",
            _events("release != ''")),
    Control(NIST, "GOVERN 2.1", "Roles and responsibilities", "people and their roles, as control registered them",
            _control("people.", "key.")),
    Control(NIST, "MAP 3.5", "Human oversight", "calls that waited for people",
            _view("approvals", at="held_at")),
    Control(NIST, "MEASURE 2.4", "Behaviour in production is monitored", "what happened in each minute, by agent, release and tool",
            "select count(), max(minute) from drift where minute > {since}"),
    Control(NIST, "MEASURE 2.8", "Transparency and accountability", "each decision with the event that it follows from",
            _events("notEmpty(caused_by) or " + _STARTS)),
    Control(NIST, "MEASURE 3.1", "Risks are tracked", "violations, also those that are only observed",
            _view("violations")),
    Control(NIST, "MANAGE 2.4", "Systems can be superseded or deactivated", "quarantines, rollbacks and suspensions",
            _control("quarantine.", "release.rolled_back", "agent.", "rollback.")),
    Control(NIST, "MANAGE 4.1", "Post-deployment monitoring", "scores, failures and appeals of people",
            "select sum(n), max(last) from (select count() as n, max(decided_at) as last from quality where decided_at > {since} "
            "union all select count(), max(decided_at) from tool_failures where decided_at > {since})"),
)  # fmt: skip

SENTENCE = "produces these records"
NOTE = (
    "Each row says which records this environment produces for that control, how many there are in the time asked for, and when the last one "
    "was made. It does not say that the control is met: that depends on the purpose, on people and on the text, and takes an auditor."
)


def ask(
    controls: Sequence[Control], days: int, query: Callable[[str], Sequence[Sequence[object]]]
) -> list[Shown]:
    """Run each row's query. A query that fails is that row's error, not the others'."""
    since = f"now() - interval {int(days)} day"
    found = []
    for one in controls:
        sql = one.sql.replace("{since}", since)
        try:
            count, last = query(sql)[0]
        except Exception as error:  # whatever the database says is told
            found.append(Shown(one, sql, error=" ".join(str(error).split())[:200]))
            continue
        found.append(Shown(one, sql, int(str(count)), _time(last) if int(str(count)) else ""))
    return found


def _time(value: object) -> str:
    return (
        value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime.datetime) else str(value)
    )


def controls_page(shown: Sequence[Shown], env: str, days: int, made: str) -> str:
    """The page of a bundle, or of `-o html`."""
    rows = [
        (s.control.framework, s.control.ident, s.control.title, f"{SENTENCE}: {s.control.records}",
         s.error or f"{s.count:,}", s.last, s.sql) for s in shown
    ]  # fmt: skip
    columns = ("list", "control", "title", "records", f"in {days} days", "last (UTC)", "query")
    head = f'<p class="note">{NOTE}</p><p>Environment <b>{env}</b>, asked at {made}.</p>'
    return page("Controls and the records for them", head + table(columns, rows))
