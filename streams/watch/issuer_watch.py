"""Issuers' keys, kept as new as the issuers': the leader's monitor asks each one that was added without a file, about once an hour.

What decides is what stands in control (`on_behalf_of` is replayed in a year), so newer keys are an event of control, as those of
`sluicegate issuers refresh` are. One that cannot be asked keeps the keys it has. In a signed environment the sentinel's key signs it,
whose person needs the role `issuers` (`processors/drift/alarm_events.py`). `SLUICEGATE_ISSUERS_EVERY_S=0` leaves it out.
Never decides, and never adds or removes an issuer. Next: `keys/oidc.py` (how one is asked), `watch/monitor.py` (the timer).
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Awaitable, Callable

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Issuer
from sluicegate.processors.drift.alarm_events import KEEPER, may_act
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.keys import oidc
from sluicegate.streams.replay.reproduce_watch import every_s

EVERY = "SLUICEGATE_ISSUERS_EVERY_S"
JITTER = 0.1
"""Part of the time between two looks that chance adds or takes, so that many environments do not ask one issuer at once."""
FIRST_S = 60.0
"""At most, before a leader's first look: monitors that are restarted often look, too."""
SOONER = 6
"""A look at which an issuer could not be asked is made again after this part of the time: 10 minutes of an hour."""
WHY = "its keys changed"

Fetch = Callable[[str], Awaitable[list[str]]]
Propose = Callable[[list[Event], str, int], Awaitable[Control]]

log = logging.getLogger("sluicegate.issuers")


class IssuerWatch:
    """Looks when it is due. `clock`: seconds that only grow; `chance`: 0 to 1; `who`: whom its events are said to come from."""

    def __init__(
        self,
        control: Callable[[], Control],
        propose: Propose,
        who: Callable[[], str],
        *,
        fetch: Fetch = oidc.fetch,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        every: float | None = None,
    ) -> None:
        self._control, self._propose, self._who = control, propose, who
        self._fetch, self._clock, self._chance = fetch, clock, chance
        self._every_s = every_s(os.environ, EVERY) if every is None else every
        self._due = clock() + chance() * min(FIRST_S, self._every_s)
        self._looks = self._failed = self._renewed = 0

    async def look(self) -> bool:
        """Ask every issuer that may be asked, one after the other, where it is due; whether it was."""
        if not self._every_s or self._clock() < self._due:
            return False
        failed = self._failed
        for issuer in [i for i in self._control().issuers.values() if i.discover]:
            await self._renew(issuer)
        self._looks += 1
        wait = self._every_s if failed == self._failed else self._every_s / SOONER
        self._due = self._clock() + wait * (1 + JITTER * (2 * self._chance() - 1))
        return True

    async def _renew(self, issuer: Issuer) -> None:
        try:
            newest = await self._fetch(issuer.issuer)
            if tuple(newest) == issuer.keys:
                return
            body: dict[str, object] = {
                "issuer": issuer.issuer, "audience": issuer.audience, "keys": newest, "prefix": issuer.prefix, "discover": True,
            }  # fmt: skip
            control = self._control()
            if reason := may_act(control, self._who(), "issuer.added", body):
                self._failed += 1
                log.warning("issuer `%s` has newer keys, which were not taken: %s: give the sentinel's person the role `%s`, or run `sluicegate issuers refresh`", issuer.issuer[:80], reason, KEEPER)  # fmt: skip
                return
            await self._propose([("issuer.added", body)], WHY, control.head)
        except SluicegateError as error:
            self._failed += 1
            log.warning("issuer `%s` keeps the keys it has: %s", issuer.issuer[:80], error)
            return
        self._renewed += 1
        log.info("issuer `%s` has %d key(s) now", issuer.issuer[:80], len(newest))

    def metrics(self) -> dict[str, float]:
        """For Prometheus."""
        return {
            "sluicegate_issuers_looks_total": self._looks,
            "sluicegate_issuers_failed_total": self._failed,
            "sluicegate_issuers_renewed_total": self._renewed,
        }
