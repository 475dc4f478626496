"""Quality through a real broker and ClickHouse: people score from the terminal, an evaluator scores what ended, each once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Message, ScoreFacts
from sluicegate.sinks import rollup
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams.cli import app
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import evaluator
from sluicegate.streams.watch.evaluator_role import EvaluatorRole
from typer.testing import CliRunner

from tests.driver import AGENT, PEOPLE, PERSON, release_files
from tests.integration import gate as gates
from tests.integration.gate import Gate, intent, new_id, now_us, until

SESSIONS = [f"s-{n}" for n in range(4)]
EVALUATORS = """
evaluators:
  - {name: polite, python: "tests.unit.python_tools:polite"}
  - {name: broken, python: "tests.unit.python_tools:too_good", metric: tone}
"""


async def talk(gate: Gate, session: str) -> None:
    """A session with a call, and its end."""
    await gate.open_session(AGENT, session)
    assert (await gate.ask(intent("desk.read", {"value": session}, session=session))).status == "released"
    message = Message(new_id(), AGENT, session, "session.close", now_us())
    await gate.put("messages", codec.encode(message))
    assert (await gate.answer(message.message_id))[1].status == "closed"


def scored(gate: Gate) -> list[tuple[str, str, int]]:
    """(scorer, session, value) of what counted, as the ledger has it."""
    events = [e for _, e in gate.events if e.header.stage == "score"]
    assert all(e.header.status == "scored" for e in events), "something was sent twice, or does not count"
    return [
        (e.facts.scorer, e.header.session_id, e.facts.value)
        for e in events
        if isinstance(e.facts, ScoreFacts)
    ]


async def evaluate(gate: Gate, settings: Settings, want: int) -> evaluator.Counters:
    """A worker's life: until so many sessions are scored, and a few looks more."""
    role = EvaluatorRole(settings)
    await role.start()
    try:
        assert role._evaluator is not None
        counters = role._evaluator.counters
        await until(lambda: len(scored(gate)) >= want, f"{want} scores, {counters}")
        looks = counters.looks
        await until(lambda: counters.looks >= looks + 3, "more looks")
        assert role.alive == ""
        return counters
    finally:
        await role.stop()


async def in_clickhouse(settings: Settings, sql: str, want: object) -> None:
    """Wait for an answer."""
    deadline = asyncio.get_running_loop().time() + gates.LIMIT_S
    while True:
        client = connect(settings, "reader", database(settings))
        found = client.query(sql).result_rows
        client.close()
        if found == want:
            return
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.1)


def test_people_and_an_evaluator_score_sessions_once(
    kafka: str, clickhouse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICEGATE_PYTHON_TOOLS", "tests.unit.python_tools")
    monkeypatch.setattr(evaluator, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr("sluicegate.sinks.clickhouse.ROLL_EVERY_S", 0.2)
    plain = gates.new_settings(kafka, tmp_path, partitions=1)
    settings = Settings(
        env=plain.env, kafka=kafka, home=tmp_path, partitions=1, clickhouse=f"{clickhouse}/{plain.env}"
    )
    files = release_files()
    files = {**files, "release.yaml": files["release.yaml"] + EVALUATORS}
    control = [("people.registered", {"people": PEOPLE})]

    def command(*arguments: str) -> tuple[int, str]:
        for name, value in (("ENV", settings.env), ("HOME", str(tmp_path)), ("KAFKA", kafka), ("CLICKHOUSE", settings.clickhouse)):  # fmt: skip
            monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
        done = CliRunner().invoke(app, ["feedback", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, " ".join(done.output.split())

    async def story() -> None:
        async with gates.gate(settings, control=control, files=files) as gate:
            projector = Projector(settings, kafka, lambda: connect(settings, "sink"), gate.keys)
            stop = asyncio.Event()
            copying = asyncio.create_task(projector.run(stop))
            try:
                for session in SESSIONS:
                    await talk(gate, session)
                counters = await evaluate(gate, settings, len(SESSIONS))
                assert sorted(scored(gate)) == [("polite", session, 7_500) for session in SESSIONS]
                assert counters.scores == len(SESSIONS)
                assert counters.failures == evaluator.ATTEMPTS * len(SESSIONS)
                assert counters.waiting == {"broken": "the score `7.0` is not from 0 to 1"}
                # Another worker, at once after: ClickHouse may not know the scores yet, the ledger does.
                again = await evaluate(gate, settings, len(SESSIONS))
                assert len(scored(gate)) == len(SESSIONS) and again.failures

                done = await asyncio.to_thread(
                    command, "s-0", "--score", "0.2", "--why", "rude", "--as", PERSON
                )
                assert done[0] == 0 and done[1].startswith(f"scored session `s-0` of `{AGENT}`"), done
                await until(lambda: scored(gate)[-1] == (PERSON, "s-0", 2_000), "the person's score")
                said = "SELECT count(), round(sum(value), 2) FROM quality WHERE metric = 'quality'"
                await in_clickhouse(settings, said, [(5, 3.2)])
                mean = "SELECT round(quality, 3), scores FROM sessions WHERE session_id = 's-0'"
                await in_clickhouse(settings, mean, [(0.475, 2)])
                comment = "SELECT JSONExtractString(content, 'comment') FROM contents WHERE record = 'score' ORDER BY seq DESC LIMIT 1"
                await in_clickhouse(settings, comment, [("rude",)])

                code, words = await asyncio.to_thread(command, "s-0", "--score", "1", "--as", "stranger")
                assert (code, words.startswith("not scored: unknown_person.")) == (1, True), words
                code, words = await asyncio.to_thread(command, "nowhere", "--agent", AGENT, "--score", "1", "--as", PERSON)  # fmt: skip
                assert (code, words.startswith("not scored: nothing_to_score.")) == (1, True), words
                assert (await asyncio.to_thread(command, "s-0", "--score", "1.5"))[0] == 2
                with pytest.raises(Terminal, match="say whose it is"):
                    await asyncio.to_thread(command, "nowhere", "--score", "1")
                await gate.intact()
            finally:
                stop.set()
                await copying

    assert rollup.ROLL_EVERY_S >= 1
    asyncio.run(story())
