"""A seam: the state before is the state after, agent by agent, whatever N and M are; and nothing is done twice across it."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors import seam, snapshot
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import partition_of

from tests import seam_driver
from tests.driver import AGENT, OTHER_AGENT, Driver, agents
from tests.exchange_driver import World
from tests.seam_driver import begin, finish, folded, seam_to

AGENTS = [str(row["agent_id"]) for row in agents()]


def busy(partitions: int, steps: list[tuple[int, int]]) -> World:
    """A world in which agents did this and that, and everything has ended."""
    w = World(partitions)
    for who, what in steps:
        agent = AGENTS[who % len(AGENTS)]
        d, session = w.on(agent), f"s-{who // len(AGENTS) % 3}"
        if what == 0:
            d.open_session(session, agent)
        elif what == 1:
            d.say("pay 100 to DE-4711", session, agent)
        elif what == 2:
            d.close_session(session, agent)
        elif what == 3:
            for dispatch in d.call("desk.set", agent=agent, session=session).dispatches:
                d.finish(dispatch)
        elif what == 4:
            d.call("desk.never", agent=agent, session=session)
        else:
            for dispatch in d.call("desk.read", agent=agent, session=session).dispatches:
                d.finish(dispatch, b'{"iban":"DE-4711"}')
    return w


def rows_of(world: World, generation: int) -> Counter[bytes]:
    """Everything a world's partitions hold, as rows, wherever they stand."""
    return Counter(row for d in world.drivers for row in seam.slices(folded(d), generation, 1)[0])


steps = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=40)


@given(st.integers(1, 5), st.integers(1, 7), steps)
@settings(max_examples=30, deadline=None)
def test_the_state_before_is_the_state_after(n: int, m: int, done: list[tuple[int, int]]) -> None:
    if n == m:
        m += 1
    before = busy(n, done)
    told = rows_of(before, 0)
    after = seam_to(before, m)
    assert rows_of(after, 1) == told
    for d in after.drivers:
        names = [name.partition("\0")[0] for name in d.state.sessions]
        assert all(partition_of(agent, m) == d.partition for agent in names)
        # a recovery, with a snapshot or without, has the same
        assert snapshot.encode(folded(d)) == snapshot.encode(d.state)
        assert snapshot.encode(snapshot.decode(snapshot.encode(d.state))) == snapshot.encode(d.state)
    # and over a second seam
    again = seam_to(after, n)
    assert rows_of(again, 2) == told


def test_what_was_asked_before_is_answered_after_and_never_done_again() -> None:
    w = World(2)
    d = w.on(AGENT)
    d.open_session()
    intent = d.intent("desk.pay", {"value": "x"})
    d.finish(d.feed("intents", intent).dispatches[0], b'{"paid":1}')
    after = seam_to(w, 5)
    again = after.on(AGENT).feed("intents", intent)
    assert [(o.status, o.reason) for o in again.outcomes] == [("noted", "duplicate")]
    assert not again.dispatches
    assert again.replies[0].result == b'{"paid":1}'  # its bytes stand in the old partition
    other = after.on(AGENT).feed("intents", r.Intent(**{**_fields(intent), "arguments": b'{"value":"y"}'}))
    assert [o.reason for o in other.outcomes] == ["id_conflict"]


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in codec.field_names(type(record))}


def test_while_it_is_begun_nothing_new_is_permitted_and_it_may_be_asked_again_after() -> None:
    w = World(2)
    d = w.on(AGENT)
    d.open_session()
    first = d.intent("desk.pay")
    dispatch = d.feed("intents", first).dispatches[0]
    begin(w, 3)
    refused = d.intent("desk.read")
    answer = d.feed("intents", refused)
    assert [(o.status, o.reason) for o in answer.outcomes] == [("refused", "repartitioning")]
    assert answer.replies[0].status == "refused"
    assert [o.reason for o in d.feed("intents", first).outcomes] == ["duplicate"]
    assert seam.unsettled(d.state) == "1 call(s) are open"
    with pytest.raises(Terminal, match="is open"):
        seam.slices(folded(d), 0, 3)
    d.finish(dispatch)
    after = finish(w)
    decided = after.on(AGENT).feed("intents", refused)
    assert [o.status for o in decided.outcomes if o.stage in ("route", "plan")] == ["routed", "dispatched"]


def test_called_off_it_goes_on_as_before() -> None:
    w = World(2)
    w.on(AGENT).open_session()
    begin(w, 3)
    w.control_event("generation.called_off", number=1)
    assert w.on(AGENT).call("desk.read").dispatches


def test_a_value_that_was_heard_before_grounds_after() -> None:
    """Sources stand in the old partition, and their bytes are found there."""
    w = World(1)
    w.on(AGENT).open_session()
    w.on(AGENT).say("please send it to GB29NWBK60161331926819")
    after = seam_to(w, 4)
    d = after.on(AGENT)
    args = {"recipient": "GB29NWBK60161331926819", "amount": 1.0, "subject": "rent", "date": "2026-11-18"}
    decided = d.call("banking.send_money", args)
    alone = World(1)
    alone.on(AGENT).open_session()
    alone.on(AGENT).say("please send it to GB29NWBK60161331926819")
    same = alone.on(AGENT).call("banking.send_money", args)
    assert [(o.status, o.reason) for o in decided.outcomes] == [(o.status, o.reason) for o in same.outcomes]
    facts = next(o.facts for o in decided.outcomes if o.stage == "authorize")
    assert facts.grounded_from == next(o.facts for o in same.outcomes if o.stage == "authorize").grounded_from  # type: ignore[attr-defined]


def test_rows_are_bounded_and_a_slice_is_never_nothing() -> None:
    seal = seam.Seal(0, seam_driver.log_id(0), 0, 7, bytes(32))
    assert [len(f.rows) for f in seam.imports(seal, [])] == [0]
    rows = [orjson.dumps({"kind": "x", "n": "y" * 100_000, "at": at}) for at in range(7)]
    made = seam.imports(seal, rows)
    assert [(f.piece, f.pieces, len(f.rows)) for f in made] == [(0, 4, 2), (1, 4, 2), (2, 4, 2), (3, 4, 1)]
    assert len({f.digest for f in made}) == 1


def test_an_id_without_an_owner_is_refused() -> None:
    d = Driver()
    d.open_session()
    with pytest.raises(Terminal, match="no owners"):
        seam.slices(d.state, 0, 2)
    d.state.owners = {}
    with pytest.raises(Terminal, match="nobody owns"):
        seam.slices(d.state, 0, 2)
    assert OTHER_AGENT != AGENT
