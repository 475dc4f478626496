"""Streamed answers through a real broker, from a server that breaks off to an agent that reads, replaces, or goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import aiohttp
import orjson
import pytest
import yaml
from aiohttp.test_utils import TestServer
from sluicegate.executors.egress import Egress
from sluicegate.executors.gates import ReleaseGates
from sluicegate.executors.model import ModelAdapter
from sluicegate.executors.outlet import KafkaOutlet
from sluicegate.executors.verifier import Follower
from sluicegate.gateway.server import Gateway
from sluicegate.processors.control.api_keys import token_of
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable
from sluicegate.streams import kafka as kafka_clients
from sluicegate.streams.cli import app
from sluicegate.streams.client import AgentClient, Ended, Failed, Session, Started, Text, Withheld
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import quarantines
from sluicegate.streams.lanes.service import wall_clock
from sluicegate.streams.sdk.transport import KafkaTransport
from typer.testing import CliRunner

from tests.driver import AGENT, release_files
from tests.executor_fakes import dispatch
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, until
from tests.servers.faults import Journal
from tests.servers.model_server import model_server
from tests.stream_fakes import Screen
from tests.unit.test_attempts import contract
from tests.unit.test_gateway_access import KEY

SAID = "The first sentence stands here. Write to bob@example.com now. The third one follows."
MODELS = {  # contract -> fault and how it streams
    "m.cut": ("cut_after=5", {"stream": "open"}),
    "m.stalls": ("stall_after=5", {"stream": "open", "idle_ms": 300}),
    "m.spare": ("ok", {"stream": "open"}),
    "m.gated": ("gap_s=0.01", {"stream": "gated"}),
    "m.endless": ("gap_s=0.2", {"stream": "open"}),
}
ROUTES = {
    "cut": ["m.cut", "m.stalls", "m.spare"], "open": ["m.spare"], "gated": ["m.gated"], "endless": ["m.endless"],
}  # fmt: skip
RULES = """
guardrails:
  - {id: no-mail, on: result, tools: [gated], detect: [email]}
budgets:
  - {id: words, scope: agent, unit: tokens, cap: 1000000}
"""


def release_of(place: str) -> dict[str, str]:
    """A route for each way a stream goes."""
    made = release_files()
    models = {name: {"candidates": [{"contract": c} for c in ways]} for name, ways in ROUTES.items()}
    actions = ", ".join(f'Action::"{name}"' for name in ROUTES)
    return {
        **made,
        "release.yaml": made["release.yaml"] + yaml.safe_dump({"models": models}) + RULES,
        "policies/model.cedar": f'@id("models")\npermit (principal, action in [{actions}], resource);\n',
        **{
            f"contracts/{name}.json": contract(name, url=f"http://{place}/{fault}/v1", **how)
            for name, (fault, how) in MODELS.items()
        },
    }


@dataclass
class Running:
    """A gate with a model server behind it, and an agent before it."""

    loop: Loop
    gate: Gate
    journal: Journal
    session: Session

    def last_id(self) -> str:
        """Of the last model call the ledger knows."""
        self.loop.run(self.gate.caught_up())
        found = [e.header.intent_id for _, e in self.gate.events if isinstance(e.facts, r.StreamFacts)]
        return found[-1]

    def end_of(self, ident: str) -> r.StreamedFacts:
        """What the ledger keeps of a stream's end."""

        def ends() -> list[r.StreamedFacts]:
            mine = [e.facts for _, e in self.gate.events if e.header.intent_id == ident]
            return [f for f in mine if isinstance(f, r.StreamedFacts)]

        self.loop.run(until(ends, f"the end of `{ident}`"))
        (end,) = ends()
        return end

    def settled(self, ident: str) -> list[int]:
        """What its budget was charged, once that is so."""
        mine = [e.facts for _, e in self.gate.events if e.header.intent_id == ident]
        return [sum(f.spent) for f in mine if isinstance(f, r.BudgetFacts) and f.what == "settled"]

    def explain(self, ident: str, monkeypatch: pytest.MonkeyPatch) -> str:
        self.environment(monkeypatch)
        done = CliRunner().invoke(app, ["explain", ident])
        assert done.exit_code == 0, done.output
        print(done.output)
        return " ".join(done.output.split())

    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As commands find it."""
        settings = self.gate.settings
        for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
            monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
        monkeypatch.delenv("SLUICEGATE_CLICKHOUSE", raising=False)


@contextlib.asynccontextmanager
async def everything(kafka: str, home: object, journal: Journal) -> AsyncIterator[tuple[Gate, Session]]:
    settings = gates.new_settings(kafka, home)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(model_server(journal).app, host="127.0.0.1"))
        place = f"127.0.0.1:{server.port}"
        outlet = KafkaOutlet(settings, "test", wall_clock)
        made: list[Gate] = []

        def stopped(d: r.Dispatch) -> str:
            return Follower(made[0].service.control).stopped(d)

        adapter = ModelAdapter(
            Egress(place), {}, outlet=outlet, gates=ReleaseGates(settings), stopped=stopped
        )
        gate = await stack.enter_async_context(
            gates.gate(settings, files=release_of(place), adapters={"model": adapter})
        )
        made.append(gate)
        await outlet.start()
        stack.push_async_callback(outlet.stop)
        agent = await stack.enter_async_context(AgentClient(AGENT, settings=settings))
        yield gate, await stack.enter_async_context(agent.session("a stream"))


@pytest.fixture(scope="module")
def running(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    loop, journal = Loop(), Journal()
    context = everything(kafka, tmp_path_factory.mktemp("streams"), journal)
    try:
        gate, session = loop.run(context.__aenter__())
        try:
            yield Running(loop, gate, journal, session)
        finally:
            loop.run(context.__aexit__(None, None, None))
    finally:
        loop.close()


def messages(text: str = SAID) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


def test_fallbacks_after_the_first_token_begin_messages_that_name_the_old_ones(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[object] = []

    async def read() -> None:
        async for part in running.session.stream_model("cut", messages()):  # type: ignore[arg-type]
            parts.append(part)

    running.loop.run(read())
    screen = Screen()
    screen.show(parts)  # type: ignore[arg-type]
    first, second, third = screen.started
    assert [(s.model, s.mode) for s in screen.started] == [
        ("m.cut", "open"),
        ("m.stalls", "open"),
        ("m.spare", "open"),
    ]
    assert (first.replaces, second.replaces, third.replaces) == ("", first.message, second.message)
    before = "".join(p.text for p in parts[: parts.index(second)] if isinstance(p, Text))
    assert before == "The first sentence stands ", "shown before its attempt had ended"
    ended = parts[-1]
    assert isinstance(ended, Ended) and ended.matched and isinstance(ended.result, dict)
    assert screen.text == ended.result["text"] == SAID
    ident = running.last_id()
    end = running.end_of(ident)
    assert end.same and end.message == third.message
    offers = [
        e.facts
        for _, e in running.gate.events
        if e.header.intent_id == ident and isinstance(e.facts, r.StreamFacts)
    ]
    assert [o.replaces for o in offers] == ["", first.message, second.message]
    assert all(o.replaced_digest for o in offers[1:]), "one digest an attempt"
    told = running.explain(ident, monkeypatch)
    for words in (
        "asks m.cut (first), streamed open", f"streamed open, replaces message {first.message}",
        f"replaces message {second.message}", "broke", "in time", "server_error next", "timeout next", f"streamed open, message {third.message} of", "as released",
    ):  # fmt: skip
        assert words in told, words


def test_a_hit_in_the_middle_stops_what_is_shown_and_the_verdict_is_the_ledgers(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []

    async def read() -> None:
        with pytest.raises(Withheld):
            async for part in running.session.stream_model("gated", messages()):  # type: ignore[arg-type]
                shown.append(part)

    running.loop.run(read())
    assert "".join(p.text for p in shown if isinstance(p, Text)) == "The first sentence stands here. "
    ident = running.last_id()
    end = running.end_of(ident)
    assert (end.mode, end.same) == ("gated", False) and end.pieces >= 2
    assert "streamed gated" in running.explain(ident, monkeypatch)
    fine: list[object] = []

    async def again() -> None:
        async for part in running.session.stream_model("gated", messages("One. Two. Three.")):  # type: ignore[arg-type]
            fine.append(part)

    running.loop.run(again())
    assert next(p.text for p in fine if isinstance(p, Text)) == "One. ", "by sentences"
    assert isinstance(fine[-1], Ended) and fine[-1].matched


def test_a_reader_that_goes_away_costs_the_call_and_nothing_else(running: Running) -> None:
    text = "one two three four five six"

    async def leave() -> None:
        stream = running.session.stream_model("endless", messages(text))  # type: ignore[arg-type]
        assert isinstance(await anext(stream), Started)
        await stream.aclose()  # type: ignore[attr-defined]

    running.loop.run(leave())
    ident = running.last_id()
    end = running.end_of(ident)
    assert end.same and end.streamed
    running.loop.run(until(lambda: running.settled(ident), "the settling"))
    assert running.settled(ident) == [12] == [end.input_tokens + end.output_tokens], (
        "what the server counted, to its last word"
    )


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/v1/responses"])
def test_a_client_of_the_gateway_that_goes_away_in_mid_stream(running: Running, door: str) -> None:
    """It heard a word and hangs up: the call goes on to its end and is settled, and the gateway keeps nothing of it."""
    gate, ident, text = (
        running.gate,
        f"gone{door.replace('/', '-')}",
        " ".join(f"w{n}" for n in range(25)),
    )  # 5 s
    asked = {"input": text} if door.endswith("responses") else {"messages": messages(text)}

    async def main() -> None:
        key = ("api_key.added", {**KEY, "key_id": ident})
        await control_log.append(gate.settings, gate.keys, [key], who="a test", why="")
        gateway = Gateway(gate.settings)
        await gateway.start()
        headers = {"x-api-key": token_of(gate.settings.env, ident, "s"), "x-sluicegate-intent": ident}
        async with aiohttp.ClientSession() as client:
            body = {"model": "endless", "stream": True, **asked}
            async with client.post(gateway.url + door, json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                async for line in answer.content:
                    if b"w0 " in line:
                        break
                assert gateway.gate.under_way == 1 and "released" not in gate.life(ident)
                answer.close()
            await until(
                lambda: not gateway.gate.under_way and not gateway.gate.under_way_of,
                "nobody waits at the door",
            )
            assert "released" not in gate.life(ident), "it let go at once, not when the call had ended"
            [asker] = gateway.gate.hub._askers.values()
            assert not len(asker.inbox) and not asker.feeds._feeds
            async with client.get(f"{gateway.url}/v1/intents/{ident}?wait_s=20", headers=headers) as told:
                assert (told.status, (await told.json())["result"]["text"]) == (200, text)
        await gateway.stop()

    running.loop.run(main())
    end = running.end_of(ident)
    assert end.same and end.streamed
    running.loop.run(until(lambda: running.settled(ident), "the settling"))
    assert running.settled(ident) == [50] == [end.input_tokens + end.output_tokens]


def test_a_quarantine_ends_a_stream_that_runs(running: Running) -> None:
    """Whoever reads it is told `quarantined`, and what was reserved is spent: nobody says what it used."""
    gate, shown = running.gate, []
    text = " ".join(f"word-{n}" for n in range(140))  # 28 s, if nobody stopped it

    async def read() -> int:
        with pytest.raises(Failed) as failed:
            async for part in running.session.stream_model("endless", messages(text)):  # type: ignore[arg-type]
                if isinstance(part, Text):
                    if not shown:
                        await quarantines.add(gate.settings, gate.keys, "tool", "endless", "a test")
                    shown.append(part.text)
        assert failed.value.reason == "quarantined"
        return gate.service.control.control.at

    stopped_at = running.loop.run(read())
    ident = running.last_id()
    end = running.end_of(ident)
    assert text.startswith("".join(shown)) and len("".join(shown)) < len(text)
    assert end.error_class == "quarantined" and end.pieces > 1 and end.streamed
    [ended] = [
        e.header for _, e in gate.events if e.header.intent_id == ident and e.header.status == "failed"
    ]
    assert ended.decided_at - stopped_at < 5_000_000
    mine = [
        e.facts for _, e in gate.events if e.header.intent_id == ident and isinstance(e.facts, r.BudgetFacts)
    ]
    assert sum(mine[-1].spent) == sum(mine[0].reserved) > 0
    running.loop.run(quarantines.lift(gate.settings, gate.keys, "tool", "endless", "over"))


def test_the_command_shows_it_as_it_comes(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.environment(monkeypatch)
    asked = orjson.dumps({"messages": messages()}).decode()
    done = CliRunner().invoke(app, ["call", "cut", asked, "--stream", "--agent", AGENT])
    assert done.exit_code == 0, done.output
    first, second, third = done.stderr.split("-- that was not the answer; another model begins:")
    assert first.strip() == second.strip() == "The first sentence stands"
    said, _, hint = third.partition("sluicegate explain")
    assert " ".join(said.split()) == SAID and hint
    assert orjson.loads(done.stdout[: done.stdout.rindex("}") + 1])["text"] == SAID


def test_many_at_once_are_not_mixed_up(running: Running) -> None:
    async def one(n: int) -> str:
        screen = Screen()
        said = " ".join(f"w{n}-{i}." for i in range(40))
        ended: object = None
        async for part in running.session.stream_model("open", messages(said)):  # type: ignore[arg-type]
            screen.show([part])
            ended = part
        assert isinstance(ended, Ended) and isinstance(ended.result, dict)
        assert screen.text == ended.result["text"] == said
        return screen.text

    async def all_of_them() -> None:
        texts = await asyncio.gather(*(one(n) for n in range(12)))
        assert len(set(texts)) == 12

    running.loop.run(all_of_them())


def test_where_the_topic_is_missing_answers_come_whole(running: Running) -> None:
    """An environment of an earlier version: nobody makes the topic by asking for it, and nobody waits for it."""
    elsewhere = replace(running.gate.settings, env=gates.new_settings("", "").env)

    async def look() -> None:
        outlet = KafkaOutlet(elsewhere, "test", wall_clock)
        await outlet.start()
        try:
            assert outlet.open(dispatch(1)) is None
        finally:
            await outlet.stop()
        transport = KafkaTransport(elsewhere, AGENT)
        try:
            with pytest.raises(Retryable, match="sluicegate topics create"):
                await transport.listen(lambda key, value: None)
        finally:
            await transport.stop()
        client = await kafka_clients.connect(kafka_clients.admin(elsewhere))
        try:
            assert not [t for t in await client.list_topics() if t.startswith(elsewhere.env)]
        finally:
            await client.close()

    running.loop.run(look())


def test_the_ledger_is_intact(running: Running) -> None:
    running.loop.run(running.gate.intact())
