"""verify, replay, explain, tail, status and dead letters over a real Kafka, and verify over a real ClickHouse.

The ledger is a driver's (tests/driver.py), published record by record, so every kind of damage can be put on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.policy.observed import Observation
from sluicegate.processors.replay.account import touches
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.streams import dead_letters, kafka, topics
from sluicegate.streams.cli import app
from sluicegate.streams.control import releases
from sluicegate.streams.inspect import access, explain, observe, status, tail
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay import replay
from sluicegate.streams.replay.window import Window
from sluicegate.streams.settings import Settings
from sluicegate.streams.verify.ledger import Report, verify
from typer.testing import CliRunner

from tests.driver import AGENT, OTHER_AGENT, PERSON, Driver, Record, read, release, release_files
from tests.forging import forge, with_header
from tests.unit.test_attempts import LARGE, MESSAGES, SMALL, answer, compiled, files, next_of

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CATCH_UP_S = 60.0


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run in a loop of its own."""

    async def wrapped() -> T:
        return await work()

    return asyncio.run(wrapped())


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Settings:
    """An environment of its own on the session's broker."""
    return Settings(env=f"t-{uuid.uuid4().hex[:8]}", home=tmp_path, kafka=kafka, partitions=1)


@pytest.fixture
def driver() -> Driver:
    """A ledger of a few hundred records."""
    made = Driver()
    made.everyday(4)
    return made


async def publish(
    settings: Settings,
    driver: Driver,
    records: list[Record] | None = None,
    more_files: dict[str, str] | None = None,
) -> None:
    """Put a driver's ledger, control, inputs, dead letters and release on the topics of its environment."""
    await topics.create(settings)
    await releases.publish(settings, release_files())
    if more_files is not None:
        await releases.publish(settings, more_files)
    producer = await _connect(settings)
    values = {
        "control": [x.value for x in driver.control_records],
        "outcomes": [x.value for x in (driver.records if records is None else records)],
        "dead-letters": [codec.encode(x) for x in driver.dead_letters],
        **{topic: list(sent.values()) for topic, sent in driver.inputs.items()},
    }
    try:
        for topic, items in values.items():
            for value in items:
                await producer.send(f"{settings.env}.{topic}", value, partition=0)
            await producer.flush()
    finally:
        await producer.stop()


async def _connect(settings: Settings):  # type: ignore[no-untyped-def]
    return await kafka.connect(kafka.producer(settings, linger_ms=5))


def verified(settings: Settings, **more: bool) -> Report:
    """The report on an environment."""
    return run(lambda: verify(settings, **more))  # type: ignore[arg-type]


def test_a_sound_ledger_and_its_commands(
    settings: Settings, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(lambda: publish(settings, driver))
    report = verified(settings)
    assert report.ok, report.as_json()
    assert report.verdict.startswith("intact; ClickHouse not compared: no embedded clickhouse")
    [part] = report.partitions
    assert part.events == len(driver.records)
    assert part.inputs["intents"] == {
        "decided": len(driver.inputs["intents"]), "in_kafka": len(driver.inputs["intents"]), "verdict": "same"
    }  # fmt: skip
    assert part.head == driver.state.prev_hash.hex()
    checked = run(lambda: replay.check(settings, Window(), driver.keys.open))
    assert checked.ok
    assert checked.total("same") == checked.total("inputs") - 1
    some = run(lambda: replay.check(settings, Window("intents", {0: 3}, {0: 5}), driver.keys.open))
    assert some.total("same") == 3
    # Without the tests' own tools, everything that was permitted there would be refused.
    without = run(lambda: replay.diff(settings, Window(), driver.keys.open, release(extended=False)))
    assert without.total("compared") == checked.total("same")
    assert without.total("changed") > 0 and {g.now.reason for g in without.groups()} >= {"unknown_tool"}
    alike = run(lambda: replay.diff(settings, Window(), driver.keys.open, release(edition="9")))
    assert (alike.total("compared"), alike.total("changed")) == (checked.total("same"), 0)
    seen: list[Observation] = []
    told = run(lambda: observe.read(settings, Window(), driver.keys.open, seen.append))
    assert (told.intents, told.erased) == (len(seen), 0) and {"desk.read", "desk.pay"} <= {
        o.tool for o in seen
    }
    _check_commands(settings, monkeypatch)


def _check_commands(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
    runner = CliRunner()
    for arguments in (
        ["ledger", "verify", "-o", "json"],
        ["status", "-o", "json"],
        ["tail", "--no-follow", "-n", "3", "-o", "jsonl"],
        ["dead-letters", "list", "-o", "json"],
    ):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert (
            [json.loads(line) for line in done.stdout.splitlines()]
            if "jsonl" in arguments
            else json.loads(done.stdout)
        )
    for arguments in (["ledger", "verify"], ["tail", "--no-follow"], ["status"], ["ledger", "invariants"]):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, done.output


def test_a_broken_ledger_is_found_with_its_position(
    settings: Settings, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(lambda: publish(settings, driver, [*driver.records[:40], *driver.records[41:]]))
    report = verified(settings, clickhouse=False)
    assert not report.ok
    assert report.verdict.startswith("BROKEN: chain, dense")
    assert report.partitions[0].violations["dense"]["seq"] == 40
    assert report.partitions[0].violations["dense"]["offset"] == 40
    for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
    done = CliRunner().invoke(app, ["ledger", "verify", "--no-clickhouse"])
    assert done.exit_code == 1
    assert "dense" in done.stdout
    with pytest.raises(Terminal, match="ledger verify"):
        run(lambda: replay.check(settings, Window(), driver.keys.open))


def test_an_input_the_ledger_left_out_is_found(settings: Settings, driver: Driver) -> None:
    """The agent's record stands on the topic, between decided ones, and nothing answered it."""
    left_out = driver.next_offset["intents"]
    driver.skip("intents")
    driver.call("desk.read", session="none")
    driver.inputs["intents"] = dict(sorted({**driver.inputs["intents"], left_out: b"never decided"}.items()))
    run(lambda: publish(settings, driver))
    report = verified(settings, clickhouse=False)
    assert set(report.partitions[0].violations) == {"non_omission"}
    assert "`intents` holds" in str(report.partitions[0].violations["non_omission"]["sentence"])


def test_explain_tells_who_decided_what(settings: Settings, driver: Driver) -> None:
    run(lambda: publish(settings, driver))
    events = [read(x) for x in driver.records]
    paid = next(e.header.intent_id for e in events if e.header.status == "released" and e.header.seq > 20)
    story = run(lambda: explain.explain(settings, paid, driver.keys.open))
    assert story.state == "released"
    assert (story.agent_id, story.session["on_behalf_of"], story.session["goal"]) == (
        AGENT,
        "person-1",
        "pay my rent",
    )
    assert story.roles == ["banking"]
    assert [s.status for s in story.steps][:4] == ["routed", "permitted", "validated", "dispatched"]
    assert story.arguments.startswith('{"value"')
    assert story.result == '{"ok":true}'
    assert "permit" in story.policies["desk-use"]
    assert story.times_ms["decided to end"] > 0
    refused = next(e.header.intent_id for e in events if e.header.reason == "forbidden")
    story = run(lambda: explain.explain(settings, refused, driver.keys.open, agent=AGENT))
    assert story.steps[-1].detail == "forbidden by `desk-not-this`"
    assert "forbid" in story.policies["desk-not-this"]
    approved = next(e.header.intent_id for e in events if e.header.status == "held")
    story = run(lambda: explain.explain(settings, approved, driver.keys.open))
    assert any(s.by == "person-2, 1 of 1 agreed" and s.detail == "approve: because" for s in story.steps)
    driver.keys.destroyed.add("person-1")
    assert run(lambda: explain.explain(settings, paid, driver.keys.open)).arguments == "ERASED"
    with pytest.raises(Terminal, match="knows no intent `nope`"):
        run(lambda: explain.explain(settings, "nope", driver.keys.open))
    with pytest.raises(Terminal, match="is not empty"):
        run(lambda: explain.explain(settings, "", driver.keys.open))  # many records have that for an id


def shown(home: Path) -> tuple[Driver, dict[str, str]]:
    """A ledger with a refused, a held-and-approved, a fallen-back and a rolled-back intent, under a real key store."""
    made = Driver(keys=Keys(home))  # type: ignore[arg-type]
    made.everyday(2)
    made.deploy(compiled(json.dumps(files())), now=True)
    made.open_session("shown")
    trace = {"session": "shown"}
    ids = {"refused": made.call("desk.pay", {"value": "no"}, **trace).outcomes[0].origin.intent_id}
    held = made.call("desk.ask", {"value": "x"}, **trace)
    ids["held"] = held.outcomes[0].origin.intent_id
    [offered] = made.review(held, "approve").dispatches
    made.finish(offered, b'{"ok":true}')
    [asked] = made.call("triage", {"messages": MESSAGES}, kind="model_call", **trace).dispatches
    made.receipt(next_of(made, asked, "overload"), "finished", result=answer(SMALL))
    ids["fallen_back"] = asked.intent_id
    [paid] = made.call("desk.pay", {"value": "7"}, **trace).dispatches
    made.finish(paid, b'{"ok":true}')
    ids["rolled_back"] = paid.intent_id
    undo = undo_id(AGENT, paid.intent_id)
    calls = [{"id": undo, "tool": "desk.set", "of_agent": AGENT, "of_intent": paid.intent_id}]
    about = {"agent_id": OTHER_AGENT, "of_agent": AGENT, "of_intent": paid.intent_id}
    made.control_event("rollback.ordered", saga="saga-1", calls=calls, **about)
    made.open_session("undo", OTHER_AGENT)
    [back] = made.call(
        "desk.set", {"value": "7"}, session="undo", agent=OTHER_AGENT, intent_id=undo
    ).dispatches
    made.finish(back, b'{"ok":true}')
    return made, ids


def invoked(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command says in JSON."""
    done = CliRunner().invoke(app, [*arguments, "-o", "json"])
    assert done.exit_code == code, (arguments, done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_explain_and_reproduce_what_an_auditor_asks_about(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, ids = shown(settings.home)
    run(lambda: publish(settings, driver, more_files=files()))
    for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
    told = {name: invoked("explain", ident) for name, ident in ids.items()}
    for name, ident in ids.items():
        said = invoked("reproduce", ident)
        assert (said["verdict"], said["share"]) == ("SAME", 1.0), said
        assert {row["intent_id"] for row in said["inputs"]} == {ident}
        assert told[name]["reproducible"]["verdict"] == "AT_HAND"
    assert told["refused"]["state"] == "refused" and "forbid" in told["refused"]["policies"]["desk-not-this"]
    assert [(a["by"], a["verdict"]) for a in told["held"]["approvals"]] == [(PERSON, "approve")]
    assert [a["asked"] for a in told["fallen_back"]["attempts"]] == [LARGE, SMALL]
    assert (told["fallen_back"]["served"], told["fallen_back"]["cost"]["output_tokens"]) == ([SMALL], 2)
    assert told["rolled_back"]["taken_back"].startswith("ordered by operator, control event")
    whole = invoked("explain", "shown", "--no-caused")
    assert {story["intent_id"] for story in cast("list[dict[str, Any]]", whole)} == set(ids.values())
    event = told["held"]["steps"][-1]["event"]
    assert invoked("explain", event, "--no-caused")["intent_id"] == ids["held"]
    sample = invoked("reproduce", "--sample", "5", "--seed", "q3")
    assert (sample["counts"], sample["seed"]) == ({"SAME": 5}, "q3")
    assert invoked("reproduce", "--sample", "5", "--seed", "q3")["inputs"] == sample["inputs"]
    touched = invoked("access", "--asset", "desk.pay", "--source", "kafka")
    events = [read(x) for x in driver.records]
    asked = (e for e in events if isinstance(e.facts, r.IntentFacts) and e.facts.tool == "desk.pay")
    assert [row["intent_id"] for row in touched["rows"]] == [e.header.intent_id for e in asked]
    _copies(settings, driver)
    _another_engine(settings, monkeypatch)


def _copies(settings: Settings, driver: Driver) -> None:
    copy = ("replay", "--mode", "copy", "--topic", "intents")
    resume = str(settings.home / "at.json")
    told = invoked(*copy, "--into", "mine", "--create", "--tool", "desk.pay", "--resume", resume)
    assert told["copied"] > 0 and told["unreadable"] > 0  # the driver's garbage names no tool
    assert invoked(*copy, "--into", "mine", "--tool", "desk.pay", "--resume", resume)["copied"] == 0

    async def found() -> list[tuple[bytes, dict[str, bytes]]]:
        consumer = await kafka.connect(kafka.consumer(settings, f"{settings.env}.mine"))
        records: list[tuple[bytes, dict[str, bytes]]] = []
        while len(records) < told["copied"]:
            got = (await consumer.getmany(timeout_ms=1_000)).values()
            records += [(x.value, dict(x.headers)) for batch in got for x in batch]
        await consumer.stop()
        return records

    sent = set(driver.inputs["intents"].values())
    for value, headers in run(found):
        assert value in sent
        assert headers["replay_of"].startswith(f"{settings.env}.intents/0/".encode())
    for arguments, said in (
        (("--into", "intents"), "into itself"),
        (("--into", "nothing"), "make it with --create"),
        (("--into", "mine", "--from-offset", "0:99999"), "is not there yet"),
        (("--into", "mine", "--from-time", "2999-01-01"), "is in the future"),
        (("--into", "mine", "--resume", resume), "belongs to another replay"),
    ):
        done = CliRunner().invoke(app, [*copy, *arguments])
        assert isinstance(done.exception, Terminal) and said in str(done.exception), (
            arguments,
            done.exception,
        )

    async def two() -> None:
        client = await kafka.connect(kafka.admin(settings))
        await client.create_topics([NewTopic(f"{settings.env}.two", 2, 1)])
        await client.delete_records(
            {TopicPartition(f"{settings.env}.intents", 0): RecordsToDelete(before_offset=3)}
        )
        await client.close()

    run(two)
    done = CliRunner().invoke(app, [*copy, "--into", "two"])
    assert "has 1 partitions and" in str(done.exception)
    done = CliRunner().invoke(app, [*copy, "--into", "mine", "--from-offset", "0:1"])
    assert "begins at offset 3" in str(done.exception) and "--from-offset 0:3" in str(done.exception)
    assert invoked("replay", "--agent", "ghost")["verdict"] == "no input of the window is of agent `ghost`"
    checked = invoked("replay", "--mode", "check", "--topic", "intents", "--from-offset", "0:0")
    assert checked["ok"] and not checked["partitions"]["0"]["erased"], (
        "the ledger has the bytes that the topic lost"
    )
    lost = next(e.header.intent_id for e in map(read, driver.records) if e.header.input_topic == "intents")
    assert invoked("reproduce", lost)["verdict"] == "SAME"


def _another_engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a version decided whose wheel is not here, and then is: this code under that version's name."""
    env = f"{settings.env}-old"
    monkeypatch.setenv("SLUICEGATE_ENV", env)
    old = Driver(keys=Keys(settings.home))  # type: ignore[arg-type]
    old.everyday(1)
    run(
        lambda: publish(
            replace(settings, env=env),
            old,
            forge(old, lambda all_: [with_header(e, engine="0.0.9") for e in all_]),
        )
    )
    intent = next(e.header.intent_id for e in map(read, old.records) if e.header.reason == "forbidden")
    said = invoked("reproduce", intent, code=4)
    assert (
        said["verdict"] == "ENGINE_MISSING"
        and "sluicegate-0.0.9-py3-none-any.whl" in said["inputs"][0]["why"]
    )
    assert invoked("explain", intent)["reproducible"]["verdict"] == "ENGINE_MISSING"
    assert invoked("reproduce", intent, "--any-engine")["verdict"] == "SAME"
    folder = settings.home / "engines"
    folder.mkdir()
    wheel = folder / "sluicegate-0.0.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(ROOT / "__init__.py", "sluicegate/__init__.py")
        for layer in ("schemas", "processors", "streams", "sinks", "executors", "gateway"):
            for path in (ROOT / layer).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, f"sluicegate/{path.relative_to(ROOT)}")
    (folder / "engines.lock").write_text(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n")
    said = invoked("reproduce", intent, code=4)
    assert said["verdict"] == "ENGINE_FAILED" and "is engine 0.1.0" in said["inputs"][0]["why"]
    unpacked = next((folder / "unpacked").iterdir()) / "sluicegate" / "processors" / "work.py"
    unpacked.write_text(unpacked.read_text("utf-8").replace('ENGINE = "0.1.0"', 'ENGINE = "0.0.9"'), "utf-8")
    said = invoked("reproduce", intent)
    assert said["verdict"] == "SAME" and {row["engine"] for row in said["inputs"]} == {"0.0.9"}


def test_tail_and_status(settings: Settings, driver: Driver) -> None:
    run(lambda: publish(settings, driver))

    async def last(count: int, agent: str = "") -> list[int]:
        return [e.header.seq async for e in tail.tail(settings, count=count, agent=agent, follow=False)]

    end = len(driver.records)
    assert run(lambda: last(3)) == [end - 3, end - 2, end - 1]
    assert run(lambda: last(0)) == []
    assert run(lambda: last(10_000)) == list(range(end))
    assert run(lambda: last(1, "nobody")) == []

    async def follow() -> list[int]:
        seen = []
        async for event in tail.tail(settings, count=1):
            seen.append(event.header.seq)
            if len(seen) == 1:
                more = driver.records[-1].value
                producer = await _connect(settings)
                await producer.send_and_wait(f"{settings.env}.outcomes", more, partition=0)
                await producer.stop()
            else:
                break
        return seen

    assert run(follow) == [end - 1, end - 1]
    found = run(lambda: status.status(settings))
    assert (found.partitions[0].seq, found.control_head, found.agents) == (
        end - 1,
        driver.control.head,
        len(driver.control.agents),
    )
    assert found.partitions[0].input_lag == sum(
        map(len, driver.inputs.values())
    )  # no group has committed anything
    assert found.clickhouse.startswith("no embedded clickhouse")


def test_dead_letters_go_back_whole_or_not_at_all(settings: Settings, driver: Driver) -> None:
    driver.feed("intents", b"z" * 5_000)
    run(lambda: publish(settings, driver))
    letters, strange = run(lambda: dead_letters.read(settings))
    assert (len(letters), strange) == (len(driver.dead_letters), 0)
    whole, cut = letters[0], letters[-1]
    assert whole.obstacle == ""
    assert "only 4,096 of its 5,000 bytes were kept" in cut.obstacle
    with pytest.raises(Terminal, match="cannot be redriven"):
        run(lambda: dead_letters.redrive(settings, [whole, cut]))
    run(lambda: dead_letters.redrive(settings, [whole]))

    async def newest() -> bytes:
        consumer = await kafka.connect(kafka.consumer(settings, f"{settings.env}.intents"))
        records = []
        while not records or records[-1].offset < driver.next_offset["intents"]:
            records += [r for batch in (await consumer.getmany(timeout_ms=1_000)).values() for r in batch]
        await consumer.stop()
        return bytes(records[-1].value)

    assert run(newest) == b"garbage"
    with pytest.raises(Terminal, match="no dead letter `999`"):
        dead_letters.pick(letters, [999])


def test_clickhouse_same_pending_and_broken(settings: Settings, driver: Driver) -> None:
    with EmbeddedClickHouse(settings.home) as server:
        run(lambda: publish(settings, driver))

        async def project() -> None:
            stop = asyncio.Event()
            projector = Projector(settings, str(settings.kafka), lambda: server.connect("sink"), None)
            task = asyncio.create_task(projector.run(stop))
            async with asyncio.timeout(CATCH_UP_S):
                while projector.rows < len(driver.records) + len(driver.control_records):
                    await asyncio.sleep(0.1)
            stop.set()
            await task

        run(project)
        report = verified(settings)
        assert report.verdict == "intact", report.as_json()
        assert report.partitions[0].clickhouse["verdict"] == "same"
        assert report.control.clickhouse["verdict"] == "same"
        for asset in sorted({touch.asset for x in driver.records for touch in touches(read(x).facts)}):
            there, here = (
                run(lambda a=asset, s=s: access.access(settings, a, source=s))
                for s in ("clickhouse", "kafka")
            )
            assert there.rows and there.rows == here.rows, asset
            assert there.until == here.until
        _pending_then_broken(settings, driver, server)


def _pending_then_broken(settings: Settings, driver: Driver, server: EmbeddedClickHouse) -> None:
    before = len(driver.records)
    counts = {topic: len(sent) for topic, sent in driver.inputs.items()}
    driver.call("desk.read", session="none")
    driver.say("hello", "none")

    async def more() -> None:
        producer = await _connect(settings)
        for record in driver.records[before:]:
            await producer.send_and_wait(f"{settings.env}.outcomes", record.value, partition=0)
        for topic, sent in driver.inputs.items():
            for value in list(sent.values())[counts[topic] :]:
                await producer.send_and_wait(f"{settings.env}.{topic}", value, partition=0)
        await producer.stop()

    run(more)
    report = verified(settings)
    assert report.ok
    assert report.pending == len(driver.records) - before
    assert report.verdict == f"intact; ClickHouse is PENDING: its sink lags by {report.pending} events"
    client = server.connect("sink", settings.env)
    at = "src_topic = 'outcomes' AND seq = 30"
    client.command(
        f"ALTER TABLE events UPDATE header = concat(header, 'x') WHERE {at} SETTINGS mutations_sync = 2"
    )
    sentence = str(verified(settings).partitions[0].violations["clickhouse"]["sentence"])
    assert "1 rows between 0 and" in sentence
    assert "do not give their hash" in sentence
    client.command(f"ALTER TABLE events DELETE WHERE {at} SETTINGS mutations_sync = 2")
    report = verified(settings)
    assert set(report.partitions[0].violations) == {"clickhouse"}
    assert f"the ledger has {before} events, ClickHouse {before - 1}" in str(
        report.partitions[0].violations["clickhouse"]["sentence"]
    )


def test_what_cannot_be_asked_is_said(settings: Settings, driver: Driver) -> None:
    with pytest.raises(Terminal, match="does not exist, run `sluicegate up`"):
        verified(settings)
    run(lambda: publish(settings, driver))
    with pytest.raises(Terminal, match="partition `7` does not exist"):
        run(lambda: verify(settings, partitions=[7]))
    with pytest.raises(Terminal, match="there is no key store under"):
        run(lambda: verify(settings, contents=True))
    assert not (settings.home / "keys").exists()
    with pytest.raises(Terminal, match="cannot be replayed"):
        run(lambda: replay.check(settings, Window("replies"), driver.keys.open))
    with pytest.raises(Terminal, match="partition `9` does not exist"):
        run(lambda: replay.check(settings, replace(Window(), first={9: 0}), driver.keys.open))
