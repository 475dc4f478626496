"""When the newest answer about an intent was decided, as ClickHouse knows it: so whoever looks for its reply need not read a day of them.

Never raises for a ClickHouse that is away, behind or slow: then nobody knows. Next: `inspect/find.py`, `gateway/kept.py` (who asks).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.sdk.replies import ENDS, PARKED, RESTS
from sluicegate.streams.settings import Settings

LIMIT_S = 2.0
"""For one answer, the wait for whoever asked before included."""
RETRY_S = 10.0
"""After a failure nobody is asked for this long."""
_STATUSES = ", ".join(f"'{name}'" for name in sorted(ENDS | RESTS | {PARKED}))
_QUERY = f"""
SELECT toInt64(max(toUnixTimestamp64Micro(decided_at))) FROM `{{database}}`.events
WHERE src_topic = 'outcomes' AND intent_id = {{{{intent:String}}}} AND agent_id = {{{{agent:String}}}} AND status IN ({_STATUSES})
"""


class Decided:
    """One connection to ClickHouse, for one question at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._database = ""
        self._one = asyncio.Lock()
        self._not_before = 0.0

    async def when(self, agent_id: str, intent_id: str) -> int | None:
        """Microseconds since the epoch; None where nobody knows."""
        if time.monotonic() < self._not_before:
            return None
        try:
            async with asyncio.timeout(LIMIT_S), self._one:
                return await asyncio.to_thread(self._ask, agent_id, intent_id)
        except (SluicegateError, OSError, TimeoutError):
            self._client, self._not_before = None, time.monotonic() + RETRY_S
            return None

    def _ask(self, agent_id: str, intent_id: str) -> int | None:
        from clickhouse_connect.driver.exceptions import Error
        from sluicegate.sinks.embedded import connect, database

        if self._client is None:
            self._client, self._database = connect(self._settings), database(self._settings)
        try:
            found = self._client.query(
                _QUERY.format(database=self._database), {"agent": agent_id, "intent": intent_id}
            )
        except Error as error:
            raise OSError(str(error)) from error
        at = int(found.result_rows[0][0]) if found.result_rows else 0
        return at or None
