"""The evaluator's scorers: a real function in a process, a real model server on loopback, and what counts as an answer.

Looking, sampling and publishing once: `tests/integration/test_quality.py`.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter
from sluicegate.executors.python import PythonAdapter
from sluicegate.processors.control import Control
from sluicegate.processors.release import CompiledRelease, compile_release
from sluicegate.schemas.records import Score
from sluicegate.streams.evaluator import Evaluator, read_verdict

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
