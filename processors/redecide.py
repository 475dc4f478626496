"""Restore an open intent's call from its own bytes, for a second offer or after an approval.

State holds no content, only where the intent's bytes stand; so a decision that needs them asks once
(`Decision.needs`) and gets them from the ledger loop or from the replayed ledger. Next: `ticks.py`, `reviews.py`.
"""

from __future__ import annotations

from sluicegate.processors import quarantine
from sluicegate.processors.authorize import conform_arguments
from sluicegate.processors.delegation import narrowed
from sluicegate.processors.intake import Problem, take
from sluicegate.processors.redact import transform
from sluicegate.processors.registry import inactive
from sluicegate.processors.state import OpenIntent, session_key
from sluicegate.processors.validate import bind
from sluicegate.processors.work import Work
from sluicegate.schemas.records import Intent


def restore_call(work: Work, entry: OpenIntent) -> str:
    """Fill `work` as routing would have. A reason when that is impossible, else an empty string.

    When the bytes are not at hand, `work.decision.needs` is set and the answer is empty.
    """
    if quarantine.quarantined(
        work.control, entry.agent_id, entry.tool, entry.session_id, work.control.deployed
    ):
        return quarantine.REASON
    place = (entry.topic, entry.offset)
    library = work.source.library
    value = library.raw(place) if library is not None else None
    if value is None and place not in work.source.contents:
        work.decision.needs.append(place)
        return ""
    value = value or work.source.contents[place]
    if value is None:
        return "no_executor"
    taken = take(work.control, entry.topic, value, None)
    if isinstance(taken, Problem):
        return taken.reason  # its key was revoked since: nothing it signed begins any more
    if not isinstance(taken.record, Intent):
        return "no_executor"
    work.intent, work.payload, work.proof = taken.record, taken.payload, taken.proof
    work.release = work.control.release
    tool = work.release.tools.get(entry.tool) if work.release else None
    if tool is None:
        return "unknown_tool"
    work.tool = tool
    work.agent = work.control.agents.get(entry.agent_id)
    if reason := inactive(work.agent):
        return reason
    work.session = work.state.sessions.get(session_key(entry.agent_id, entry.session_id))
    if work.session is not None and work.agent is not None:
        work.agent = narrowed(work.agent, work.session)
    if conform_arguments(work) is not None:
        return "schema_violation"
    # What was taken out of it stays out: by what was recorded then, not by what rules say by now.
    if transform(work, entry.redacted.split()) is not None:
        return "redaction_breaks_schema"
    bind(work)
    return ""
