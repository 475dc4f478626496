"""Whatever arrives in whatever order: deciding never fails, and the ledger alone gives the same bytes again.

Random inputs (garbage, duplicates, conflicts, receipts out of order, extreme numbers, deadlines, control events) go
through one partition. Then: no decision broke; the rules of `ledger verify` hold; deciding again from the ledger
gives every byte; every fold gives the same state; an input delivered twice changes nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors import snapshot
from sluicegate.processors.agents.orders import waiting_orders
from sluicegate.processors.folding import Folder
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.state import OpenIntent, PartitionState
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import MAX_INTENT_BYTES
from sluicegate.streams.lanes.recovery import fold_record

from tests.driver import AGENT, OTHER_AGENT, Driver, agents, release
from tests.driver import read as read_record

RUNS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

AGENTS = (AGENT, OTHER_AGENT, "nobody", "")
SESSIONS = ("s1", "s2", "", "s\n")
IDS = ("a", "b", "c", "d", "e", "", "x" * 300)
TOOLS = (
    "desk.read",
    "desk.set",
    "desk.look",
    "desk.pay",
    "desk.ask",
    "desk.wire",
    "desk.local",
    "desk.never",
    "no.such",
)
PEOPLE = ("person-2", "person-3", "person-4", "person-5")
LONGS = (0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**62)
ARGUMENTS = (b"{}", b'{"value":"1"}', b'{"value":"no"}', b'{"value":7}', b"[]", b"\xff", b"", b'{"value":"1","value":"2"}',
             b"[" * 100, b'{"value":NaN}', b'{"v\\ud800":1}')  # fmt: skip
RESULTS = (b'{"ok":true}', b"[]", b"nope", b"", None, b'"' + b"x" * 70_000 + b'"')
TOPICS = ("intents", "messages", "reviews", "receipts", "transfers")

pick = st.sampled_from
index = st.integers(0, 30)
jump = pick((0,) * 8 + (1_000, 3_000_000, 3_000_000, 8_000_000))
far_jump = pick((0, 0, 0, 0, 400_000_000, 3_600_000_000, 90_000_000_000))
"""Microseconds that pass before a step."""
age = pick((0, 0, 0, 0, -5_000_000, 86_400_000_000, -86_400_000_001, 86_400_000_001))


@dataclass
class World:
    """A driver, and what a step may refer back to."""

    driver: Driver
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def feed(self, topic: str, record: object, stale: bool = False) -> Decision:
        value = record if isinstance(record, bytes) else codec.encode(record)
        self.sent.append((topic, value))
        return self.driver.feed(topic, value, stale=stale)


Step = tuple[object, ...]

fresh = st.integers(0, 40).map(lambda n: f"id-{n}")
good_call = st.tuples(
    st.just("call"),
    st.just(AGENT),
    st.just("s1"),
    pick(TOOLS[:7]),
    fresh,
    pick(ARGUMENTS[:2]),
    pick((None, None, 10_000_000)),
    st.just(False),
)
good_receipt = st.tuples(
    st.just("receipt"),
    index,
    pick(("claimed", "claimed", "finished", "failed")),
    st.none(),
    st.none(),
    pick(RESULTS[:2]),
    pick(("receipts", "receipts", "intents")),
    pick(("", "timeout")),
)
good_review = st.tuples(st.just("review"), index, pick(("approve",) * 5 + ("reject",)), st.just(True), pick(("person-2", "person-3", "person-4")),
                        pick((None, None, None, *ARGUMENTS[:3])))  # fmt: skip
rare: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("message"), pick(AGENTS[:2]), pick(SESSIONS[:2]), pick(("session.open", "session.open", "session.user_said", "session.close")), pick(IDS), age),
    st.tuples(st.just("call"), pick(AGENTS), pick(SESSIONS), pick(TOOLS), pick(IDS), pick(ARGUMENTS), pick((None, *LONGS)), st.booleans()),
    st.tuples(st.just("asked"), pick(AGENTS), pick(SESSIONS), pick(("session.open", "session.close", "model_call", "")), pick(IDS), age),
    st.tuples(st.just("receipt"), index, pick(("claimed", "finished", "failed", "")), pick((None, *LONGS)), pick((None, *LONGS)), pick(RESULTS), pick(("receipts", "intents")), pick(("", "crashed", "malformed_result", "other"))),
    st.tuples(st.just("review"), index, pick(("approve", "reject", "maybe")), st.booleans(), pick((*PEOPLE, AGENT, "nobody", "")), pick((None, *ARGUMENTS))),
    st.tuples(st.just("person"), pick(PEOPLE), st.booleans()),
    st.tuples(st.just("again"), index),
    st.tuples(st.just("elsewhere"), index, pick(TOPICS)),
    st.tuples(st.just("damaged"), index, st.integers(0, 400), st.integers(0, 255), pick(TOPICS)),
    st.tuples(st.just("garbage"), st.binary(max_size=40), pick(TOPICS)),
    st.tuples(st.just("large"), pick(TOPICS)),
    st.tuples(st.just("deploy"), pick(("1", "2"))),
    st.tuples(st.just("agent"), pick(("active", "suspended"))),
    st.tuples(st.just("skip"), pick(TOPICS)),
    st.tuples(st.just("roll back"), pick(AGENTS[:2]), st.integers(-1, 60), st.booleans(), st.booleans()),
    st.tuples(st.just("restore")),
)  # fmt: skip


@st.composite
def one_step(draw: st.DrawFn) -> tuple[int, Step]:
    """Mostly what makes intents live: `one_of` would give each of its branches the same weight."""
    weight = draw(st.integers(0, 19))
    if weight >= 16:
        return draw(far_jump), draw(rare)
    good = (
        good_call
        if weight < 6
        else good_receipt
        if weight < 13
        else good_review
        if weight < 14
        else st.just(("tick",))
    )
    return draw(jump), draw(good)


# Lists of lists: one long list would be short on average.
plans = st.lists(st.lists(one_step(), max_size=24), max_size=16).map(
    lambda scenes: [s for scene in scenes for s in scene]
)


def play(world: World, step: Step) -> Decision | None:
    """One step."""
    d = world.driver
    match step:
        case ("message", str(agent), str(session), str(kind), str(ident), int(late)):
            return world.feed(
                "messages", r.Message(ident, agent, session, kind, d.now - late, "goal", "user-1")
            )
        case ("call", str(agent), str(session), str(tool), str(ident), bytes(raw), due, bool(stale)):
            absolute = due if not isinstance(due, int) or due in LONGS else d.now + due
            return world.feed(
                "intents", r.Intent(ident, agent, session, "tool_call", tool, raw, d.now, absolute), stale  # type: ignore[arg-type]
            )  # fmt: skip
        case ("asked", str(agent), str(session), str(kind), str(ident), int(late)):
            return world.feed("intents", r.Intent(ident, agent, session, kind, "", b"", d.now - late))
        case ("receipt", int(i), str(kind), attempt, at, result, str(topic), str(error)):
            return world.feed(topic, _receipt(d, i, kind, attempt, at, result, error))
        case ("review", int(i), str(verdict), bool(right), str(person), edit):
            return world.feed("reviews", _review(d, i, verdict, right, person, edit))
        case ("again", int(i)) if world.sent:
            return world.feed(*world.sent[i % len(world.sent)])
        case ("elsewhere", int(i), str(topic)) if world.sent:
            return world.feed(topic, world.sent[i % len(world.sent)][1])
        case ("damaged", int(i), int(at), int(byte), str(topic)) if world.sent:
            value = bytearray(world.sent[i % len(world.sent)][1] or b"-")
            value[at % len(value)] = byte
            return world.feed(topic, bytes(value))
        case ("garbage", bytes(value), str(topic)):
            return world.feed(topic, value)
        case ("large", str(topic)):
            return world.feed(topic, bytes(MAX_INTENT_BYTES + 1))
        case ("tick",):
            d.tick()
        case ("deploy", str(edition)):
            d.deploy(release(edition=edition))
        case ("agent", str(status)):
            row = next(a for a in agents() if a["agent_id"] == OTHER_AGENT)
            d.control_event("agents.registered", agents=[{**row, "status": status}])
        case ("person", str(person), bool(gone)):
            if gone:
                d.control_event("people.removed", people=[person])
            else:
                d.control_event("people.registered", people=[{"person_id": person, "roles": ["treasury"]}])
        case ("skip", str(topic)):
            d.skip(topic)
        case ("roll back", str(agent), int(back), bool(by_time), bool(at_once)):
            cut = max(-1, d.state.seq - 1 - back)
            header = read_record(d.records[max(0, min(cut, len(d.records) - 1))]).header
            to = {"at": header.decided_at} if by_time else {"cut": cut}
            d.control_event("agent.rolled_back", agent_id=agent, why="", **to)
            if at_once:
                d.restore(d.control.head)
        case ("restore",):
            for order in waiting_orders(d.state, d.control):
                d.restore(order.event)
    return None


def _review(d: Driver, i: int, verdict: str, right: bool, person: str, edit: object) -> r.Review:
    """Of a held call, of any other that is open, or of nothing."""
    entries = [e for e in d.state.intents.values() if isinstance(e, OpenIntent)]
    entries = [e for e in entries if e.state == "held"] or entries
    assert edit is None or isinstance(edit, bytes)
    if not entries:
        return r.Review("r", AGENT, "a", verdict, bytes(32), person, d.now, "", "", edit)
    e = entries[i % len(entries)]
    digest = e.action_digest if right else bytes(32)
    return r.Review(
        d.new_id("r"), e.agent_id, e.intent_id, verdict, digest, person, d.now, "", e.hold_release, edit
    )


def _receipt(
    d: Driver, i: int, kind: str, attempt: object, at: object, result: object, error: str
) -> r.Receipt:
    """Of a dispatch, or of a call in process, or of nothing."""
    entries = [e for e in d.state.intents.values() if getattr(e, "dispatch_id", b"")]
    if d.dispatches and (i % 3 or not entries):
        work = d.dispatches[-1 - i % len(d.dispatches)]
        place, tries = (work.dispatch_id, work.intent_id, work.agent_id, work.session_id), work.attempt
    elif entries:
        e = entries[i % len(entries)]
        place, tries = (e.dispatch_id, e.intent_id, e.agent_id, e.session_id), e.attempt  # type: ignore[union-attr]
    else:
        place, tries = (bytes(16), "a", AGENT, "s1"), 1
    when = at if isinstance(at, int) else d.now
    assert result is None or isinstance(result, bytes)
    return r.Receipt(
        *place, kind, attempt if isinstance(attempt, int) else tries, "executor-1", when, when, result, error, "it said"
    )  # fmt: skip


def run(plan: list[tuple[int, Step]]) -> World:
    """A world after a plan, in which a session is open."""
    world = World(Driver())
    world.feed(
        "messages", r.Message("first", AGENT, "s1", "session.open", world.driver.now, "goal", "user-1")
    )
    for wait, step in plan:
        world.driver.now += wait
        play(world, step)
    return world


def failed_machinery(d: Driver) -> list[str]:
    """Decisions that broke inside."""
    reasons = [codec.decode_as(r.Header, codec.decode_as(r.Outcome, x.value).header) for x in d.records]
    return [f"{h.input_topic}/{h.input_offset}" for h in reasons if h.reason == "machinery_failed"]


@RUNS
@given(plans)
def test_deciding_never_fails_and_obeys_every_rule(plan: list[tuple[int, Step]]) -> None:
    d = run(plan).driver
    assert failed_machinery(d) == []
    control = ControlChecker(d.rules, d.control.mac_keys)
    for record in d.control_records:
        control.add(*record)
    assert control.findings.first == {}
    checker = PartitionChecker(0, control.controls, opener=d.keys.open)
    for record in d.records:
        checker.add(*record)
    counts = checker.close()
    assert checker.findings.first == {}
    assert counts["in"] == counts["accounted"]
    for topic, sent in d.inputs.items():  # non-omission: nothing that arrived is missing
        assert checker.input_counts[topic] == len(sent)
        assert checker.input_sums[topic] == sum(sent)


@RUNS
@given(plans)
def test_replay_gives_every_byte_again(plan: list[tuple[int, Step]]) -> None:
    d = run(plan).driver
    again = Rederive(0, d.controls, d.keys.open)
    for record in d.records:
        again.add(*record)
    tally = again.finish()
    assert tally.differences == []
    assert (tally.same, dict(tally.skipped)) == (tally.inputs - 1, {"genesis": 1})
    assert tally.outcomes == len(d.records)
    assert tally.erased == tally.without_bytes == 0
    assert snapshot.encode(again.state) == snapshot.encode(d.state)


@RUNS
@given(plans, st.integers(0, 60))
def test_every_fold_gives_the_same_state(plan: list[tuple[int, Step]], cut: int) -> None:
    """From the first record, and from a snapshot taken anywhere."""
    d = run(plan).driver
    state = PartitionState(b"", 0)
    folder = Folder(state)
    taken: PartitionState | None = None
    for at, record in enumerate(d.records):
        if at == min(cut, len(d.records) - 1):
            taken = snapshot.decode(snapshot.encode(state))
        folder.add(record.value)
        if taken is not None:
            taken = fold_record(taken, record.value)
    assert snapshot.encode(state) == snapshot.encode(d.state)
    assert taken is not None
    assert snapshot.encode(taken) == snapshot.encode(d.state)


def _essence(state: PartitionState) -> bytes:
    """State without what every input moves."""
    bare = copy.deepcopy(state)
    return snapshot.encode(replace(bare, seq=0, prev_hash=bytes(32), positions={}, control_head=0))


@RUNS
@given(plans)
def test_an_input_delivered_twice_changes_nothing(plan: list[tuple[int, Step]]) -> None:
    world = World(Driver())
    d = world.driver
    world.feed("messages", r.Message("first", AGENT, "s1", "session.open", d.now, "goal", "user-1"))
    for wait, step in plan:
        d.now += wait
        d.feed("messages", b"time passes")  # what expires, expires with the next outcome
        if play(world, step) is None:
            continue
        before, sent = _essence(d.state), len(d.dispatches)
        topic, value = world.sent[-1]
        d.now -= 1_000  # the driver's step: the same moment
        again = d.feed(topic, value)
        assert _essence(d.state) == before
        assert len(d.dispatches) == sent
        assert {o.status for o in again.outcomes} <= {"noted", "unreadable", "session_refused", "refused"}
        for outcome in again.outcomes:
            if outcome.status == "refused":  # refused before its id could mean anything
                assert isinstance(outcome.facts, r.IntentFacts)
                assert not outcome.facts.remembered
