"""What both arms of a running canary decided so far, from ClickHouse. Never decides whether it is good.

Next: `streams/commands/canary.py` (who shows it), `processors/deployments.py` (who draws sessions).
"""

from __future__ import annotations

from sluicegate.processors.control import Control
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams.settings import Settings


def arms(settings: Settings, control: Control) -> list[tuple[str, str, int, int, int, int, int]]:
    """(arm, release, sessions, intents, refused, failed, held) of both arms, from sessions that opened since the canary began."""
    canary = control.canary
    assert canary is not None
    name = database(settings)
    query = f"""
        SELECT s.release, uniqExact(s.agent_id, s.session_id), uniqExactIf((i.agent_id, i.intent_id), i.intent_id != ''),
            countIf(i.state = 'refused'), countIf(i.state IN ('failed', 'withheld')), countIf(i.state = 'held')
        FROM (
            SELECT agent_id, session_id, release FROM `{name}`.events FINAL
            WHERE stage = 'session' AND status = 'opened' AND control_head >= {canary.started}
        ) AS s
        LEFT JOIN `{name}`.intents AS i ON i.agent_id = s.agent_id AND i.session_id = s.session_id
        GROUP BY s.release
    """
    found = {row[0]: row[1:] for row in connect(settings, "reader", name).query(query).result_rows}
    nothing = (0, 0, 0, 0, 0)
    return [
        (arm, digest, *found.get(digest, nothing))
        for arm, digest in (("control", control.deployed), ("canary", canary.digest))
    ]
