"""The watcher: follows the canary that runs, and writes the judge's verdict to control, once, with its evidence.

    1. look      rows since the last look, as far as nothing is missing (`watch/canary_rows.py`)
    2. judge     sessions in close order (`processors/canary/progress.py`)
    3. propose   `canary.aborted`, `.promoted` or `.paused` on the head that was looked at, named by the canary's start

Any number of watchers may run, and start anew at any time: the verdict follows from the log, control takes one event on one head,
and an event about a canary that is over changes nothing. Writes as `sentinel`, in signed environments with the sentinel's own key
(`control/operators.py`), and asks `control.cedar` first like anybody. `blind`: rows are missing for too long, and it says so instead of judging.
Next: `watch/monitor.py` (the leader that calls `look`), `commands/canary.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import cast

from sluicegate.processors.canary import words as canary_words
from sluicegate.processors.canary.judge import CAP, CONTINUE
from sluicegate.processors.canary.progress import Progress, begin
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import Canary
from sluicegate.processors.control.policy import may_deploy
from sluicegate.processors.drift import alarm_events
from sluicegate.processors.drift.alarm_events import SENTINEL
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import operators
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.canary_rows import EARLIER_US, ClickHouseRows, Ends, look

log = logging.getLogger("sluicegate.canary")

LOOK_EVERY_S = 0.5
BLIND_AFTER_S = 60.0
"""The copy trails by a second or two; this is no hiccup."""


Current = Callable[[int], Awaitable[Canary | None]]
"""The canary that runs, as of this control event or later."""


class Watched:
    """One canary as seen from here. Also what `canary status` makes, for one look."""

    def __init__(self, settings: Settings, control: Control, current: Current | None = None) -> None:
        canary, self._current = control.canary, current
        assert canary is not None and control.release is not None
        self.canary: Canary = canary
        self.rules = control.release.canary
        self.progress: Progress = begin(canary, control.release, control.releases[canary.digest])
        self.rows = ClickHouseRows(settings, control.log_id, control.partitions, canary.at - EARLIER_US)
        self.blind = ""

    async def look(self, ends: Ends) -> bool:
        """Steps 1 and 2; whether there was more than one look takes."""
        rows, until = await look(self.rows, ends)
        if self._current is not None and rows:
            # Sessions that opened under a pause or a pin are told by it, so control has to be known as far as they knew it.
            canary = await self._current(max(row.control_head for row in rows))
            if canary is None or canary.started != self.canary.started:
                return False
            self.canary = self.progress.scores.canary = canary
        before = self.progress.complete_until
        self.progress.feed(rows, until)
        self.blind = self._blind(until)
        return (
            bool(rows)
            and self.progress.complete_until > before
            and until < time.time_ns() // 1000 - 10_000_000
        )

    def _blind(self, until: int) -> str:
        late_s = time.time() - until / 1e6
        holes = [str(p) for p, copy in self.rows.copies.items() if copy.hole]
        if late_s < BLIND_AFTER_S:
            return ""
        what = (
            f"ClickHouse misses rows of partition {', '.join(holes)}"
            if holes
            else "ClickHouse is behind the ledger"
        )
        since = time.strftime("%H:%M:%S UTC", time.gmtime(until / 1e6)) if until > 0 else "the beginning"
        return f"blind: {what}; it is complete up to {since} only, see `sluicegate status`"

    def evidence(self) -> dict[str, object]:
        """The judge's, and what the guarantee rests on."""
        return {**self.progress.evidence(), "late": self.progress.late, "log": self.rows.log_id.hex()}


class Watcher:
    """The leader's: looks again and again."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings, self._keys = settings, keys
        self._reader = ControlReader(settings)
        self._ends = Ends(settings)
        self._watched: Watched | None = None
        self._said = ""
        self._busy = asyncio.Lock()
        self.verdicts = 0

    async def start(self) -> None:
        """Read control, and follow it. Raises `Retryable` when Kafka is not there; then make another one."""
        try:
            await self._reader.start()
        except SluicegateError:
            await self._reader.stop()
            raise

    async def stop(self) -> None:
        """Close what it reads from."""
        await self._ends.close()
        await self._reader.stop()

    async def look(self) -> None:
        """One look, and what follows from it. Never raises for what passes."""
        if self._busy.locked():
            return  # the one before is still at it
        async with self._busy:
            try:
                await self._look()
            except SluicegateError as error:
                self._say(str(error))
            except (OSError, KeyError) as error:
                self._say(f"the canary could not be looked at: {error!r}")

    def metrics(self) -> dict[str, float]:
        """Gauges."""
        watched = self._watched
        found = {
            "sluicegate_canary_running": float(watched is not None),
            "sluicegate_canary_blind": float(bool(watched and watched.blind)),
            "sluicegate_canary_verdicts_total": float(self.verdicts),
        }
        if watched is not None:
            for m in watched.progress.judge.metrics:
                found[f'sluicegate_canary_log_e{{metric="{m.rule.name}"}}'] = m.worse.log_e
            for arm, n in zip(("canary", "control"), watched.progress.judge.closed, strict=True):
                found[f'sluicegate_canary_sessions{{arm="{arm}"}}'] = n
        return found

    async def _look(self) -> None:
        control = self._reader.control
        canary = control.canary
        if canary is None or not canary.auto:
            self._watched = None
            return
        if self._watched is None or self._watched.canary.started != canary.started:
            if control.release is None or canary.digest not in control.releases:
                return  # its files are on their way
            self._watched = Watched(self._settings, control, self._current)
        self._watched.canary = canary
        while await self._watched.look(self._ends):
            pass
        if self._watched.blind:
            self._say(self._watched.blind)
        elif self._watched.progress.judge.verdict != CONTINUE:
            await self._propose(self._watched)

    async def _current(self, head: int) -> Canary | None:
        await self._reader.wait_for(head)
        return self._reader.control.canary

    async def _propose(self, watched: Watched) -> None:
        """Step 3."""
        control, event = self._reader.control, verdict_event(watched)
        if event is None or control.canary is None or control.canary.started != watched.canary.started:
            return
        kind, body, why = event
        key = operators.sentinel_key(self._settings, control)
        who = SENTINEL if key is None else control.keys[key.kid].principal
        reason = may_deploy(control, who, kind, body) or alarm_events.may_act(control, who, kind, body)
        if reason:
            self._say(f"`{kind}` waits for a person: {reason}")
            return
        # INVARIANT: two watchers write one event (tests/integration/test_canary.py).
        head = await control_log.append(
            self._settings, self._keys, [(kind, body)], who=who, why=why, expected_head=control.head, key=key
        )
        self.verdicts += 1
        log.warning("canary %d: %s as control event %d: %s", watched.canary.started, kind, head, why)
        await self._reader.wait_for(head)

    def _say(self, text: str) -> None:
        if text != self._said:
            log.warning("%s", text)
            self._said = text


def verdict_event(watched: Watched) -> tuple[str, dict[str, object], str] | None:
    """The control event that carries the verdict out, and why; None when there is nothing to do."""
    evidence, canary = watched.evidence(), watched.canary
    kind = canary_words.KINDS.get(watched.progress.judge.verdict, "canary.paused")
    body: dict[str, object] = {"canary": canary.started, "digest": canary.digest, "evidence": evidence}
    if watched.progress.judge.verdict == CAP:
        if watched.rules.at_cap == "abort":
            kind = "canary.aborted"
        elif canary.held:
            return None  # a person was asked, and may have resumed it
        else:
            body["paused"] = True
    return kind, body, canary_words.why(evidence)


async def examine(settings: Settings, before: Watched | None = None) -> tuple[Control, Watched | None]:
    """The canary that runs, looked at from its beginning up to now. `before`: what was made of it by the look before."""
    control = (await control_log.read(settings, with_release=before is None)).control
    canary = control.canary
    if canary is None:
        return control, None
    if before is not None and before.canary.started != canary.started:
        return await examine(settings)
    if before is None and (control.release is None or canary.digest not in control.releases):
        raise Terminal("the releases of the canary are not at hand, try again")
    watched, ends = before or Watched(settings, control), Ends(settings)
    watched.canary = watched.progress.scores.canary = canary
    try:
        while await watched.look(ends):
            pass
    finally:
        await ends.close()
    return control, watched


def sessions_waiting(watched: Watched) -> dict[str, int]:
    """Sessions of each arm that are open: they count when they close."""
    return cast("dict[str, int]", dict(watched.progress.scores.waiting()))
