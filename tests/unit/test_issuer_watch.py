"""Issuers' keys that renew themselves: when, whose, what becomes of a failure, and who may."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Person
from sluicegate.processors.control.tokens import public_keys
from sluicegate.processors.drift.alarm_events import KEEPER, SENTINEL, may_act
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.replay.reproduce_watch import every_s
from sluicegate.streams.watch.issuer_watch import IssuerWatch

from tests.driver import Driver
from tests.unit.test_tokens import AUDIENCE, ISSUER, jwk

OLD, NEW = (public_keys({"keys": [jwk(kind, f"k-{kind}")]}) for kind in ("EdDSA", "ES256"))
BODY: dict[str, object] = {
    "issuer": ISSUER,
    "audience": AUDIENCE,
    "keys": OLD,
    "prefix": "p:",
    "discover": True,
}
BY_FILE = "https://file.example.com"
HOUR_S = 3_600.0


class Stand:
    """A watch with a clock, a control ledger and an issuer of its own."""

    def __init__(self, *published: list[str] | Exception, who: str = SENTINEL, chance: float = 0.5) -> None:
        self.now, self.published, self.asked = 0.0, list(published), []  # type: ignore[var-annotated]
        self.driver = Driver()
        self.driver.control_event("issuer.added", **BODY)
        self.driver.control_event("issuer.added", issuer=BY_FILE, audience=AUDIENCE, keys=OLD, prefix="q:")
        self.proposed: list[Event] = []
        self.watch = IssuerWatch(
            lambda: self.driver.control, self.propose, lambda: who, fetch=self.fetch, clock=lambda: self.now,
            chance=lambda: chance, every=HOUR_S,
        )  # fmt: skip

    async def fetch(self, issuer: str) -> list[str]:
        self.asked.append(issuer)
        said = self.published.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    async def propose(self, events: list[Event], why: str, head: int) -> Control:
        if head != self.driver.control.head:
            raise Terminal("control moved meanwhile")
        for kind, body in events:
            self.proposed.append((kind, body))
            self.driver.control_event(kind, who="sentinel", **body)
        return self.driver.control

    def look(self, seconds: float = 1.25 * HOUR_S) -> bool:
        self.now += seconds
        return asyncio.run(self.watch.look())

    @property
    def keys(self) -> list[str]:
        return list(self.driver.control.issuers[ISSUER].keys)


def test_newer_keys_are_an_event_of_control_and_the_same_ones_are_none() -> None:
    stand = Stand(OLD, NEW, NEW)
    assert stand.look() and not stand.proposed
    assert stand.look() and stand.keys == NEW
    [(kind, body)] = stand.proposed
    assert (kind, body) == ("issuer.added", {**BODY, "keys": NEW})  # all else as people added it
    assert stand.look() and len(stand.proposed) == 1
    assert stand.asked == [ISSUER] * 3, "one that was added by a file is never asked"
    assert stand.watch.metrics() == {
        "sluicegate_issuers_looks_total": 3, "sluicegate_issuers_failed_total": 0, "sluicegate_issuers_renewed_total": 1,
    }  # fmt: skip


def test_it_looks_within_a_minute_and_then_about_once_an_hour() -> None:
    for chance, first, then in ((0.0, 0.0, 0.9), (1.0, 60.0, 1.1)):
        stand = Stand(OLD, OLD, chance=chance)
        assert stand.look(first)
        assert not stand.look(then * HOUR_S - 1)
        assert stand.look(1)
    stand = Stand()
    stand.watch = IssuerWatch(
        lambda: stand.driver.control, stand.propose, lambda: SENTINEL, fetch=stand.fetch, every=0
    )
    assert not stand.look(1_000 * HOUR_S)
    with pytest.raises(Terminal, match="SLUICEGATE_ISSUERS_EVERY_S=`soon` is no number"):
        every_s({"SLUICEGATE_ISSUERS_EVERY_S": "soon"}, "SLUICEGATE_ISSUERS_EVERY_S")


@pytest.mark.parametrize("error", [Retryable("it is away"), Terminal("it says that it is another")])
def test_one_that_cannot_be_asked_keeps_its_keys_and_is_asked_sooner(error: Exception) -> None:
    stand = Stand(error, NEW)
    assert stand.look() and stand.keys == OLD
    assert not stand.look(HOUR_S / 6 - 1)
    assert stand.look(1) and stand.keys == NEW
    assert stand.watch.metrics()["sluicegate_issuers_failed_total"] == 1


def test_control_that_moved_meanwhile_is_looked_at_again() -> None:
    stand = Stand(NEW, NEW)

    async def late(events: list[Event], why: str, head: int) -> Control:
        stand.driver.control_event("agent.suspended", agent_id="nobody")
        return await stand.propose(events, why, head)

    watch = IssuerWatch(
        lambda: stand.driver.control, late, lambda: SENTINEL, fetch=stand.fetch, clock=lambda: stand.now, every=HOUR_S
    )  # fmt: skip
    stand.now += HOUR_S
    assert asyncio.run(watch.look()) and stand.keys == OLD
    assert watch.metrics()["sluicegate_issuers_failed_total"] == 1


WRONG: dict[str, dict[str, object]] = {
    "one that nobody added": {**BODY, "issuer": "https://evil.example"},
    "one that people gave keys by a file": {**BODY, "issuer": BY_FILE, "prefix": "q:"},
    "another audience": {**BODY, "audience": "else"},
    "another prefix": {**BODY, "prefix": ""},
    "no longer asked": {**BODY, "discover": False},
}


@pytest.mark.parametrize("name", WRONG)
def test_nothing_that_acts_by_itself_changes_more_than_keys(name: str) -> None:
    control = Stand().driver.control
    assert "is for people" in may_act(control, SENTINEL, "issuer.added", WRONG[name])
    assert not may_act(control, SENTINEL, "issuer.added", BODY)
    assert may_act(control, SENTINEL, "issuer.removed", {"issuer": ISSUER})


def test_in_a_signed_environment_it_takes_a_role_that_people_give() -> None:
    """Whose keys these are says for whom sessions are: a sentinel alone may not, and its event would count for nothing."""
    signed = replace(Stand().driver.control, signing="signed")

    def people(*roles: str) -> Control:
        return replace(signed, people={"wd": Person("wd", "", roles)})

    assert may_act(people(SENTINEL), "wd", "issuer.added", BODY)
    assert not may_act(people(SENTINEL, KEEPER), "wd", "issuer.added", BODY)
    assert may_act(people(SENTINEL, KEEPER), "wd", "issuer.added", WRONG["another audience"])
    stand = Stand(NEW, who="wd")
    stand.driver.controls[-1] = people(SENTINEL)
    assert stand.look() and not stand.proposed
    assert stand.watch.metrics()["sluicegate_issuers_failed_total"] == 1
    assert json.loads(stand.keys[0])["kid"] == "k-EdDSA"
