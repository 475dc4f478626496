"""A seam: the state before is the state after, agent by agent, whatever N and M are; and nothing is done twice across it."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors import snapshot
from sluicegate.processors.seam import generations, seam
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas import codec, places
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.repartition import generation
from sluicegate.streams.repartition.sealing import Folded, seam_of
from sluicegate.streams.settings import Settings

from tests import seam_driver
from tests.driver import AGENT, OTHER_AGENT, Driver, agents
from tests.exchange_driver import World
from tests.seam_driver import begin, finish, folded, seam_to
from tests.unit.test_rederive import check as decide_again

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
    rows = Counter(row for d in world.drivers for row in seam.slices(folded(d), generation, 1)[0])
    return Counter({row: n for row, n in rows.items() if b'"kind":"from"' not in row})


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
    assert [(f.piece, f.pieces, len(f.rows)) for f in made] == [
        (0, 5, 0),
        (1, 5, 2),
        (2, 5, 2),
        (3, 5, 2),
        (4, 5, 1),
    ]
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


def test_what_all_partitions_used_of_a_shared_budget_counts_after() -> None:
    """INVARIANT of the fold: used before is used after, leases go back, and the cap holds over the seam."""
    from tests.unit import test_budget_leases as b

    w = b.world(cap=1_000)
    for index in (0, 1):
        for _ in range(3):
            b.call(w, index)
            w.settle()
            w.drivers[index].finish(w.drivers[index].dispatches[-1], b'{"ok":true,"cost":100}')
    w.settle()
    used = sum(d.state.accounts[b.ACCOUNT].spent for d in w.drivers if b.ACCOUNT in d.state.accounts)
    assert used == 600
    after = seam_to(w, 5)
    home = after.drivers[after.at(b.ACCOUNT)].state
    assert (home.homes[b.ACCOUNT].out(), home.homes[b.ACCOUNT].cap, home.accounts[b.ACCOUNT].spent) == (
        600,
        1_000,
        600,
    )
    assert sum(b.ACCOUNT in d.state.accounts for d in after.drivers) == 1
    done = 0
    for _ in range(3):
        for agent in b.AGENTS:
            d = after.on(agent)
            before = len(d.dispatches)
            d.call("cost.pay", agent=agent)
            after.settle()
            for dispatch in d.dispatches[before:]:
                d.finish(dispatch, b'{"ok":true,"cost":100}')
                done += 1
            after.settle()
    assert 3 <= done <= 4  # 600 of 1,000 were used
    checked = verified(w, after)
    assert checked == {}


def verified(before: World, after: World) -> dict[int, dict[str, object]]:
    """What `ledger verify` finds in the new partitions, by partition."""
    control = ControlChecker(after.drivers[0].rules)
    for record in max((d.control_records for d in after.drivers), key=len):
        control.add(*record)
    controls = generations.all_seen_from(control.controls, 1)
    old, new = controls[-1].generations
    parts = [Folded("test", old, d.partition) for d in before.drivers]
    for part, d in zip(parts, before.drivers, strict=True):
        for record in d.records:
            part.take(record.value)
    made = seam_of(parts, new.partitions)
    found: dict[int, dict[str, object]] = {}
    for d in after.drivers:
        checker = PartitionChecker(d.partition, controls, {}, None, 1)
        for record in d.records:
            checker.add(*record)
        checker.close()
        checker.seams.remade(made.expected(d.partition), made.wrong)
        if checker.findings.first:
            found[d.partition] = dict(checker.findings.first)
    return found


def test_shared_memory_lives_at_its_new_home() -> None:
    from tests.unit import test_shared_memory as m

    w = m.world()
    m.said(w, m.NAMES[0], "write", "k", value="one")
    m.said(w, m.NAMES[1], "append", "list", value="a")
    m.said(w, m.NAMES[0], "append", "list", value="b")
    told = rows_of(w, 0)
    after = seam_to(w, 4)
    assert rows_of(after, 1) == told
    assert verified(w, after) == {}
    [home] = [d.partition for d in after.drivers if d.state.memory]
    assert home == after.at(m.SCOPE)
    for name in m.NAMES[:2]:
        assert m.said(after, name, "read", "k")["value"] == "one"
        assert m.said(after, name, "read", "list")["value"] == ["a", "b"]
    known = max(cell.version for cell in after.drivers[home].state.memory.values())
    version = m.said(after, m.NAMES[1], "write", "k", value="two")["version"]
    assert isinstance(version, int) and version > max(known, *(d.state.seq for d in w.drivers))


def test_no_agent_goes_back_to_before_the_seam() -> None:
    w = World(1)
    w.on(AGENT).open_session()
    at = w.now
    after = seam_to(w, 2)
    d = after.on(AGENT)
    assert [(o.status, o.reason) for o in d.roll_back(at=at).outcomes] == [("restored", "bad_cut")]
    assert d.state.sessions
    cut = d.state.seq - 1
    d.say("a word")
    assert [o.reason for o in d.roll_back(cut=cut).outcomes] == [""]
    assert d.state.sessions[f"{AGENT}\0session-1"].user_messages == 0
    assert verified(w, after) == {}
    d.controls = generations.all_seen_from(d.controls, 1)  # as replay reads them
    assert decide_again(d).differences == []


def test_a_lane_of_another_generation_does_not_decide() -> None:
    w = World(1)
    after = seam_to(w, 2)
    control = after.drivers[0].control
    mine = Settings(env="test", generation=1)
    generation.check(mine, control, after.drivers[0].state)
    with pytest.raises(Terminal, match="is sealed: start this process with SLUICEGATE_GENERATION=1"):
        generation.check(Settings(env="test"), control, w.drivers[0].state)
    with pytest.raises(Terminal, match="is sealed"):  # by a worker that knows no newer control
        generation.check(Settings(env="test"), w.drivers[0].controls[-1], w.drivers[0].state)
    with pytest.raises(Terminal, match="has not been started"):
        generation.check(Settings(env="test", generation=2), control, after.drivers[0].state)
    with pytest.raises(Terminal, match="set SLUICEGATE_GENERATION=1"):
        generation.seen(Settings(env="test"), control)
    old = generation.seen(Settings(env="test", generation=0), control)
    assert (old.partitions, old.own_log) == (1, old.log_id)
    assert generation.lane_id(mine, 3) == "sluicegate.test.ledger.g1.3"


def test_control_begins_and_starts_one_generation_at_a_time() -> None:
    d = Driver()

    def begun(number: int, partitions: int, log: str = "07" * 16) -> bool:
        d.control_event("generation.begun", number=number, log_id=log, partitions=partitions)
        return d.control.repartition is not None

    assert not begun(2, 3) and not begun(1, 1) and not begun(1, 0) and not begun(1, 1_024)
    assert not begun(1, 3, "07") and not begun(1, 3, d.log_id.hex())
    assert begun(1, 3)
    d.control_event("generation.begun", number=1, log_id="08" * 16, partitions=5)  # another, meanwhile
    assert d.control.repartition is not None and d.control.repartition.partitions == 3
    d.control_event("generation.started", number=2)
    assert d.control.partitions == 1
    d.control_event("generation.started", number=1)
    assert (d.control.partitions, d.control.log_id.hex(), d.control.own_log) == (3, "07" * 16, d.log_id)
    assert begun(2, 1, "09" * 16)
    d.control_event("generation.called_off", number=2)
    assert d.control.repartition is None


def test_far_offsets_are_told_apart() -> None:
    assert places.stand(places.far(3, 999, 17)) == (3, 999, 17)
    assert places.stand((1 << 44) - 1) is None and places.far(0, 0, -1) == -1
    once = places.far(0, 5, 9)
    assert places.far(1, 2, once) == once  # it stands where it stood
    assert places.far(places.MAX_GENERATION, 1_023, (1 << 44) - 1) < 1 << 63
