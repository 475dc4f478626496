"""Replay's modes without Kafka: windows, selections, rates, position files, copies, and what a replay is made of."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from sluicegate import processors
from sluicegate.processors.replay import counterfactual, diff, rederive, reproduce
from sluicegate.processors.replay.copies import Copied, Target, anew, copied, refusal
from sluicegate.processors.replay.recorded import Event
from sluicegate.processors.replay.rederive import Rederive, Tally
from sluicegate.processors.replay.selection import Selection
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.topics import TOPICS
from sluicegate.streams import scan
from sluicegate.streams.inspect import access, find, named
from sluicegate.streams.pace import Pace
from sluicegate.streams.replay import copying, window
from sluicegate.streams.replay import replay as replay_module
from sluicegate.streams.replay import reproduce as reproduce_module
from sluicegate.streams.replay.copying import Copier, Told
from sluicegate.streams.replay.position_file import PositionFile
from sluicegate.streams.replay.window import Window, check_offsets, check_times
from sluicegate.streams.scan import Stretch

from tests.driver import AGENT, T0, Driver, read


@pytest.fixture(scope="module")
def driver() -> Driver:
    """A ledger with a bit of everything."""
    made = Driver()
    made.everyday(2)
    return made


def compared(driver: Driver, only: Selection) -> tuple[Tally, set[str]]:
    """The tally of a check of these, and their intents."""
    seen: set[str] = set()

    def chosen(group: list[Event]) -> bool:
        held = only.holds(group)
        seen.update(e.header.intent_id for e in group if held)
        return held

    again = Rederive(driver.partition, driver.controls, driver.keys.open, chosen)
    for record in driver.records:
        again.add(*record)
    return again.finish(), seen - {""}


def test_a_tool_is_followed_to_claims_and_receipts(driver: Driver) -> None:
    events = [read(record) for record in driver.records]
    mine = {
        e.header.intent_id
        for e in events
        if isinstance(e.facts, r.IntentFacts) and e.facts.tool == "desk.pay"
    }
    inputs = {(e.header.input_topic, e.header.input_offset) for e in events if e.header.intent_id in mine}
    tally, seen = compared(driver, Selection(tool="desk.pay"))
    assert (seen, tally.different) == (mine, 0)
    assert tally.same == len(inputs) > len(mine)


@pytest.mark.parametrize(
    ("only", "field", "value"),
    [
        (Selection(session="s-1"), "session_id", "s-1"),
        (Selection(agent=AGENT), "agent_id", AGENT),
        (Selection(reason="forbidden"), "reason", "forbidden"),
    ],
)
def test_a_field_that_is_asked_for(driver: Driver, only: Selection, field: str, value: str) -> None:
    events = [read(record) for record in driver.records]
    inputs = {
        (e.header.input_topic, e.header.input_offset) for e in events if getattr(e.header, field) == value
    }
    tally, _ = compared(driver, only)
    assert tally.same == len(inputs) > 0


def test_all_that_is_named_has_to_fit(driver: Driver) -> None:
    assert compared(driver, Selection(tool="desk.pay", reason="forbidden"))[0].same > 0
    assert compared(driver, Selection(tool="desk.read", reason="forbidden"))[0].same == 0
    release = read(driver.records[-1]).header.release
    assert compared(driver, Selection(release=release[:20]))[0].same > 0
    assert compared(driver, Selection(release="sha256:00"))[0].same == 0


def test_a_window_without_any_input_that_fits_says_so(driver: Driver) -> None:
    """Not "0 inputs decided the same", which reads as if all were well."""
    ghost, mine = Selection(agent="ghost", tool="desk.pay"), Selection(agent=AGENT)
    told = [
        replay_module.Replayed(partitions={0: compared(driver, only)[0]}, nothing=only.nothing)
        for only in (ghost, mine)
    ]
    said = "no input of the window is of agent `ghost` and tool `desk.pay`"
    assert told[0].verdict == told[0].as_json()["verdict"] == said and told[0].ok
    assert told[1].verdict.endswith(" inputs decided the same") and told[1].total("same") > 0
    assert replay_module.Diffed("sha256:x", nothing=ghost.nothing).verdict == said
    assert replay_module.Replayed().verdict == "no input is in the window"
    assert ghost.as_dict() == {
        "agent": "ghost",
        "tool": "desk.pay",
        "session": "",
        "release": "",
        "reason": "",
    }


def test_records_of_other_topics_are_looked_at_by_themselves() -> None:
    intent = r.Intent("i", "a", "s", "tool_call", "t", b"{}", 1)
    assert Selection(agent="a", tool="t", session="s").record(intent)
    assert not Selection(tool="other").record(intent)
    assert not Selection(tool="t").record(r.Message("m", "a", "s", "session.open", 1))
    assert Selection().record(None)


# -- windows ----------------------------------------------------------------------------------------------------------


def test_times_that_nothing_can_be_in() -> None:
    check_times(Window(since=T0, until=T0), T0)
    for one, said in (
        (Window(since=T0 + 1_000_000), "in the future"),
        (Window(since=T0, until=T0 - 1_000_000), "before it begins"),
        (Window(first={1: 9}, last={1: 8}), "ends at 8, before it begins at 9"),
    ):
        with pytest.raises(Terminal, match=said):
            check_times(one, T0)


def test_offsets_that_are_gone_or_not_there_yet() -> None:
    found = [Stretch(TopicPartition("t.outcomes", 2), 7, 20)]
    for first in (7, 20):
        check_offsets(Window(first={2: first}), found, removed=True)
    with pytest.raises(
        Terminal, match=r"begins at offset 7, .* gone by its retention: use --from-offset 2:7"
    ):
        check_offsets(Window(first={2: 6}), found, removed=True)
    check_offsets(Window(first={2: 6}), found, removed=False)
    check_offsets(Window(first={2: 6}), found, removed=True, at={2: 9})  # a run that is past it goes on
    with pytest.raises(Terminal, match="begins at offset 7"):
        check_offsets(Window(first={2: 5}), found, removed=True, at={2: 6})
    with pytest.raises(Terminal, match="`2:21` is not there yet"):
        check_offsets(Window(first={2: 21}), found, removed=False)


# -- pace and position ------------------------------------------------------------------------------------------------


def test_a_rate_is_kept_from_the_start() -> None:
    now, slept = [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(100.0, lambda: now[0], sleep)
    assert (pace.batch(500), Pace(1.0).batch(500), Pace(0.0).batch(500)) == (10, 1, 500)
    for _ in range(5):
        asyncio.run(pace.did(10))
    assert now[0] == pytest.approx(0.5)
    now[0] += 10  # a slow target: nothing is owed
    asyncio.run(pace.did(10))
    assert len(slept) == 5
    asyncio.run(Pace(0.0, lambda: now[0], sleep).did(1_000_000))
    assert len(slept) == 5


def test_a_position_file_belongs_to_one_question(tmp_path: Path) -> None:
    path = tmp_path / "at.json"
    first = PositionFile(path, {"topic": "intents", "only": {"agent": ""}})
    first.at, first.counts = {0: 17, 2: 3}, {"copied": 20}
    first.save()
    again = PositionFile(path, {"only": {"agent": ""}, "topic": "intents"})
    assert (again.at, again.counts) == ({0: 17, 2: 3}, {"copied": 20})
    with pytest.raises(Terminal, match=r"another replay \(topic\)"):
        PositionFile(path, {"topic": "messages", "only": {"agent": ""}})
    for text in ("", "[]", '{"v": 1}', '{"v": 1, "question": {}, "at": {"x": 1}, "counts": {}}'):
        path.write_text(text)
        with pytest.raises(Terminal, match="is no position file"):
            PositionFile(path, {})
    PositionFile(None, {}).save()


def test_a_check_that_goes_on_knows_what_was_found_before(driver: Driver) -> None:
    whole = Rederive(driver.partition, driver.controls, driver.keys.open)
    first = Rederive(driver.partition, driver.controls, driver.keys.open)
    for index, record in enumerate(driver.records):
        whole.add(*record)
        if index <= 40:
            first.add(*record)
    at = first.pending
    rest = Rederive(
        driver.partition, driver.controls, driver.keys.open, replay_module._chosen(Window(), Selection(), at)
    )
    for record in driver.records:
        rest.add(*record)
    assert first.tally.same + rest.finish().same == whole.finish().same
    assert rest.pending == driver.records[-1].offset + 1


# -- copies -----------------------------------------------------------------------------------------------------------


class Memory:
    """An outlet that dies after so many writes."""

    def __init__(self, writes: int = 1_000_000) -> None:
        self.left, self.written = writes, []  # type: ignore[var-annotated]

    async def write(self, partition: int, records: Sequence[Copied]) -> None:
        if not self.left:
            raise ConnectionError
        self.left -= 1
        self.written += [(partition, record) for record in records]


def record(offset: int, value: bytes, at_ms: int = T0 // 1000) -> ConsumerRecord:  # type: ignore[type-arg]
    return ConsumerRecord(
        "t.intents", 1, offset, at_ms, 0, b"a", value, None, 1, len(value), [("ce_id", b"old"), ("x", b"y")]
    )  # type: ignore[call-arg]


def copier(
    outlet: Memory,
    position: PositionFile,
    target: Target,
    only: Selection | None = None,
    one: Window | None = None,
) -> Copier:
    return Copier(
        "t", "intents", target, one or Window("intents"), only or Selection(), outlet, position, Pace(0.0),
        Told("t.intents", target.full), lambda: T0,
    )  # fmt: skip


MINE = Target("t", "mine", "t.intents", False)
STAGING = Target("staging", "intents", "t.intents", True)


def test_a_copy_is_the_same_bytes_and_says_of_what() -> None:
    intents = [
        codec.encode(r.Intent(f"i{n}", "a", "s", "tool_call", "t" if n % 2 else "u", b"{}", T0))
        for n in range(4)
    ]
    out = Memory()
    made = copier(out, PositionFile(None, {}), MINE, Selection(tool="t"))
    asyncio.run(made.take(1, [*(record(n, v) for n, v in enumerate(intents)), record(4, b"garbage")]))
    assert [(p, c.key, c.value) for p, c in out.written] == [(1, b"a", intents[1]), (1, b"a", intents[3])]
    headers = dict(out.written[0][1].headers)
    assert (headers["replay_of"], headers["x"]) == (b"t.intents/1/1", b"y")
    assert headers["ce_id"] != b"old"
    assert (made.told.copied, made.told.left_out, made.told.unreadable) == (2, 2, 1)
    everything = copier(Memory(), PositionFile(None, {}), MINE)
    asyncio.run(everything.take(1, [record(4, b"garbage")]))
    assert everything.told.copied == 1  # bytes are bytes, where nothing is asked of them


def test_a_copy_that_was_ended_goes_on_without_a_hole(tmp_path: Path) -> None:
    intents = [codec.encode(r.Intent(f"i{n}", "a", "s", "tool_call", "t", b"{}", T0)) for n in range(1_800)]
    records = [record(3 * n, v) for n, v in enumerate(intents)]  # offsets have holes
    path = tmp_path / "at.json"
    first = Memory(writes=2)
    with pytest.raises(ConnectionError):
        asyncio.run(copier(first, PositionFile(path, {}), MINE).take(1, records))
    position = PositionFile(path, {})
    second = Memory()
    asyncio.run(copier(second, position, MINE).take(1, [x for x in records if x.offset >= position.at[1]]))
    assert [c.value for _, c in first.written + second.written] == intents
    assert position.counts == {"copied": 1_800}


def test_a_copy_does_not_go_on_over_what_retention_removed_since(tmp_path: Path) -> None:
    """INVARIANT: a copy that was ended never goes on with a hole in it."""
    position = PositionFile(None, {})
    position.at = {1: 4}
    made = copier(Memory(), position, MINE)
    place = TopicPartition("t.intents", 1)
    with pytest.raises(
        Terminal, match=r"begins at 9 by now, the position file is at 4: .* start anew without --resume"
    ):
        asyncio.run(copying._all(None, made, [Stretch(place, 9, 20)], {1: 9}, None))  # type: ignore[arg-type]
    assert not made.told.copied


def test_a_window_by_time_is_of_kafkas_times() -> None:
    out = Memory()
    one = Window("intents", since=T0, until=T0 + 1_000)
    made = copier(out, PositionFile(None, {}), MINE, one=one)
    asyncio.run(made.take(1, [record(n, b"x", T0 // 1000 + n - 1) for n in range(4)]))
    assert [dict(c.headers)["replay_of"] for _, c in out.written] == [b"t.intents/1/1", b"t.intents/1/2"]


def test_a_request_is_asked_anew_with_ids_that_still_belong_together() -> None:
    intent = r.Intent("i", "a", "s", "tool_call", "t", b"{}", T0, T0 + 5)
    review = r.Review("v", "a", "i", "approve", b"d" * 32, "p", T0)
    message = r.Message("m", "a", "s", "session.open", T0)
    signed = codec.encode(r.Envelope("k", "Ed25519", "t/intents", T0, T0, codec.encode(intent), b"s"))
    one, two, three, four = (
        codec.decode(anew(v, STAGING, T0 + 100))
        for v in (codec.encode(intent), signed, codec.encode(review), codec.encode(message))
    )
    assert isinstance(one, r.Intent) and isinstance(three, r.Review) and isinstance(four, r.Message)
    assert one == two and one.intent_id == three.intent_id != "i" and one.session_id == four.session_id != "s"
    assert (one.issued_at, one.deadline_at, one.arguments) == (T0 + 100, T0 + 105, b"{}")
    other = codec.decode(anew(codec.encode(intent), replace(STAGING, name="again"), T0))
    assert isinstance(other, r.Intent) and other.intent_id != one.intent_id
    with pytest.raises(Unreadable, match="not asked anew"):
        anew(codec.encode(r.Resolution("x", "a", "i", "executed", "p", T0)), STAGING, T0)
    assert copied(None, b"x", [], "o", MINE, T0).value == b"x"


def test_what_may_not_be_a_target() -> None:
    assert refusal("t", "outcomes", "t", "mine") == ""
    assert refusal("t", "intents", "u", "intents") == ""
    assert "into itself" in refusal("t", "mine", "t", "mine")
    for topic in TOPICS:
        assert "another environment" in refusal("t", "x", "t", topic.name) or topic.name == "x"
        if topic.name not in ("intents", "messages", "reviews"):
            assert "one writer" in refusal("t", topic.name, "u", topic.name)
    assert "like into like" in refusal("t", "messages", "u", "intents")


# -- what a replay is made of -----------------------------------------------------------------------------------------

WORKERS = (rederive.Rederive, reproduce.Reproduce, diff.Diff, counterfactual.Without)
MODULES = (
    replay_module,
    reproduce_module,
    access,
    named,
    find,
    scan,
    window,
    rederive,
    reproduce,
    diff,
    counterfactual,
)


def _names() -> dict[str, object]:
    """What modules import for types only."""
    found: dict[str, object] = {}
    for module in pkgutil.walk_packages(processors.__path__, "sluicegate.processors."):
        found |= vars(importlib.import_module(module.name))
    return found


NAMES = _names()


def _reached(kind: object, found: set[type]) -> None:
    """Every class that a type's parts and its fields lead to."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is not None:
        for part in typing.get_args(kind):
            for one in part if isinstance(part, list) else [part]:
                _reached(one, found)
        return
    if isinstance(kind, type) and kind not in found:
        found.add(kind)
        if kind.__module__.startswith("sluicegate."):
            for one in typing.get_type_hints(kind, localns=NAMES).values():
                _reached(one, found)


@pytest.mark.parametrize("worker", WORKERS)
def test_by_its_types_a_replay_worker_reaches_no_executor_and_no_credential(worker: type) -> None:
    found: set[type] = set()
    for name, kind in typing.get_type_hints(worker.__init__, localns=NAMES).items():
        if name != "return":
            _reached(kind, found)
    assert rederive.Control in found  # it looks inside
    ours = ("builtins", "sluicegate.processors", "sluicegate.schemas", "collections")
    others = {f"{k.__module__}.{k.__name__}" for k in found if not k.__module__.startswith(ours)}
    assert others == {"cedarpy.Entities", "jsonschema_rs.Validator", "string.Template"}


def test_a_worker_with_an_executor_would_be_seen() -> None:
    from sluicegate.executors.adapter import Adapter

    class Bad:
        adapter: Adapter

    found: set[type] = set()
    Bad.__module__ = "sluicegate.bad"
    _reached(
        Bad.__annotations__["adapter"] if not isinstance(Bad.__annotations__["adapter"], str) else Adapter,
        found,
    )
    assert Adapter in found


def test_modules_that_replay_name_nothing_that_sends_seals_or_signs() -> None:
    forbidden = {
        "producer",
        "send",
        "send_and_wait",
        "Transaction",
        "append",
        "seal_content",
        "AIOKafkaProducer",
        "sign",
        "PrivateKey",
        "Keys",
        "Executor",
        "dispatcher",
    }
    for module in MODULES:
        tree = ast.parse(inspect.getsource(module))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        of_modules = {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name)
            and n.value.id in ("kafka", "control_log", "signing", "keys", "key_files")
        }
        assert not (names | of_modules) & forbidden, module.__name__


def test_no_executor_is_loaded_by_what_replays() -> None:
    code = (
        "import sys, importlib;"
        "[importlib.import_module('sluicegate.streams.'+m) for m in ('replay.replay','replay.reproduce','replay.copying','inspect.access','inspect.named')];"
        "print(*[n for n in sys.modules if n.startswith(('sluicegate.executors','httpx','sluicegate.gateway'))], end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
