"""The evaluator: scores a sample of the sessions that ended, as `evaluators:` of the deployed release says.

    look        sessions that ended since the last look, from ClickHouse, with what was said in them
    sample      by hash: every worker draws the same ones (`processors/releases/evaluators.py`)
    ask         a function in a process that can be killed, or a model with a prompt of the release
    publish     a `score` of kind `evaluator` on the topic `reviews`, signed by this role's key

It reads as a reader and writes scores only: no call waits for it, and nothing is decided by it. A session is scored once: what
is scored already is asked of ClickHouse, and the score's id follows from the session, so that the ledger takes no second one,
whoever sends it. A scorer that fails is asked again twice, then the session has no score. Next: `processors/sessions/scores.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
from sluicegate.executors.adapter import Adapter, Finished
from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.evaluators import EvaluatorRow, sampled, score_id
from sluicegate.processors.releases.prompts import render
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Dispatch, Score
from sluicegate.schemas.scores import EVALUATOR, SCORE_MAX

LOOK_EVERY_S = 10.0
LOOK_BACK = timedelta(hours=6)
"""A worker that was away for longer leaves the sessions before unscored."""
LATE = timedelta(minutes=10)
"""Partitions come to ClickHouse at different times: so far back each look goes behind the last one."""
SESSIONS_MAX = 1_000
"""Of one look; the next one goes on."""
EVENTS_MAX = 2_000
"""Of one session that are shown: its last ones."""
ATTEMPTS = 3
COMMENT_CHARS = 2_000
HOUR_S = 3_600.0

FACTS = ("tenant", "release", "on_behalf_of", "calls", "executed", "released", "refused", "failed", "withheld",
         "ungrounded", "held", "expired", "in_doubt", "user_messages")  # fmt: skip
"""What a scorer is told of a session, beside its events."""

log = logging.getLogger(__name__)
Json = dict[str, Any]
Key = tuple[str, str, str]


@dataclass(slots=True)
class Counters:
    """What one worker did."""

    looks: int = 0
    scores: int = 0
    failures: int = 0
    over_budget: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    """Evaluator -> why its last session has no score."""


class Evaluator:
    """Looks, asks, publishes. `connect` makes a ClickHouse client that reads; `publish` sends one score and waits for it."""

    def __init__(
        self,
        connect: Callable[[], Any],
        control: Callable[[], Control],
        adapters: Mapping[str, Adapter],
        publish: Callable[[Score], Awaitable[None]],
        clock_us: Callable[[], int],
    ) -> None:
        self._connect, self._control, self._adapters = connect, control, adapters
        self._publish, self._clock_us = publish, clock_us
        self.counters = Counters()
        self._done: dict[Key, datetime] = {}
        self._tries: dict[Key, int] = {}
        self._since: datetime | None = None
        self._spent: dict[str, deque[float]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
                self.counters.waiting.pop("", None)
            except (SluicegateError, OSError, ValueError) as error:
                self.counters.waiting[""] = str(error) or type(error).__name__
                log.warning("the evaluator waits: %s", self.counters.waiting[""])
            except Exception as error:  # ClickHouse and Kafka raise their own
                self.counters.waiting[""] = str(error)[:300] or type(error).__name__
                log.warning("the evaluator waits: %s", self.counters.waiting[""])
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Score what ended since the last look. Returns how many scores were published."""
        release = self._control().release
        rows = release.evaluators if release is not None else ()
        self.counters.looks += 1
        if release is None or not rows:
            return 0
        now = datetime.fromtimestamp(self._clock_us() / 1e6, UTC)
        if self._since is None:
            self._since = now - LOOK_BACK
        since = self._since - LATE
        ended = await asyncio.to_thread(self._ended, since, now)
        before = self.counters.scores
        for session in ended:
            for row in rows:
                if sampled(row, session["agent_id"], session["session_id"]):
                    await self._one(release, row, session, now)
        if ended:
            self._since = max(self._since, cast(datetime, ended[-1]["closed_at"]))
        self._done = {key: at for key, at in self._done.items() if at >= since}
        self._tries = {key: n for key, n in self._tries.items() if key not in self._done}
        return self.counters.scores - before

    def _ended(self, since: datetime, now: datetime) -> list[Json]:
        client = self._connect()
        begun, before = bool(self._spent), dict[str, list[float]]()
        try:
            parameters = {"since": since.strftime("%Y-%m-%d %H:%M:%S")}
            for name, agent, session, at in client.query(
                "SELECT reviewer, agent_id, session_id, max(decided_at) FROM events WHERE src_topic = 'outcomes' AND status = 'scored' "
                "AND kind = 'evaluator' AND decided_at >= {since:DateTime('UTC')} GROUP BY ALL",
                parameters=parameters,
            ).result_rows:
                self._done.setdefault((name, agent, session), _utc(at))
                if not begun and now - _utc(at) < timedelta(hours=1):
                    before.setdefault(name, []).append(_utc(at).timestamp())
            # INVARIANT: a worker that starts anew goes on in the hour of the one before (tests/unit/test_evaluator.py).
            self._spent.update({name: deque(sorted(times)) for name, times in before.items()})
            names = ("agent_id", "session_id", "opened_at", "closed_at", *FACTS)
            found = client.query(
                f"SELECT {', '.join(names)} FROM sessions_since(since = {{since:DateTime('UTC')}}) "
                "WHERE closed_at >= {since:DateTime('UTC')} ORDER BY closed_at, agent_id, session_id "
                f"LIMIT {SESSIONS_MAX}",
                parameters=parameters,
            ).result_rows
            rows = [dict(zip(names, row, strict=True)) for row in found]
            for row in rows:
                row["opened_at"], row["closed_at"] = _utc(row["opened_at"]), _utc(row["closed_at"])
            return rows
        finally:
            client.close()

    async def _one(self, release: CompiledRelease, row: EvaluatorRow, session: Json, now: datetime) -> None:
        key = row.name, session["agent_id"], session["session_id"]
        if key in self._done or self._tries.get(key, 0) >= ATTEMPTS:
            return
        spent = self._spent.setdefault(row.name, deque())
        while spent and spent[0] < now.timestamp() - HOUR_S:
            spent.popleft()
        if len(spent) >= row.per_hour:
            self.counters.over_budget += 1
            self.counters.waiting[row.name] = f"it scored {row.per_hour} sessions within an hour"
            return
        spent.append(now.timestamp())
        shown = {**session, "events": await asyncio.to_thread(self._events, session, row.max_chars)}
        verdict = await self._ask(release, row, shown)
        if isinstance(verdict, str):
            self._tries[key] = self._tries.get(key, 0) + 1
            self.counters.failures += 1
            self.counters.waiting[row.name] = verdict
            return
        value, why = verdict
        await self._publish(
            Score(
                score_id(row, key[1], key[2]), key[1], key[2], row.name, EVALUATOR, row.metric, value, self._clock_us(), "",
                why[:COMMENT_CHARS],
            )
        )  # fmt: skip
        self._done[key] = session["closed_at"]
        self.counters.scores += 1
        self.counters.waiting.pop(row.name, None)

    def _events(self, session: Json, max_chars: int) -> list[Json]:
        """What was said and done, the last of it, oldest first."""
        client = self._connect()
        try:
            found = client.query(
                "SELECT e.decided_at, e.stage, e.status, e.reason, e.call_tool, c.record, c.content "
                "FROM (SELECT * FROM events FINAL WHERE session_id = {s:String} AND agent_id = {a:String} AND src_topic = 'outcomes') AS e "
                "LEFT JOIN (SELECT * FROM contents FINAL WHERE session_id = {s:String} AND agent_id = {a:String}) AS c "
                f"ON e.src_partition = c.src_partition AND e.seq = c.seq ORDER BY e.seq DESC LIMIT {EVENTS_MAX}",
                parameters={"s": session["session_id"], "a": session["agent_id"]},
            ).result_rows
        finally:
            client.close()
        events: list[Json] = []
        for at, stage, status, reason, tool, record, content in found:
            text = str(content)[: max(0, max_chars)]
            max_chars -= len(text)
            events.append({"at": _utc(at), "stage": stage, "status": status, "reason": reason, "tool": tool, "record": record, "content": text})  # fmt: skip
        return events[::-1]

    async def _ask(self, release: CompiledRelease, row: EvaluatorRow, session: Json) -> tuple[int, str] | str:
        """(value, comment), or one sentence on what went wrong."""
        shown = orjson.dumps(session)
        if row.python:
            executor, arguments = {"kind": "python", "entry": row.python}, b'{"session":' + shown + b"}"
        else:
            tool = release.tools[row.contract]
            said: Json = {
                "prompt": row.prompt,
                "messages": [{"role": "user", "content": shown.decode()}],
                "response_format": {"type": "json_object"},
            }
            rendered = render(release.prompts, said)
            if isinstance(rendered[0], str):
                return str(rendered[1])
            executor, arguments = cast(Json, orjson.loads(tool.executor)), rendered[0]
        dispatch = Dispatch(
            hashlib.sha256(f"{row.name}\0{session['agent_id']}\0{session['session_id']}".encode()).digest()[:16],
            score_id(row, session["agent_id"], session["session_id"]), session["agent_id"], session["session_id"],
            session["tenant"], row.contract or row.python, "read_only", orjson.dumps(executor), arguments, b"", "", 1,
            row.timeout_s * 1_000, self._clock_us() + row.timeout_s * 1_000_000,
        )  # fmt: skip
        answer = await self._adapters[str(executor["kind"])].call(dispatch, float(row.timeout_s))
        if not isinstance(answer, Finished):
            return f"{getattr(answer, 'error_class', 'no answer')}: {getattr(answer, 'error', '')}"
        return read_verdict(answer.result, of_a_model=not row.python)


def read_verdict(result: bytes, *, of_a_model: bool) -> tuple[int, str] | str:
    """(value in 1/10,000, comment) of what a scorer answered, or what is wrong with it. Nothing is bent into range."""
    try:
        said: object = orjson.loads(result)
        if of_a_model:
            said = orjson.loads(str(cast(Json, said).get("text", "")))
    except (ValueError, AttributeError):
        return 'the answer is no JSON, ask for {"score": 0.5, "why": "..."}'
    why = ""
    if isinstance(said, dict):
        why, said = str(said.get("why", "")), said.get("score")
    if isinstance(said, bool) or not isinstance(said, int | float):
        return "the answer has no number `score`"
    if not 0 <= said <= 1:
        return f"the score `{said}` is not from 0 to 1"
    return round(said * SCORE_MAX), why


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
