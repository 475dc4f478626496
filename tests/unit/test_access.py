"""Who touched an asset: what counts as touched, and that a source which leaves out the rest answers the same."""

from __future__ import annotations

import pytest
from sluicegate.processors.replay.access import Accesses, asset_of, needle
from sluicegate.processors.replay.account import account, touches
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import AGENT, Driver, read


@pytest.fixture(scope="module")
def driver() -> Driver:
    """A ledger with a bit of everything, memory and grounding among it."""
    made = Driver()
    made.everyday(2)
    made.call("memory.write", {"scope": "agent", "key": "k", "value": "v"}, session="s-1")
    made.call("memory.read", {"scope": "agent", "key": "k"}, session="s-1")
    return made


def assets(driver: Driver) -> set[str]:
    """Everything that was touched."""
    return {touch.asset for record in driver.records for touch in touches(read(record).facts)}


def test_every_asset_is_found_by_all_records_and_by_those_that_name_it(driver: Driver) -> None:
    events = [read(record) for record in driver.records]
    found = assets(driver)
    assert {a.partition(":")[0] for a in found} >= {"tool", "sha256"}
    for asset in sorted(found):
        whole, part = Accesses(asset), Accesses(asset)
        for event in events:
            whole.take(0, event.header, event.facts)
        mine = {(row.agent_id, row.intent_id) for row in whole.rows}
        for event in events:
            opens = isinstance(event.facts, r.SessionFacts) and event.header.status == "opened"
            names = needle(part.asset) in codec.encode(event.facts)
            if opens or names or (event.header.agent_id, event.header.intent_id) in mine:
                part.take(0, event.header, event.facts)
        assert whole.rows and whole.rows == part.rows


def test_who_for_whom_and_what_became_of_it(driver: Driver) -> None:
    fold = Accesses("desk.pay")
    for record in driver.records:
        event = read(record)
        fold.take(0, event.header, event.facts)
    assert {(row.agent_id, row.how, row.asset) for row in fold.rows} == {(AGENT, "asked", "tool:desk.pay")}
    assert {"released", "refused"} <= {row.state for row in fold.rows}
    assert "person-1" in {row.on_behalf_of for row in fold.rows}


def test_an_intents_own_account(driver: Driver) -> None:
    events = [read(record) for record in driver.records]
    approved = next(e.header.intent_id for e in events if isinstance(e.facts, r.ReviewFacts))
    made = account((e.header, e.facts) for e in events if e.header.intent_id == approved)
    assert made.approvals and made.approvals[0]["by"] and made.approvals[0]["verdict"] == "approve"
    paid = next(e.header.intent_id for e in events if e.header.status == "released")
    made = account((e.header, e.facts) for e in events if e.header.intent_id == paid)
    assert [one.end for one in made.attempts] == ["released"]
    assert {t.how for t in made.data} >= {"asked", "returned"}


@pytest.mark.parametrize(
    "text", ["", "tool:", "sha256:", "sha256:zz", "sha256:" + "a" * 63, "event:" + "a" * 64, "cell:ab"]
)
def test_what_names_no_asset(text: str) -> None:
    with pytest.raises(Terminal, match=r"names no asset|hex digits"):
        asset_of(text)


def test_a_bare_name_is_a_tools_and_hex_is_lowered() -> None:
    assert asset_of("desk.pay") == "tool:desk.pay"
    assert asset_of("sha256:" + "AB" * 32) == "sha256:" + "ab" * 32
    assert needle("event:" + "01" * 16) == b"\1" * 16
    assert needle("memory:shared:x") == b"shared:x"
