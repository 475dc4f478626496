"""An agent goes back to an earlier point: what returns, what does not, and that the ledger alone says so."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors import snapshot
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.agents.fold import AgentFold, Cuts
from sluicegate.processors.agents.orders import AgentOrder
from sluicegate.processors.agents.restore import PIECE_BYTES, SPENT, releases_in
from sluicegate.processors.agents.values import AgentValues, values_of
from sluicegate.processors.control.control import Control, fold
from sluicegate.processors.inputs import Tick
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.pipeline import decide, machinery_failed
from sluicegate.processors.replay.lineage import Lineage, cascade
from sluicegate.processors.sessions.session import Session, Source
from sluicegate.processors.state import SESSION_IDLE_US, OpenIntent, PartitionState, session_key
from sluicegate.processors.verify.reading import split_two
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams.lanes.recovery import fold_record

from tests.driver import AGENT, OTHER_AGENT, SESSION, Driver, Record, read, release
from tests.unit.test_memory import COMPILED
from tests.unit.test_rederive import check
from tests.unit.test_verify import verify


def driver() -> Driver:
    d = Driver()
    d.deploy(COMPILED)
    d.open_session()
    return d


def remember(d: Driver, key: str, value: object, scope: str = "agent", session: str = SESSION) -> Decision:
    return d.call("memory.write", {"scope": scope, "key": key, "value": value}, session=session)


def recall(d: Driver, key: str, scope: str = "agent", session: str = SESSION) -> dict[str, object]:
    d.call("memory.read", {"scope": scope, "key": key}, session=session)
    found: dict[str, object] = orjson.loads(d.replies[-1].result or b"{}")
    return found


def here(d: Driver) -> int:
    """The last seq so far."""
    return d.state.seq - 1


def sound(d: Driver) -> None:
    """The ledger alone gives every byte and the state again, and its rules hold."""
    assert check(d).differences == []
    assert verify(d).checker.findings.first == {}
    state = PartitionState(b"", 0)
    for record in d.records:
        state = fold_record(state, record.value)
    assert snapshot.encode(state) == snapshot.encode(d.state)
    assert snapshot.encode(snapshot.decode(snapshot.encode(state))) == snapshot.encode(state)


# -- what goes back -----------------------------------------------------------------------------------------------------


def test_memory_labels_and_sessions_go_back_and_what_was_spent_does_not() -> None:
    d = driver()
    remember(d, "iban", "DE1")
    remember(d, "note", "mine", "session")
    cut, then = here(d), agent_values.decode(agent_values.encode(values_of(d.state, AGENT)))
    remember(d, "iban", "DE2-poisoned")
    remember(d, "new", 1)
    remember(d, "note", "theirs", "session")
    d.finish(d.call("desk.pay", {"value": "1"}).dispatches[0])
    d.open_session("later")
    remember(d, "x", 2, "session", "later")
    spent = d.state.sessions[session_key(AGENT, SESSION)]
    made = d.roll_back(cut=cut)
    assert [(o.stage, o.status, o.reason) for o in made.outcomes] == [("rollback", "restored", "")]
    now = values_of(d.state, AGENT)
    assert now.mark == then.mark
    assert set(now.sessions) == {SESSION}
    back, was = now.sessions[SESSION], then.sessions[SESSION]
    for name in ("integrity", "confidentiality", "sources", "recent", "idle", "cells"):
        assert getattr(back, name) == getattr(was, name), name
    for name in SPENT:  # INVARIANT: what was spent is not given back
        assert getattr(back, name) == getattr(spent, name), name
    assert recall(d, "iban")["value"] == "DE1"
    assert recall(d, "note", "session")["value"] == "mine"
    assert recall(d, "new")["found"] is False
    assert d.call("desk.read", session="later").outcomes[-1].reason == "unknown_session"
    sound(d)


def test_no_version_ever_names_two_values() -> None:
    d = driver()
    remember(d, "k", "one")
    cut = here(d)
    remember(d, "k", "two")
    d.roll_back(cut=cut)
    assert recall(d, "k") == {"found": True, "value": "one", "version": 3}
    stale = d.call("memory.write", {"scope": "agent", "key": "k", "value": "x", "if_version": 2})
    assert stale.outcomes[-1].reason == "version_conflict"
    sound(d)


def test_who_reads_a_restored_value_followed_from_its_write() -> None:
    d = driver()
    first = remember(d, "k", "one").outcomes[0].origin.intent_id
    cut = here(d)
    second = remember(d, "k", "two").outcomes[0].origin.intent_id
    d.roll_back(cut=cut)
    recall(d, "k")
    reader = d.replies[-1].intent_id
    lineage = Lineage(d.control.agents[AGENT].tenant)
    for record in d.records:
        event = read(record)
        lineage.take(0, record.offset, event.header, event.facts)
    assert [k for _, k in cascade(lineage, (AGENT, first)).calls] == [first, reader]
    assert [k for _, k in cascade(lineage, (AGENT, second)).calls] == [second]


def test_an_untouched_agent_and_other_agents_stay_as_they_are() -> None:
    d = driver()
    d.open_session("other", OTHER_AGENT)
    remember(d, "k", "one")
    before = agent_values.encode(values_of(d.state, OTHER_AGENT))
    mine = agent_values.encode(values_of(d.state, AGENT))
    made = d.roll_back(cut=here(d))
    facts = made.outcomes[0].facts
    assert isinstance(facts, r.RestoreFacts)
    assert (facts.withdrawn, facts.sessions, facts.forgotten, facts.cells) == ([], [], [], [])
    assert agent_values.encode(values_of(d.state, OTHER_AGENT)) == before
    assert agent_values.encode(values_of(d.state, AGENT)) == mine
    sound(d)


def test_by_time_it_is_the_last_record_of_that_moment() -> None:
    d = driver()
    remember(d, "k", "one")
    at = d.now
    remember(d, "k", "two")
    made = d.roll_back(at=at)
    facts = made.outcomes[0].facts
    assert isinstance(facts, r.RestoreFacts)
    assert read(d.records[facts.cut]).header.decided_at == at
    assert read(d.records[facts.cut + 1]).header.decided_at > at
    assert recall(d, "k")["value"] == "one"
    sound(d)


def test_before_everything_nothing_is_left() -> None:
    d = driver()
    remember(d, "k", "one")
    d.roll_back(cut=-1)
    assert values_of(d.state, AGENT) == AgentValues()
    sound(d)


def test_what_was_closed_from_outside_stays_closed() -> None:
    d = driver()
    cut = here(d)
    d.close_session()
    d.roll_back(cut=cut)
    assert values_of(d.state, AGENT).sessions == {}
    sound(d)


def test_a_session_opened_again_under_its_id_is_another_one() -> None:
    d = driver()
    cut = here(d)
    d.close_session()
    d.open_session()
    d.roll_back(cut=cut)
    assert values_of(d.state, AGENT).sessions == {}
    sound(d)


# -- calls ----------------------------------------------------------------------------------------------------------------


def test_a_call_in_flight_ends_and_its_result_is_not_released() -> None:
    d = driver()
    cut = here(d)
    flying = d.call("desk.pay", {"value": "1"}).dispatches[0]
    d.claim(flying)
    d.roll_back(cut=cut)
    before = agent_values.encode(values_of(d.state, AGENT))
    ended = d.receipt(flying, "finished", result=b'{"ok":true}')
    assert (ended.outcomes[0].status, ended.outcomes[0].reason) == ("withheld", "rolled_back")
    assert ended.replies[0].result is None
    assert agent_values.encode(values_of(d.state, AGENT)) == before
    sound(d)


def test_an_offer_nobody_took_is_not_made_again() -> None:
    d = driver()
    d.call("desk.set", {"value": "1"})
    d.roll_back(cut=here(d))
    made = d.tick(60_000_000)
    assert (made.outcomes[0].status, made.outcomes[0].reason) == ("expired", "rolled_back")
    assert made.dispatches == []
    sound(d)


def test_a_held_call_is_voided_and_no_review_moves_it() -> None:
    d = driver()
    held = d.call("desk.ask", {"value": "1"})
    d.roll_back(cut=here(d))
    assert d.review(held).outcomes[0].reason == "review_late"
    made = d.tick()
    assert (made.outcomes[0].status, made.outcomes[0].reason) == ("voided", "rolled_back")
    assert d.state.open_count == 0
    sound(d)


def test_a_held_call_of_a_withdrawn_session_is_voided() -> None:
    d = driver()
    cut = here(d)
    d.open_session("later")
    d.call("desk.ask", {"value": "1"}, session="later")
    d.roll_back(cut=cut)
    assert session_key(AGENT, "later") in d.state.parked
    assert d.tick().outcomes[0].status == "voided"
    assert d.state.parked == {}
    sound(d)


def test_a_call_in_doubt_is_settled_and_nothing_of_it_is_released() -> None:
    d = driver()
    flying = d.call("desk.pay", {"value": "1"}).dispatches[0]
    d.claim(flying)
    d.tick(60_000_000)
    d.roll_back(cut=here(d))
    before = agent_values.encode(values_of(d.state, AGENT))
    said = r.Resolution("x", AGENT, flying.intent_id, "happened", "person-2", d.now, "", b'{"ok":true}')
    made = d.feed("reviews", said)
    assert made.outcomes[0].status == "resolved"
    assert made.replies[0].result is None
    assert agent_values.encode(values_of(d.state, AGENT)) == before
    sound(d)


def test_ids_that_tell_duplicates_stay() -> None:
    d = driver()
    cut = here(d)
    intent = d.intent("desk.read", {"value": "1"})
    d.finish(d.feed("intents", intent).dispatches[0])
    d.roll_back(cut=cut)
    assert d.feed("intents", intent).outcomes[0].reason == "duplicate"
    sound(d)


# -- from the order to its outcome ----------------------------------------------------------------------------------------


def test_from_the_order_on_nothing_new_is_permitted() -> None:
    d = driver()
    held = d.call("desk.ask", {"value": "1"})
    cut = here(d)
    order = d.control_event("agent.rolled_back", agent_id=AGENT, cut=cut, why="")
    assert d.call("desk.read").outcomes[-1].reason == "rolling_back"
    assert d.open_session("more").outcomes[-1].reason == "rolling_back"
    assert d.hand_off(OTHER_AGENT, "theirs").outcomes[-1].reason == "rolling_back"
    assert d.review(held).outcomes[-1].reason == "rolled_back"
    d.open_session("other", OTHER_AGENT)
    assert d.call("desk.read", agent=OTHER_AGENT, session="other").outcomes[-1].status == "dispatched"
    d.restore(order.head)
    assert d.call("desk.read").outcomes[-1].status == "dispatched"
    sound(d)


def test_an_order_is_taken_in_once_and_the_last_one_counts() -> None:
    d = driver()
    remember(d, "k", "one")
    first = here(d)
    remember(d, "k", "two")
    second = here(d)
    remember(d, "k", "three")
    d.control_event("agent.rolled_back", agent_id=AGENT, cut=first, why="")
    d.control_event("agent.rolled_back", agent_id=AGENT, cut=second, why="")
    assert d.restore(d.control.head - 1).outcomes == []
    assert len(d.restore(d.control.head).outcomes) == 1
    assert d.restore(d.control.head).outcomes == []
    assert recall(d, "k")["value"] == "two"
    sound(d)


@pytest.mark.parametrize("to", [{"cut": 10_000}, {"at": 1 << 52}])
def test_a_cut_that_is_not_past_changes_nothing(to: dict[str, int]) -> None:
    d = driver()
    before = agent_values.encode(values_of(d.state, AGENT))
    made = d.roll_back(**to)
    assert [(o.status, o.reason) for o in made.outcomes] == [("restored", "bad_cut")]
    assert agent_values.encode(values_of(d.state, AGENT)) == before
    assert d.call("desk.read").outcomes[-1].status == "dispatched"
    sound(d)


@pytest.mark.parametrize(
    "body",
    [{}, {"agent_id": AGENT}, {"agent_id": AGENT, "at": 1, "cut": 1}, {"agent_id": AGENT, "cut": "1"},
     {"agent_id": AGENT, "at": True}, {"agent_id": 7, "cut": 1}, {"agent_id": "", "cut": 1}],
)  # fmt: skip
def test_an_order_of_another_form_changes_nothing(body: dict[str, object]) -> None:
    facts = r.ControlFacts("agent.rolled_back", "operator", "", orjson.dumps(body))
    assert fold(Control(), 0, facts).agent_orders == {}


def test_broken_machinery_does_not_bring_the_order_back_for_ever() -> None:
    d = driver()
    order = d.control_event("agent.rolled_back", agent_id=AGENT, cut=0, why="")
    made = machinery_failed(d.state, d.control, Tick(0, d.now, order=order.head), d.now, "Boom")
    d._fold(made)
    assert made.outcomes[0].reason == "machinery_failed"
    assert d.call("desk.read").outcomes[-1].status == "dispatched"


# -- taking it back -------------------------------------------------------------------------------------------------------


def test_a_rollback_is_taken_back() -> None:
    d = driver()
    remember(d, "k", "one")
    cut = here(d)
    remember(d, "k", "two")
    d.open_session("later")
    remember(d, "mine", "kept", "session", "later")
    d.close_session("later")
    d.open_session("latest")
    remember(d, "mine", "kept", "session", "latest")
    before = here(d)
    d.roll_back(cut=cut)
    order = d.control.head
    assert set(values_of(d.state, AGENT).sessions) == {SESSION}
    d.roll_back(cut=before, undoes=order)
    assert set(values_of(d.state, AGENT).sessions) == {SESSION, "latest"}
    assert recall(d, "k")["value"] == "two"
    assert recall(d, "mine", "session", "latest")["value"] == "kept"
    sound(d)


def test_the_releases_of_sessions_that_come_back_are_known_before() -> None:
    """No session of the state stands on them meanwhile, so a lane that begins then has not loaded them."""
    d = driver()
    cut = here(d)
    old = d.control.deployed
    d.open_session("later")
    before = here(d)
    d.roll_back(cut=cut)
    d.close_session()
    d.deploy(release(edition="two"))
    assert old not in d.state.sessions.releases()
    fold, cuts = AgentFold(0, AGENT), Cuts([AgentOrder(AGENT, 0, None, before)], 0, 1)
    for record in d.records:
        fold.add(*split_two(record.value), cuts)
    assert releases_in(cuts.values[0]) == {old}


def test_a_session_id_that_was_withdrawn_may_be_opened_anew() -> None:
    d = driver()
    cut = here(d)
    d.open_session("later")
    before = here(d)
    d.roll_back(cut=cut)
    assert d.open_session("later").outcomes[0].status == "opened"
    d.roll_back(cut=before)
    assert set(values_of(d.state, AGENT).sessions) == {
        SESSION
    }  # the new one was opened since, the old one is gone
    sound(d)


# -- the ledger says so ---------------------------------------------------------------------------------------------------


def test_verify_finds_a_value_that_was_put_into_a_rollback() -> None:
    d = driver()
    remember(d, "k", "one")
    cut = here(d)
    remember(d, "k", "two")
    order = d.control_event("agent.rolled_back", agent_id=AGENT, cut=cut, why="")
    values = values_of(d.state, AGENT)  # those of now, for those of then
    d.now += 1_000
    tick = Tick(0, d.now, order=order.head)
    tick.contents["rollback", order.head] = agent_values.dump({"cut": cut, **agent_values.as_plain(values)})
    d._fold(decide(d.state, d.control, tick, d.now))
    assert "rollback" in verify(d).checker.findings.first
    assert check(d).different == 1


def test_damage_in_an_agents_records_is_told_and_does_not_end_verify() -> None:
    d = driver()
    remember(d, "k", "one")
    cut = here(d)
    d.roll_back(cut=cut)
    _, facts = split_two(d.records[2].value)
    broken = d.records[2].value.replace(facts, facts[:-1] + bytes([facts[-1] ^ 1]))
    d.records[2] = Record(d.records[2].offset, broken)
    assert "facts_hash" in verify(d).checker.findings.first


def test_verify_finds_a_rollback_nobody_ordered() -> None:
    d = driver()
    d.roll_back(cut=here(d))
    liar = d.control_records
    d.control_records = [x for x in liar if not ordered(x)]
    assert "rollback" in verify(d).checker.findings.first


def ordered(record: Record) -> bool:
    facts = read(record).facts
    return isinstance(facts, r.ControlFacts) and facts.kind == "agent.rolled_back"


def test_large_values_are_several_outcomes_of_one_input() -> None:
    d = driver()
    for n in range(3):
        name = session_key(AGENT, f"big-{n}")
        sources = tuple(Source(bytes([n]) * 16, "user", "messages", at, "t" * 2_000) for at in range(120))
        d.state.sessions[name] = Session(
            AGENT, f"big-{n}", "p", "p", "channel", d.now, d.now, opened_by=bytes([n]) * 16, sources=sources
        )
    then = values_of(d.state, AGENT)
    raw = agent_values.dump({"cut": 0, **agent_values.as_plain(then)})
    for session in d.state.sessions.values():
        session.sources = ()
    order = d.control_event("agent.rolled_back", agent_id=AGENT, cut=0, why="")
    tick = Tick(0, d.now, order=order.head)
    tick.contents["rollback", order.head] = raw
    made = d._fold(decide(d.state, d.control, tick, d.now))
    assert [o.facts.pieces for o in made.outcomes if isinstance(o.facts, r.RestoreFacts)] == [3, 3, 3]
    assert max(len(codec.encode(o.facts)) for o in made.outcomes) < 2 * PIECE_BYTES
    assert all(len(s.sources) == 120 for n, s in d.state.sessions.items() if "big" in n)


# -- one agent's fold -----------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(("write", "forget", "open", "close", "pay", "claim", "finish", "say", "ask", "back", "tick")),
        st.sampled_from((AGENT, OTHER_AGENT)),
        st.sampled_from(("s1", "s2")),
        st.integers(0, 30),
        st.sampled_from((0, 0, 0, 0, 3_000_000, 3_600_000_000, 40_000_000_000, 90_000_000_000)),
    ),
    max_size=60,
)  # fmt: skip


def play(steps_: list[tuple[str, str, str, int, int]]) -> Driver:
    d = driver()
    for what, agent, session, n, wait in steps_:
        d.now += wait
        if what in ("write", "forget"):
            arguments: dict[str, object] = {"scope": "agent" if n % 2 else "session", "key": f"k{n % 3}"}
            more = {"value": n} if what == "write" else {}
            d.call(f"memory.{what}", {**arguments, **more}, session=session, agent=agent)
        elif what == "open":
            d.open_session(session, agent)
        elif what == "close":
            d.close_session(session, agent)
        elif what in ("pay", "ask"):
            d.call(f"desk.{what}", {"value": str(n)}, session=session, agent=agent)
        elif what in ("claim", "finish") and d.dispatches:
            given = d.dispatches[n % len(d.dispatches)]
            d.receipt(given, "claimed" if what == "claim" else "finished", result=b'{"ok":true}')
        elif what == "say":
            d.say("please", session, agent)
        elif what == "back":
            d.roll_back(agent, cut=max(-1, here(d) - n))
        else:
            d.tick()
    return d


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_one_agents_fold_is_its_part_of_the_whole_fold(steps_: list[tuple[str, str, str, int, int]]) -> None:
    d = play(steps_)
    folds = {agent: AgentFold(0, agent) for agent in (AGENT, OTHER_AGENT)}
    whole = PartitionState(b"", 0)
    for record in d.records:
        fold_record(whole, record.value)
        for agent, one in folds.items():
            one.add(*split_two(record.value))
            assert agent_values.encode(one.values()) == agent_values.encode(values_of(whole, agent))
    sound(d)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.integers(0, 200))
def test_the_restored_state_is_the_fold_at_the_cut_but_for_what_does_not_go_back(
    steps_: list[tuple[str, str, str, int, int]], back: int
) -> None:
    d = play(steps_)
    cut = max(0, here(d) - back)
    whole = PartitionState(b"", 0)
    for record in d.records[: cut + 1]:
        fold_record(whole, record.value)
    then, before = values_of(whole, AGENT), values_of(d.state, AGENT)
    d.roll_back(cut=cut)
    now = values_of(d.state, AGENT)
    assert now.mark == then.mark
    assert now.sessions.keys() <= then.sessions.keys()
    for name, one in then.sessions.items():
        known = before.sessions.get(name)
        if known is not None and known.opened_by == one.opened_by:
            back_ = now.sessions.get(name)
            if (
                back_ is None
            ):  # nobody used it for a day by then: the hour's sweep closed it with the order's own outcome
                assert known.last_at < d.state.now - SESSION_IDLE_US
                continue
            for field in Session.__dataclass_fields__:
                expected = known if field in SPENT else one
                assert getattr(back_, field) == getattr(expected, field), field
    own = {key for one in then.sessions.values() for key in one.cells}
    for key, cell in then.cells.items():
        if key not in own:
            assert now.cells[key].value_digest == cell.value_digest
    assert all(key in then.cells for key in now.cells)
    assert all(e.withdrawn for e in d.state.intents.values() if type(e) is OpenIntent and e.agent_id == AGENT)
    sound(d)
