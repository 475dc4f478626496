"""What followed from a call, as headers and facts tell it."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.replay import lineage as lineages
from sluicegate.processors.replay.lineage import Cascade, Lineage, TooWide, cascade

from tests import shop
from tests.driver import AGENT, Driver, read

BANKER = "banking-agent-command-r"


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.deploy(shop.release())
    driver.open_session()
    return driver


def name(decision: Decision) -> str:
    return decision.outcomes[0].origin.intent_id


def done(d: Driver, tool: str, result: dict[str, object], args: dict[str, object], **more: object) -> str:
    asked = d.call(tool, args, **more)
    d.finish(asked.dispatches[0], json.dumps(result).encode())
    return name(asked)


def told(d: Driver) -> Lineage:
    lineage = Lineage("north-bank")
    for record in d.records:
        event = read(record)
        lineage.take(0, record.offset, event.header, event.facts)
    return lineage


def follows(d: Driver, root: str, *, seen: bool = False) -> tuple[Cascade, dict[str, str]]:
    found = cascade(told(d), (AGENT, root), seen=seen)
    return found, {key[1]: links[0].how for key, links in found.links.items()}


def test_values_lead_on_and_other_values_do_not(d: Driver) -> None:
    order = done(d, "shop.order", {"id": "order-1001"}, {"item": "a lamp"})
    other = done(d, "shop.order", {"id": "order-2002"}, {"item": "a table"})
    ship = done(d, "shop.ship", {"parcel": "parcel-7"}, {"order": "order-1001"})
    elsewhere = done(d, "shop.ship", {"parcel": "parcel-8"}, {"order": "order-2002"})
    look = done(d, "shop.look", {"status": "open", "place": "order-3003"}, {"id": "order-1001"})
    through = done(d, "shop.ship", {"parcel": "parcel-9"}, {"order": "order-3003"})
    found, how = follows(d, order)
    assert how == {ship: "data", look: "data", through: "data"} and elsewhere not in how
    assert [c.intent_id for c in found.backwards(told(d))] == [through, look, ship, order]
    assert {k[1] for k in found.unsure} == {other}, "an order whose argument nobody traced"
    everything, how = follows(d, order, seen=True)
    assert how[other] == "saw" and elsewhere in how
    place = {c.intent_id: n for n, c in enumerate(everything.backwards(told(d)))}
    assert place[elsewhere] < place[other] < place[order]


def test_what_was_refused_or_failed_leads_to_nothing(d: Driver) -> None:
    bad = d.call("shop.order", {"item": "a lamp"}).dispatches[0]
    d.claim(bad)
    d.receipt(bad, "failed", error_class="refused_by_tool", sent=True)
    done(d, "shop.mail", {}, {"text": "order-1001"})
    found, how = follows(d, bad.intent_id)
    assert how == {} and found.unsure == {}


def test_what_was_asked_before_the_result_does_not_follow(d: Driver) -> None:
    first = d.call("shop.order", {"item": "a lamp"})
    early = done(d, "shop.mail", {}, {"text": "hello"})
    d.finish(first.dispatches[0], b'{"id":"order-1001"}')
    late = done(d, "shop.mail", {}, {"text": "hello"})
    found, _ = follows(d, name(first))
    assert {k[1] for k in found.unsure} == {late} and early != late


def test_a_session_that_was_handed_on_follows(d: Driver) -> None:
    d.hand_off(BANKER, "too-early")
    d.deliver()
    order = done(d, "shop.order", {"id": "order-1001"}, {"item": "a lamp"})
    handed = name(d.hand_off(BANKER, "theirs"))
    d.deliver()
    theirs = done(d, "shop.mail", {}, {"text": "sold"}, agent=BANKER, session="theirs")
    early = done(d, "shop.mail", {}, {"text": "sold"}, agent=BANKER, session="too-early")
    further = name(d.hand_off(AGENT, "back", agent=BANKER, by="theirs"))
    d.deliver()
    back = done(d, "shop.mail", {}, {"text": "sold"}, session="back")
    found, how = follows(d, order)
    assert how == {handed: "handed on", theirs: "handed on", further: "handed on", back: "handed on"}
    assert early not in how and found.hands == {BANKER, AGENT}
    assert [c.intent_id for c in found.backwards(told(d))] == [back, further, theirs, handed, order]


def test_memory_leads_from_a_writer_to_its_readers(d: Driver) -> None:
    order = done(d, "shop.order", {"id": "order-1001"}, {"item": "a lamp"})
    wrote = name(d.call("memory.write", {"scope": "agent", "key": "last", "value": "order-1001"}))
    d.open_session("other")
    recalled = name(d.call("memory.read", {"scope": "agent", "key": "last"}, session="other"))
    mailed = done(d, "shop.mail", {}, {"text": "order-1001"}, session="other")
    d.call("memory.write", {"scope": "agent", "key": "last", "value": "new"}, session="other")
    newer = name(d.call("memory.read", {"scope": "agent", "key": "last"}, session="other"))
    _, how = follows(d, wrote)
    assert how == {recalled: "memory"} and newer not in how
    found, how = follows(d, order, seen=True)
    assert (how[wrote], how[recalled], how[mailed]) == ("saw", "memory", "saw")
    assert found.unsure == {}


def test_other_tenants_are_not_looked_at(d: Driver) -> None:
    done(d, "shop.order", {"id": "order-1001"}, {"item": "a lamp"})
    lineage = Lineage("another")
    for record in d.records:
        event = read(record)
        lineage.take(0, record.offset, event.header, event.facts)
    assert lineage.calls == {}


def test_bounds(d: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    order = done(d, "shop.order", {"id": "order-1001"}, {"item": "a lamp"})
    for _ in range(3):
        done(d, "shop.ship", {"parcel": "parcel-7"}, {"order": "order-1001"})
    monkeypatch.setattr(lineages, "MAX_CASCADE", 3)
    with pytest.raises(TooWide, match="more than 3 calls followed"):
        follows(d, order)
    monkeypatch.setattr(lineages, "MAX_CALLS", 2)
    with pytest.raises(TooWide, match="take back a later one"):
        told(d)
