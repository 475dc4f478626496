"""Model routes through a real broker and a real server: two fallbacks explained, a prompt rolled back under a running agent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import orjson
import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.egress import Egress
from sluicegate.executors.model import ModelAdapter
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.records import Reply
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from typer.testing import CliRunner

from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent, until
from tests.servers.faults import Journal
from tests.servers.model_server import model_server
from tests.unit.test_attempts import LARGE, SMALL, SPARE
from tests.unit.test_models_upstream import NEW, OLD, release_of

HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Running:
    """A gate, its loop, and the model server behind it."""

    loop: Loop
    gate: Gate
    journal: Journal
    place: str

    def ask(self, **arguments: object) -> tuple[str, Reply]:
        record = replace(intent("triage", {"messages": HELLO, **arguments}), kind="model_call")
        return record.intent_id, self.loop.run(self.gate.ask(record))

    def deploy(self, prompt: str, *, back: bool = False) -> None:
        """Deploy the release with this prompt for open sessions too, or roll back to it, and wait until the ledger decides by it."""
        made = release_of(self.place, prompt)
        digest = compile_release(made).digest

        async def run() -> None:
            about = {"digest": digest, "name": "models", "version": "1"}
            await releases.publish(self.gate.settings, made)
            events: list[tuple[str, dict[str, object]]] = [
                ("release.published", about), ("release.deployed", {"digest": digest, "now": True}),
            ]  # fmt: skip
            if back:
                events = [("release.rolled_back", {"to": digest})]
            await control_log.append(self.gate.settings, self.gate.keys, events, who="a test", why="a test")
            await until(lambda: self.gate.service.control.control.deployed == digest, "the deployment")

        self.loop.run(run())

    def told(self) -> str:
        """What the model was told last, as the server journalled it."""
        body = self.journal.bodies[-1]
        assert isinstance(body, dict)
        return str(body["messages"][0]["content"])


@contextlib.asynccontextmanager
async def everything(kafka: str, home: object, journal: Journal) -> AsyncIterator[tuple[Gate, str]]:
    settings = gates.new_settings(kafka, home)
    async with TestServer(model_server(journal).app, host="127.0.0.1") as server:
        place = f"127.0.0.1:{server.port}"
        adapter = ModelAdapter(Egress(place), {})
        async with gates.gate(settings, files=release_of(place, OLD), adapters={"model": adapter}) as gate:
            await gate.open_session()
            yield gate, place


@pytest.fixture(scope="module")
def running(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    loop, journal = Loop(), Journal()
    context = everything(kafka, tmp_path_factory.mktemp("models"), journal)
    try:
        gate, place = loop.run(context.__aenter__())
        try:
            yield Running(loop, gate, journal, place)
        finally:
            loop.run(context.__aexit__(None, None, None))
    finally:
        loop.close()


def test_a_call_that_fell_back_twice_is_explained(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ident, reply = running.ask()
    assert reply.status == "released", reply
    answer = orjson.loads(reply.result or b"")
    assert (answer["served_model"], answer["text"]) == (SPARE, "hello")
    assert running.gate.life(ident) == [
        "routed", "permitted", "validated", "dispatched", "dispatched", "dispatched", "released",
    ]  # fmt: skip
    settings = running.gate.settings
    for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
    monkeypatch.delenv("SLUICEGATE_CLICKHOUSE", raising=False)
    done = CliRunner().invoke(app, ["explain", ident])
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    for words in (
        f"{LARGE} score 1000: ok; {SMALL} score 1000: ok; {SPARE} score 1000: ok",
        f"asks {LARGE} (first)", f"asks {SMALL} (rate_limit next)", "rate_limit 429",
        f"asks {SPARE} (overload next)", "overload 503", f"{SPARE} as {SPARE}",
    ):  # fmt: skip
        assert words in told, (words, done.output)
    print(done.output)


def test_a_prompt_rolled_back_is_what_the_model_is_told_without_a_restart_of_the_agent(
    running: Running,
) -> None:
    def ask() -> str:
        _, reply = running.ask(prompt="triage", variables={"team": "night"})
        assert reply.status == "released", reply
        return running.told()

    assert ask() == "You triage mail for night."
    running.deploy(NEW)
    assert ask() == "You triage letters for night, and you are brief."
    running.deploy(OLD, back=True)
    assert ask() == "You triage mail for night."


def test_the_ledger_is_intact(running: Running) -> None:
    running.loop.run(running.gate.intact())
