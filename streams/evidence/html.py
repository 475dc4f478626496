"""The page of an evidence bundle that people read: one file, no script, no network, fit to print. And that of `evidence controls`.

A reading aid, and says so: what counts is what `verify.py` derives. Every value is escaped. Next: `evidence/build.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sluicegate.processors.control import orders
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.labels import CONFIDENTIALITY
from sluicegate.streams.evidence.build import WITHHELD, Ask, Call, Picker

_STYLE = """
body{font:15px/1.5 Georgia,serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #999}
table{border-collapse:collapse;width:100%;font:13px/1.4 system-ui,sans-serif}
th,td{text-align:left;vertical-align:top;padding:.25em .5em;border-bottom:1px solid #ddd;overflow-wrap:anywhere}
thead{display:table-header-group}tr{break-inside:avoid}
code{font-size:.9em}.note{background:#f4f1e8;padding:.6em 1em;border-left:4px solid #a88}
@media print{body{margin:0;max-width:none}}
"""

STATES = {
    "released": "done; the result was handed to the agent",
    "withheld": "done; the result was kept from the agent",
    "failed": "tried, and failed",
    "resolved": "in doubt at first; a person settled it",
    "refused": "refused; nothing was done",
    "expired": "lapsed; nothing was done",
    "voided": "taken out of force; nothing was done",
    "in_doubt": "in doubt: it may have been done, and will not be repeated by itself",
    "held": "waits for a person",
}
"""Status -> plain words; every other one is under way."""

TAKEN_BACK = {
    orders.OPEN: "{who} ordered it to be taken back; not done when this bundle was made",
    orders.DONE: "later taken back, by order of {who}",
    orders.VERIFIED: "later taken back, by order of {who}, and seen to be undone",
}
"""What control says of a call's compensation -> plain words."""

LABELS = {
    "user": "from the user", "internal": "from our own systems", "third_party": "from third parties", "web": "from the web",
    "unknown": "from an unknown source", "c:public": "public", "c:internal": "internal", "c:secret": "secret",
}  # fmt: skip
"""Labels (`processors/labels.py`) -> plain words."""


def time_of(micros: int) -> str:
    """UTC, to the second."""
    return datetime.datetime.fromtimestamp(micros / 1e6, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def page(title: str, body: str) -> str:
    """One HTML file. A content policy forbids it to load anything."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are escaped."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(v))}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def summary(
    ask: Ask,
    env: str,
    log_id: str,
    picker: Picker,
    counts: Mapping[str, object],
    about: Sequence[tuple[str, str]],
    ordered: orders.Orders,
) -> str:
    """`about`: what else is said of the bundle, in pairs; `ordered`: control's, for what was taken back later."""
    agent = escape(ask.agent)
    calls = sorted(picker.calls.values(), key=lambda c: c.at)
    parts = [
        f"<p>What the agent <b>{agent}</b> asked for from {time_of(ask.since)} until {time_of(ask.until)}, in the environment "
        f"<b>{escape(env)}</b> (log {escape(log_id)}), what was decided about it, under which rules, and who agreed.</p>",
        '<p class="note">This page helps to read the bundle. It proves nothing: whoever made the bundle wrote it. What is proven is '
        "what <code>python verify.py BUNDLE</code> answers; its counts and those below have to be the same.</p>",
        "<h2>Counts</h2>", _counts(counts),
        "<h2>People who agreed</h2>", _people(calls),
        "<h2>Data</h2>", _data(ask, picker, calls),
        "<h2>Decisions</h2>", _decisions(ask.agent, calls, ordered, picker.tally["untold"]),
        "<h2>About this bundle</h2>", table(("what", "value"), about),
    ]  # fmt: skip
    return page(f"Evidence: {ask.agent}", "".join(parts))


def _counts(counts: Mapping[str, object]) -> str:
    words = {
        "intents": "things the agent asked for in this period",
        "refused": "refused", "expired": "lapsed before anything was done", "voided": "taken out of force", "executed": "executed, whatever came of it",
        "in_doubt": "in doubt at the end", "open": "not ended at the end of the period", "begun_before": "asked for before the period, and went on in it",
        "approvals": "times a person agreed", "events": "records of this agent", "events_of_others": "records of others between them, without their contents",
    }  # fmt: skip
    rows = [(words[k], f"{v:,}" if isinstance(v, int) else v) for k, v in counts.items() if k in words]
    return (
        table(("what", "number"), rows)
        + "<p>Asked for = refused + lapsed + taken out of force + executed + in doubt + not ended.</p>"
    )


def _people(calls: Sequence[Call]) -> str:
    rows = [(time_of(c.at), c.tool, ", ".join(c.people), c.intent) for c in calls if c.people]
    return (
        table(("asked at", "tool", "who", "request"), rows)
        if rows
        else "<p>Nobody was asked, or nobody answered.</p>"
    )


def _data(ask: Ask, picker: Picker, calls: Sequence[Call]) -> str:
    used: dict[str, tuple[int, set[str]]] = {}
    for call in calls:
        if call.status in ("released", "withheld", "failed", "resolved"):
            count, labels = used.get(call.tool, (0, set()))
            used[call.tool] = count + 1, labels | set(call.labels)
    rows = [
        (tool, n, ", ".join(LABELS.get(one, one) for one in sorted(labels)) or "none")
        for tool, (n, labels) in sorted(used.items())
    ]
    level = "nothing" if ask.disclose == WITHHELD else f"what is at most `{CONFIDENTIALITY[ask.disclose]}`"
    said = (
        f"<p>Contents (what was asked for and answered) are sealed. Disclosed here: {escape(level)}, {picker.tally['disclosed']:,} records; "
        f"kept out: {picker.tally['withheld']:,}, of which the bundle has the commitments.</p>"
    )
    return said + (
        table(("tool that was reached", "times", "what came back: how confidential, and where from"), rows)
        if rows
        else "<p>No tool was reached.</p>"
    )


def _became(agent: str, call: Call, ordered: orders.Orders) -> str:
    """What became of a call, and of what it did."""
    said = STATES.get(call.status, f"under way ({call.status})")
    order = ordered.get(undo_id(agent, call.intent))
    return said if order is None else f"{said}; {TAKEN_BACK[order.state].format(who=order.who)}"


def _decisions(agent: str, calls: Sequence[Call], ordered: orders.Orders, untold: int) -> str:
    rows = [
        (
            time_of(c.at),
            c.tool,
            _became(agent, c, ordered),
            c.reason,
            ", ".join(c.policies),
            c.intent,
        )
        for c in calls
    ]
    more = f"<p>{untold:,} more are in <code>events.jsonl</code>.</p>" if untold else ""
    return table(("asked at", "tool", "what became of it", "reason", "policies", "request"), rows) + more
