"""Rebuild from Kafka and from ClickHouse, an agent rolled back and back again, on a real broker and a real chDB.

One gate of two partitions: its traffic is projected, folded anew from both stores and held against the live state; an
agent goes back to before a poisoned memory value with a call in flight, and that is undone; a poisoned page and a wrong
approval are left out, and what follows is found on the other partition, too; a row of ClickHouse is changed by hand, and
the first event that differs is named. At the end its log goes on with three partitions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import Result
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.processors import snapshot
from sluicegate.schemas import codec
from sluicegate.schemas.records import Dispatch, HoldFacts, Intent, Reply, Review
from sluicegate.schemas.topics import partition_of
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse, database
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.evidence import verify as evidence_verify
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.rebuild import live_state
from sluicegate.streams.replay import replay
from sluicegate.streams.replay.replay import Window
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.checkpointer import Checkpointer
from sluicegate.streams.verify.ledger import verify
from typer.testing import CliRunner

from tests.driver import AGENT, PEOPLE, PERSON, release_files
from tests.integration.gate import (
    RESULT,
    Gate,
    Loop,
    gate,
    head_key,
    intent,
    new_id,
    new_settings,
    now_us,
    running,
    until,
)
from tests.unit.test_labels import MAIL
from tests.unit.test_shared_memory import FILES, SCOPE

_PAY = release_files()["contracts/desk.pay.json"]
SLOW = {"contracts/desk.pay.json": _PAY.replace('"timeout_ms": 2000', '"timeout_ms": 60000')}
"""A call that stays in flight while commands run."""
assert SLOW["contracts/desk.pay.json"] != _PAY


@dataclass
class Stand:
    """What runs."""

    loop: Loop
    gate: Gate
    server: EmbeddedClickHouse
    projector: Projector
    hold: asyncio.Event

    @property
    def settings(self) -> Settings:
        return self.gate.settings

    def cli(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        """Run a command; its output."""
        found: Result = CliRunner().invoke(app, list(words), env=env)
        assert found.exit_code == code, (words, found.output, found.exception)
        return found.output

    def rebuilt(self, *words: str, code: int = 0) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.cli("rebuild", *words, "-o", "json", code=code))
        return found

    def ask(self, tool: str, arguments: dict[str, object], agent: str = AGENT) -> dict[str, object]:
        reply = self.loop.run(self.gate.ask(intent(tool, arguments, agent=agent)))
        assert reply.status == "released", reply
        found: dict[str, object] = json.loads(reply.result or b"{}")
        return found

    def remember(self, value: object, agent: str = AGENT) -> None:
        self.ask("memory.write", {"scope": "agent", "key": "iban", "value": value}, agent)

    def recall(self) -> object:
        return self.ask("memory.read", {"scope": "agent", "key": "iban"}).get("value")

    def caught_up(self) -> None:
        """ClickHouse has what the ledger has."""

        def events() -> int:
            query = f"SELECT count(DISTINCT seq) FROM `{database(self.settings)}`.events WHERE src_topic = 'outcomes' GROUP BY src_partition"
            rows = self.server.connect("reader").query(query).result_rows
            return sum(int(row[0]) for row in rows)

        def there() -> bool:
            return events() >= sum(lane.state.seq for lane in self.gate.service.lanes.values())

        asyncio.run(until(there, "the sink caught up"))

    def digests(self) -> dict[int, str]:
        """Of the live state, by partition."""
        rows = self.loop.run(live_state.states_of(self.gate.service.lanes.values()))
        return {int(str(row["partition"])): str(row["digest"]) for row in rows}


@contextlib.asynccontextmanager
async def projecting(settings: Settings, connect: Callable[[], object]) -> AsyncIterator[Projector]:
    stop = asyncio.Event()
    projector = Projector(settings, str(settings.kafka), connect, None)  # type: ignore[arg-type]
    task = asyncio.create_task(projector.run(stop))
    try:
        yield projector
    finally:
        stop.set()
        await task


@pytest.fixture(scope="module")
def stand(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A gate with tools to remember, its projector and its ClickHouse."""
    home: Path = tmp_path_factory.mktemp("rebuild")
    settings = new_settings(kafka, home)
    patch = pytest.MonkeyPatch()
    for name, value in (("ENV", settings.env), ("HOME", str(home)), ("KAFKA", kafka)):
        patch.setenv(f"SLUICEGATE_{name}", value)
    with (
        EmbeddedClickHouse(home) as server,
        running(
            settings,
            files={**release_files(), **MAIL, **FILES, **SLOW},
            control=[("people.registered", {"people": PEOPLE}), head_key(home)],
        ) as (loop, gate),
    ):
        hold = asyncio.Event()
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        stack = contextlib.AsyncExitStack()
        projector = loop.run(stack.enter_async_context(projecting(settings, lambda: server.connect("sink"))))
        yield Stand(loop, gate, server, projector, hold)
        loop.run(stack.aclose())
    patch.undo()


def test_the_state_is_the_same_from_both_stores_and_live(stand: Stand) -> None:
    for n in range(3):
        for agent in stand.gate.everywhere():
            stand.remember(f"value {n}", agent)
            stand.ask("desk.read", {"value": str(n)}, agent)
    stand.caught_up()
    live = stand.digests()
    expect = [word for p, digest in live.items() for word in ("--expect", f"{p}:{digest}")]
    for source, other in (("kafka", "clickhouse"), ("clickhouse", "kafka")):
        found = stand.rebuilt("--from", source, "--against", other, *expect)
        assert found["ok"], found
        assert {p["partition"]: p["digest"] for p in found["partitions"]} == live  # type: ignore[attr-defined]
        assert {c["verdict"] for c in found["compared"]} == {"same"}  # type: ignore[attr-defined]
    stand.rebuilt("--expect", "0:" + "0" * 64, code=1)
    for lane in stand.gate.service.lanes.values():
        stand.loop.run(lane.snapshot())
    found = stand.rebuilt("--from", "clickhouse", "--against", "live", "--processes", "2")
    assert [(c["against"], c["verdict"]) for c in found["compared"]] == [("snapshot", "same")] * 2  # type: ignore[attr-defined]


def test_as_of_a_position_and_one_agent(stand: Stand) -> None:
    place = partition_of(AGENT, 2)
    last = stand.gate.service.lanes[place].state.seq - 1
    stand.remember("later")
    stand.caught_up()
    cut = f"{place}:{last}"
    views = [
        json.loads(stand.cli("rebuild", "--from", s, "--agent", AGENT, "--as-of", cut))
        for s in ("kafka", "clickhouse")
    ]
    assert views[0] == views[1]
    assert (views[0]["seq"], len(views[0]["memory"])) == (last, 1)
    at = views[0]["decided_until"]
    [one] = stand.rebuilt("--as-of", cut)["partitions"]  # type: ignore[misc]
    assert (one["partition"], one["seq"]) == (place, last)
    both = [stand.rebuilt("--from", s, "--as-of", at)["partitions"] for s in ("kafka", "clickhouse")]
    mine, theirs = ([p["digest"] for p in one] for one in both)  # type: ignore[attr-defined]
    assert mine == theirs
    now = json.loads(stand.cli("rebuild", "--agent", AGENT))
    assert now["memory"][0]["version"] == views[0]["memory"][0]["version"] + 1


def test_an_agent_goes_back_with_a_call_in_flight_and_that_is_undone(stand: Stand) -> None:
    place = partition_of(AGENT, 2)
    stand.remember("DE-good")
    cut = stand.gate.service.lanes[place].state.seq - 1
    stand.remember("DE-poisoned")

    async def slow(_: Dispatch) -> Answer:
        await stand.hold.wait()
        return Finished(RESULT)

    stand.gate.adapter._behave = slow
    flying = intent("desk.pay", {"value": "1"})

    async def send() -> None:
        await stand.gate.put("intents", codec.encode(flying))
        await until(lambda: stand.gate.life(flying.intent_id)[-1:] == ["claimed"], "the call is in flight")

    stand.loop.run(send())
    dry = json.loads(stand.cli("rollback", "agent", AGENT, "--to", str(cut), "--dry-run", "-o", "json"))
    assert (dry["order"], dry["cut"]) == (-1, cut)
    assert {c["what"] for c in dry["changes"]} >= {"memory", "call"}
    [memory] = [c for c in dry["changes"] if c["what"] == "memory"]
    assert (
        memory["which"] == "agent iban" and '"DE-poisoned"' in memory["now"] and '"DE-good"' in memory["then"]
    )
    assert stand.recall() == "DE-poisoned"
    wrong = CliRunner().invoke(app, ["rollback", "agent", AGENT, "--to", f"{1 - place}:{cut}"])
    assert f"write {place}:SEQ" in str(wrong.exception)
    assert stand.recall() == "DE-poisoned"
    later = CliRunner().invoke(app, ["rollback", "agent", AGENT, "--to", "2999-01-01T00:00:00"])
    assert "is still to come" in str(later.exception)
    said = stand.cli("rollback", "agent", AGENT, "--to", f"{place}:{cut}", "--why", "a poisoned document")
    assert "rolled back by control event" in said and '"DE-poisoned"' in said and '"DE-good"' in said
    assert stand.recall() == "DE-good"
    stand.loop.run(_let_go(stand))
    assert stand.loop.run(stand.gate.answer(flying.intent_id))[1].reason == "rolled_back"
    assert stand.gate.life(flying.intent_id)[-1] == "withheld"
    [row] = [r for r in json.loads(stand.cli("rollback", "list", "-o", "json")) if r["kind"] == "agent"]
    assert (row["what"], row["to"], row["why"]) == (AGENT, f"seq {cut}", "a poisoned document")
    stand.cli("rollback", "agent", AGENT, "--undo", str(row["event"]))
    assert stand.recall() == "DE-poisoned"
    ordered = len(json.loads(stand.cli("rollback", "list", "-o", "json")))
    here = stand.gate.service.lanes[place].state.seq - 1
    assert "so nothing was done" in stand.cli("rollback", "agent", AGENT, "--to", f"{place}:{here}")
    assert len(json.loads(stand.cli("rollback", "list", "-o", "json"))) == ordered
    stand.loop.run(stand.gate.intact())
    result = asyncio.run(replay.check(stand.settings, Window(), stand.gate.keys.open))
    assert result.ok, result.as_json()
    stand.caught_up()
    live = stand.digests()
    found = stand.rebuilt("--from", "clickhouse")
    assert {p["partition"]: p["digest"] for p in found["partitions"]} == live  # type: ignore[attr-defined]


async def _let_go(stand: Stand) -> None:
    stand.hold.set()


def test_an_owner_that_takes_over_finds_the_order_waiting(stand: Stand) -> None:
    """Nothing of an order is lost with a worker: state and control say that it waits."""
    place = partition_of(AGENT, 2)
    stand.remember("before")
    cut = stand.gate.service.lanes[place].state.seq - 1
    stand.remember("after")
    gate = stand.gate

    async def order_and_restart() -> int:
        await gate.service.stop()
        body: dict[str, object] = {"agent_id": AGENT, "cut": cut, "why": ""}
        head = await control_log.append(
            stand.settings, gate.keys, [("agent.rolled_back", body)], who="t", why="t"
        )
        gate.service = LedgerService(stand.settings, gate.keys)
        await gate.service.start()

        def taken_in() -> bool:
            lane = gate.service.lanes.get(place)
            return lane is not None and lane.state.restored.get(AGENT) == head

        await until(taken_in, "the order was taken in")
        return head

    head = stand.loop.run(order_and_restart())
    assert stand.recall() == "before"
    assert snapshot.decode(snapshot.encode(gate.service.lanes[place].state)).restored == {AGENT: head}


class Speaker:
    """An agent in a session of its own."""

    def __init__(self, stand: Stand, agent: str, session: str) -> None:
        self.stand, self.agent, self.session = stand, agent, session
        stand.loop.run(stand.gate.open_session(agent, session))

    def ask(self, tool: str, **arguments: object) -> tuple[Intent, Reply]:
        asked = intent(tool, arguments, agent=self.agent, session=self.session)
        return asked, self.stand.loop.run(self.stand.gate.ask(asked))

    def shared(self, op: str, key: str, **more: object) -> Intent:
        asked, reply = self.ask(f"memory.{op}", scope=SCOPE, key=key, **more)
        assert reply.status == "released", reply
        return asked

    def approved(self, tool: str) -> tuple[Intent, Review]:
        """A held call that a person lets through."""
        asked, held = self.ask(tool, value="1")
        assert held.status == "held", held
        return asked, self.settle(asked, held, "approve", "released")

    def settle(self, asked: Intent, held: Reply, said: str, status: str) -> Review:
        """What a person says of a held call, and what comes of it."""
        gate = self.stand.gate
        [facts] = [e.facts for _, e in gate.events if e.header.event_id == held.event_id]
        assert isinstance(facts, HoldFacts)
        word = Review(new_id(), self.agent, asked.intent_id, said, facts.action_digest, PERSON, now_us(), "", held.release)  # fmt: skip

        async def say() -> None:
            since = len(gate.replies)
            await gate.put("reviews", codec.encode(word), agent=self.agent)
            await until(
                lambda: any(
                    r.status == status and r.intent_id == asked.intent_id for _, r in gate.replies[since:]
                ),
                f"the call is {status}",
            )

        self.stand.loop.run(say())
        return word


def test_a_poisoned_page_is_followed_to_the_agent_of_another_partition(stand: Stand) -> None:
    mine, other = stand.gate.everywhere()
    writer, reader = Speaker(stand, mine, "reads-the-web"), Speaker(stand, other, "pays")
    page, _ = writer.ask("mail.page")
    writer.shared("write", "payee", value="Eve")
    reader.shared("read", "payee")
    held, reply = reader.ask("mail.send", to="postmaster", amount=1)
    assert reply.status == "held"  # the value brought the page's label with it
    found = json.loads(stand.cli("replay", "without", page.intent_id, "-o", "json"))
    course = found["sessions"][f"{other} pays"]
    assert course["why"] == "it read a value that nobody can know"
    assert (course["partition"], course["unknown"]) == (partition_of(other, 2), 1)
    [row] = [c for c in found["changes"] if c["intent_id"] == held.intent_id]
    assert (row["was"]["said"], row["now"]["said"], row["speculative"]) == ("hold", "permit", True)
    assert (found["over"], found["touched"]) == (2, [0, 1])
    assert found["crossed"] >= 1
    table = stand.cli("replay", "without", page.intent_id)
    assert "nobody can know" in table and "it reaches partition" in table
    # Without the write itself the other agent certainly reads another value.
    wrote = writer.shared("write", "payee", value="Mallory")
    asked = reader.shared("read", "payee")
    found = json.loads(stand.cli("replay", "without", wrote.intent_id, "-o", "json"))
    [row] = [c for c in found["changes"] if c["intent_id"] == asked.intent_id]
    assert (row["what"], row["speculative"]) == ("memory", False)
    assert [was != now for was, now in found["memory"].values()] == [True]
    reader.settle(held, reply, "reject", "refused")  # a log is not repartitioned with calls that wait


def test_a_wrong_approval_is_followed_to_the_agent_of_another_partition(stand: Stand) -> None:
    mine, other = stand.gate.everywhere()
    writer, reader = Speaker(stand, mine, "was-let-through"), Speaker(stand, other, "trusts")
    asked, _ = writer.approved("desk.ask")
    writer.shared("write", "verdict", value="fine")
    reader.shared("read", "verdict")
    reader.ask("desk.read", value="1")
    [event] = [
        e.header.event_id for _, e in stand.gate.events
        if e.header.input_topic == "reviews" and e.header.intent_id == asked.intent_id and e.header.status == "permitted"
    ]  # fmt: skip
    found = json.loads(stand.cli("replay", "without", event.hex(), "-o", "json"))
    assert {"agent_id": mine, "intent_id": asked.intent_id, "speculative": False} in found["not_made"]
    assert any((c["intent_id"], c["what"]) == (asked.intent_id, "decision") for c in found["changes"])
    assert found["sessions"][f"{other} trusts"]["why"] == "it read a value that nobody can know"
    assert found["sessions"][f"{other} trusts"]["unknown"] == 1 and found["over"] == 2


def test_the_ledger_is_verified_beside_a_checkpointer_that_signs_as_it_grows(stand: Stand) -> None:
    """Heads are signed and published while verify reads: none is ahead of what it reads, and all are led to."""
    gate = stand.gate

    async def traffic() -> None:
        for n in range(60):
            await gate.ask(intent("desk.read", {"value": str(n)}))

    async def main() -> None:
        checkpointer = Checkpointer(stand.settings, environ={"SLUICEGATE_CHECKPOINT_EVERY_S": "0.05"})
        await checkpointer.start()
        try:
            await until(lambda: len(checkpointer.newest) == 3, "control and both partitions have a head")
            growing = asyncio.run_coroutine_threadsafe(traffic(), stand.loop._loop)
            heads = 0
            while not growing.done():
                report = await verify(stand.settings, clickhouse=False)
                assert report.ok, report.as_json()
                told = [p.checkpoints for p in (report.control, *report.partitions)]
                assert {one["verdict"] for one in told} == {"same"}, told
                heads = max(heads, *(int(str(one["heads"])) for one in told))
            growing.result()
            assert heads > 1 and checkpointer.alive == ""
        finally:
            await checkpointer.stop()

    asyncio.run(main())


def test_a_row_that_was_changed_is_named(stand: Stand) -> None:
    place = partition_of(AGENT, 2)
    stand.caught_up()
    name, sink = database(stand.settings), stand.server.connect("sink")
    seq = 12
    where = f"src_topic = 'outcomes' AND src_partition = {place} AND seq = {seq}"
    sink.command(
        f"ALTER TABLE `{name}`.events UPDATE facts = concat(facts, 'x') WHERE {where} SETTINGS mutations_sync = 2"
    )
    found = stand.rebuilt("--from", "kafka", "--against", "clickhouse", code=1)
    [parted] = [c for c in found["compared"] if c["verdict"] == "different"]  # type: ignore[attr-defined]
    assert (parted["partition"], parted["first_difference"]["seq"]) == (place, seq)
    assert "facts" in parted["first_difference"]["what"]
    assert f"first at seq {seq}" in stand.cli("rebuild", "--against", "clickhouse", code=1)
    # A store that is not as far, also as of a moment, lags: nothing differs.
    tail = f"`{name}`.events WHERE src_topic = 'outcomes' AND src_partition = {1 - place} AND seq > 5"
    rows = sink.raw_query(f"SELECT * FROM {tail} FORMAT Native")
    sink.command(f"ALTER TABLE {tail.replace(' WHERE', ' DELETE WHERE')} SETTINGS mutations_sync = 2")
    for as_of in ((), ("--as-of", "2100-01-01T00:00:00")):
        found = stand.rebuilt(*as_of, "--against", "clickhouse", code=1)
        [late] = [c for c in found["compared"] if c["partition"] == 1 - place]  # type: ignore[attr-defined]
        assert late["verdict"].startswith("PENDING: clickhouse lags by"), late
    # The tests behind this one read all of it.
    sink.raw_insert(f"`{name}`.events", insert_block=rows, fmt="Native")
    whole = "substring(facts, 1, length(facts) - 1)"
    sink.command(
        f"ALTER TABLE `{name}`.events UPDATE facts = {whole} WHERE {where} SETTINGS mutations_sync = 2"
    )
    found = stand.rebuilt("--from", "kafka", "--against", "clickhouse")
    assert {c["verdict"] for c in found["compared"]} == {"same"}, found  # type: ignore[attr-defined]


def _killed(stand: Stand, point: str) -> None:
    """The command dies there, as the kernel would have it."""
    env = {**os.environ, "SLUICEGATE_FAILPOINT": point}
    words = [sys.executable, "-m", "sluicegate.streams.cli", "topics", "repartition", "--to", "3", "--yes"]
    found = subprocess.run(words, env=env, capture_output=True, text=True, timeout=90)
    assert found.returncode == -signal.SIGKILL, found.stderr


def _refused(stand: Stand, *words: str) -> str:
    found: Result = CliRunner().invoke(app, ["topics", "repartition", *words])
    assert found.exit_code, words
    return str(found.exception)


def test_the_log_goes_on_with_three_partitions(stand: Stand) -> None:
    """Killed at every step, with the old workers running; what was remembered, asked and heard before is there after."""
    gate_before, settings = stand.gate, stand.settings
    for agent in gate_before.everywhere():
        stand.remember(f"of {agent}", agent)
    asked = intent("desk.pay", {"value": "once"})
    assert stand.loop.run(gate_before.ask(asked)).status == "released"
    for words, why in (
        (("--to", "2"), "2 partitions already"),
        (("--to", "0"), "out of range"),
        (("--to", "1001"), "out of range"),
        (("--call-off",), "no repartition is under way"),
    ):
        assert why in _refused(stand, *words, "--yes")
    rows = json.loads(stand.cli("topics", "repartition", "--to", "3", "--dry-run", "-o", "json"))
    assert len(rows) == 3
    assert sum(row["sessions"] for row in rows) == sum(
        len(lane.state.sessions) for lane in gate_before.service.lanes.values()
    )
    _killed(stand, "repartition.1.begun")
    late = intent("desk.read", {"value": "while it is begun"})
    assert stand.loop.run(gate_before.ask(late)).reason == "repartitioning"
    assert "is under way" in _refused(stand, "--to", "5", "--yes")
    stand.cli("topics", "repartition", "--call-off")
    stand.loop.run(gate_before.good())
    _killed(stand, "repartition.3.sealed")
    assert "is sealed already" in _refused(stand, "--call-off")
    _killed(stand, "repartition.5.imported:2")
    _killed(stand, "repartition.6.started")
    stand.cli("topics", "repartition", "--to", "3", "--yes")
    stand.cli("topics", "repartition", "--to", "3", "--yes")  # again, it is done
    lanes = gate_before.service.lanes.values()
    asyncio.run(
        until(lambda: all("is sealed" in lane.stopped_because for lane in lanes), "the old worker stopped")
    )
    assert "SLUICEGATE_GENERATION=1" in str(
        CliRunner()
        .invoke(app, ["status"], env={"SLUICEGATE_HOME": str(settings.home / "elsewhere")})
        .exception
    )
    effects = gate_before.adapter.called.total()
    after = replace(settings, generation=1, partitions=3)
    stand.loop.run(_goes_on(stand, after, asked, late))
    assert gate_before.adapter.called.total() == effects
    found = stand.rebuilt("--from", "kafka")
    assert (found["ok"], len(found["partitions"])) == (True, 3)  # type: ignore[arg-type]
    assert json.loads(stand.cli("ledger", "verify", "--no-clickhouse", "-o", "json"))["ok"]
    old = json.loads(stand.cli("explain", asked.intent_id, "-o", "json", env={"SLUICEGATE_GENERATION": "0"}))
    assert old["generation"] == 0 and {step["generation"] for step in old["steps"]} == {0}
    assert Settings.from_env().generation == 1
    _is_told_across(stand, asked, late)
    before = asyncio.run(replay.check(replace(settings, generation=0), Window(), gate_before.keys.open))
    now = asyncio.run(replay.check(after, Window(), gate_before.keys.open))
    assert before.ok and now.ok, (before.as_json(), now.as_json())


def _is_told_across(stand: Stand, asked: Intent, late: Intent) -> None:
    """INVARIANT: explain, access, reproduce and evidence find what there is in whichever generation it stands."""
    told = json.loads(stand.cli("explain", asked.intent_id, "-o", "json"))
    assert (told["generation"], told["state"]) == (0, "released")
    assert [step["generation"] for step in told["steps"]][-1] == 1, (
        "it was asked again after, and answered from before"
    )
    again = json.loads(stand.cli("explain", late.intent_id, "-o", "json"))
    assert next((s["generation"], s["status"]) for s in again["steps"]) == (0, "refused")
    assert again["state"] == "released" and again["session"]["opened_at"], "its session was opened before"
    remade = json.loads(stand.cli("reproduce", late.intent_id, "-o", "json"))
    assert {row["generation"] for row in remade["inputs"]} == {0, 1} and remade["verdict"] == "SAME", remade
    found = {}
    for source in ("kafka", "clickhouse"):
        words = ("access", "--asset", "tool:desk.read", "--source", source, "-o", "json")
        found[source] = json.loads(stand.cli(*words))
    assert (
        found["kafka"]["rows"] == found["clickhouse"]["rows"]
        and found["kafka"]["until"] == found["clickhouse"]["until"]
    )
    rows = [row for row in found["kafka"]["rows"] if row["intent_id"] == late.intent_id]
    assert {row["generation"] for row in rows} == {0, 1} and {row["state"] for row in rows} == {"released"}
    assert all(row["on_behalf_of"] for row in rows), "whom it was for is said where the session was opened"
    bundle = stand.settings.home / "both.zip"
    period = ("--from", "2020-01-01", "--to", "2099-01-01")
    said = stand.cli("evidence", "--agent", AGENT, *period, "-o", str(bundle))
    assert said.startswith("PENDING: "), (
        said
    )  # no head of the new generation is signed yet, and the period is not over
    report = evidence_verify.check(bundle)
    assert {one["verdict"] for one in report.found} == {"PENDING"}, report.found
    [seam] = report.said["seams"]
    homes = [partition_of(AGENT, 2), partition_of(AGENT, 3)]
    assert [seam["from"], seam["to"]] == [str(homes[0]), f"g1/{homes[1]}"]


async def _goes_on(stand: Stand, after: Settings, asked: Intent, late: Intent) -> None:
    """The new generation decides: nothing twice, everything remembered."""
    async with gate(after, files={**release_files(), **FILES, **SLOW}) as new:
        again = await new.ask(asked)
        assert (again.status, again.duplicate, again.result) == ("released", True, RESULT)
        assert not new.adapter.called
        assert (await new.ask(late)).status == "released"
        for agent in stand.gate.everywhere():
            read = await new.ask(intent("memory.read", {"scope": "agent", "key": "iban"}, agent=agent))
            assert json.loads(read.result or b"{}")["value"] == f"of {agent}", read
        async with projecting(after, lambda: stand.server.connect("sink")):
            name = database(after)
            query = f"SELECT count(DISTINCT (log_id, src_partition, seq)) FROM `{name}`.events WHERE log_id = unhex('{new.service.control.control.log_id.hex()}')"
            due = sum(lane.state.seq for lane in new.service.lanes.values())
            client = stand.server.connect("reader")
            await until(
                lambda: int(client.query(query).result_rows[0][0]) >= due, "the sink has the new generation"
            )
        await new.intact()
