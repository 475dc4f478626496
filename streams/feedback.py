"""Feedback: a person's score of a session, sent to the ledger and answered by what it recorded.

    event = await give(settings, score_of("support", "s-1", 0.2, "ana", comment="did not answer"))
    event.header.status        # `scored`, or `noted` with a reason

Never decides whether it counts: the pipeline does. Next: `reviewing.py` (how it is sent), `processors/sessions/scores.py`.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.records import Score
from sluicegate.schemas.scores import PERSON, QUALITY, SCORE_MAX
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import reviewing
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.settings import Settings


def score_of(
    agent_id: str,
    session_id: str,
    score: float,
    person: str,
    *,
    intent_id: str = "",
    metric: str = QUALITY,
    comment: str = "",
) -> Score:
    """A person's score, from 0 to 1. Raises `Terminal` for another number."""
    if not 0 <= score <= 1:  # nan neither
        raise WrongUsage(f"a score is from 0 to 1, not `{score}`")
    return Score(
        uuid.uuid4().hex, agent_id, session_id, person, PERSON, metric, round(score * SCORE_MAX), time.time_ns() // 1000,
        intent_id, comment,
    )  # fmt: skip


async def give(settings: Settings, score: Score, *, key: Path | None = None) -> LedgerEvent:
    """Send it and wait for what the ledger recorded. Raises as `reviewing.send` does."""
    [event, *_] = await reviewing.send(settings, score, key=key)
    return event


def agent_of(settings: Settings, session_id: str) -> str:
    """Whose session it is, as ClickHouse knows. Raises `Terminal` when there is not exactly one."""
    client = connect(settings, "reader", database(settings))
    try:
        found = client.query(
            "SELECT DISTINCT agent_id FROM sessions WHERE session_id = {session:String} LIMIT 2",
            parameters={"session": session_id},
        ).result_rows
    finally:
        client.close()
    if len(found) != 1:
        many = "several agents have" if found else "ClickHouse knows no"
        raise Terminal(f"{many} session `{session_id[:80]}`, say whose it is with --agent")
    return str(found[0][0])
