"""The evaluator's scorers: a real function in a process, a real model server on loopback, and what counts as an answer.

Looking, sampling and publishing once: `tests/integration/test_quality.py`.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter
from sluicegate.executors.python import PythonAdapter
from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.records import Score
from sluicegate.streams.watch.evaluator import FACTS, Evaluator, read_verdict

from tests.driver import T0, release_files
from tests.servers.faults import Journal
from tests.servers.model_server import model_server

JUDGE = {
    "name": "judge",
    "inputSchema": {"type": "object", "properties": {"messages": {"type": "array"}}},
    "x-sluicegate": {
        "executor": {"kind": "model", "url": "${MODELS}/ok/v1", "model": "small", "max_tokens": 64}
    },
}
FILES = {
    **release_files(),
    "contracts/judge.json": json.dumps(JUDGE),
    "prompts/judge.md": 'Judge the session. Answer {"score": 0.5, "why": "..."}.\n',
    "release.yaml": release_files()["release.yaml"]
    + """
evaluators:
  - {name: judge, contract: judge, prompt: judge}
  - {name: polite, python: "tests.unit.python_tools:polite"}
  - {name: late, python: "tests.unit.python_tools:asleep", timeout_s: 1}
  - {name: hidden, python: "os:getpid"}
""",
}
SESSION = {
    "agent_id": "a",
    "session_id": "s",
    "tenant": "t",
    "failed": 0,
    "calls": 2,
    "events": [{"tool": "pay"}],
}


def ask(name: str, **more: object) -> tuple[tuple[int, str] | str, Journal]:
    """One question of the evaluator to one of its scorers."""
    release, journal = compile_release(FILES), Journal()

    async def nowhere(score: Score) -> None:
        raise AssertionError(score)

    async def main() -> tuple[int, str] | str:
        async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
            place = f"127.0.0.1:{server.port}"
            adapters = {
                "model": ModelAdapter(Egress(place), {"MODELS": f"http://{place}"}, environ={}),
                "python": PythonAdapter(prefixes=["tests.unit.python_tools"]),
            }
            try:
                one = Evaluator(lambda: None, Control, adapters, nowhere, lambda: T0)
                return await one._ask(release, row_of(release, name), {**SESSION, **more})
            finally:
                for adapter in adapters.values():
                    await adapter.close()

    return asyncio.run(main()), journal


def row_of(release: CompiledRelease, name: str) -> object:
    return next(row for row in release.evaluators if row.name == name)


def test_a_function_scores() -> None:
    assert ask("polite")[0] == (7_500, "2 calls of pay")
    assert ask("polite", failed=1)[0] == (2_500, "2 calls of pay")


def test_a_model_scores_with_the_prompt_of_the_release() -> None:
    """The server says what it was told: the session as JSON, which names a score here."""
    verdict, journal = ask("judge", score=0.125, why="short")
    assert verdict == (1_250, "short")
    (body,) = journal.bodies
    first, second = body["messages"]  # type: ignore[index]
    assert (first["role"], first["content"]) == ("system", FILES["prompts/judge.md"])
    assert json.loads(second["content"])["session_id"] == "s"
    assert body["max_tokens"] == 64  # type: ignore[index]
    assert body["response_format"] == {"type": "json_object"}  # type: ignore[index]


class Store:
    """A ClickHouse with so many sessions that ended, and what is scored of them; says it by what a query reads."""

    def __init__(self, sessions: int) -> None:
        self.sessions = [(f"s{n}", at_us(n * 1_000)) for n in range(sessions)]
        self.scored: list[tuple[object, ...]] = []

    def query(self, sql: str, parameters: dict[str, str]) -> SimpleNamespace:
        """The rows of one of the evaluator's three queries."""
        if "'scored'" in sql:
            return SimpleNamespace(result_rows=self.scored)
        rows = (
            [("a", s, at, at, *([0] * len(FACTS))) for s, at in self.sessions]
            if "sessions_since" in sql
            else []
        )
        return SimpleNamespace(result_rows=rows)

    def close(self) -> None:
        """Nothing to close."""


def at_us(after: int) -> datetime:
    return datetime.fromtimestamp((T0 + after) / 1e6, UTC)


def test_an_hour_has_a_bound_and_a_restart_does_not_begin_another() -> None:
    text = FILES["release.yaml"].partition("evaluators:")[0]
    text += 'evaluators:\n  - {name: polite, python: "tests.unit.python_tools:polite", per_hour: 5}\n'
    control = Control(release=compile_release({**FILES, "release.yaml": text}))
    store, now = Store(12), T0 + 60_000_000

    async def worker(looks: int) -> list[int]:
        async def publish(score: Score) -> None:
            store.scored.append((score.scorer, score.agent_id, score.session_id, at_us(now - T0)))

        adapter = PythonAdapter(prefixes=["tests.unit.python_tools"])
        one = Evaluator(lambda: store, lambda: control, {"python": adapter}, publish, lambda: now)
        try:
            return [await one.look() for _ in range(looks)]
        finally:
            await adapter.close()

    store.sessions, later = store.sessions[:3], store.sessions
    assert asyncio.run(worker(2)) == [3, 0]
    store.sessions = later
    assert asyncio.run(worker(2)) == [2, 0], "another worker, in the same hour"
    assert asyncio.run(worker(1)) == [0]
    now += 3_601_000_000
    assert asyncio.run(worker(2)) == [5, 0]
    assert len({row[2] for row in store.scored}) == 10


def test_what_fails_is_no_score() -> None:
    for name, said in (("judge", "no number `score`"), ("late", "timeout"), ("hidden", "egress_denied")):
        verdict = ask(name)[0]
        assert isinstance(verdict, str) and said in verdict, (name, verdict)


@pytest.mark.parametrize(
    ("result", "model", "said"),
    [
        (b"0", False, (0, "")),
        (b"1", False, (10_000, "")),
        (b'{"score":0.3333}', False, (3_333, "")),
        (b'{"text":"{\\"score\\": 1, \\"why\\": \\"good\\"}"}', True, (10_000, "good")),
        (b"1.01", False, "not from 0 to 1"),
        (b"-0.1", False, "not from 0 to 1"),
        (b"true", False, "no number"),
        (b'"0.5"', False, "no number"),
        (b'{"text":"very good"}', True, "no JSON"),
        (b"[]", True, "no JSON"),
    ],
)
def test_only_numbers_from_nought_to_one_are_scores(
    result: bytes, model: bool, said: tuple[int, str] | str
) -> None:
    found = read_verdict(result, of_a_model=model)
    assert found == said or (isinstance(said, str) and isinstance(found, str) and said in found), found
