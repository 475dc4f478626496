"""Taking calls back on a real Kafka: a cascade over two partitions, in quarantine, failing and killed half-way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson
import pytest
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import quarantines
from sluicegate.streams.undo.rollback import Wish, make_plan
from sluicegate.streams.undo.saga import How, carry_out
from typer.testing import CliRunner

from tests import shop
from tests.driver import AGENT, agents
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent, until
from tests.shop import Shop

TENANT = next(str(row["tenant"]) for row in agents() if row["agent_id"] == AGENT)
START_LIMIT_S = 120.0
"""For a command in a process of its own, on a busy machine."""
REGISTERED: tuple[str, dict[str, object]] = (
    "agents.registered", {"agents": [{"agent_id": shop.BY, "tenant": TENANT, "roles": ["rollback"]}]},
)  # fmt: skip


@dataclass
class Stand:
    """The gate, its shop, and sessions of two agents on two partitions."""

    loop: Loop
    gate: Gate
    shop: Shop
    seller: str
    other: str

    def cli(self, *arguments: str, code: int = 0) -> str:
        """`sluicegate rollback ...` in this process, which finds what the command before it was told of."""
        self.loop.run(self.gate.caught_up())
        done = CliRunner().invoke(app, ["rollback", *arguments])
        if isinstance(done.exception, Terminal):
            raise done.exception
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    def resolve(self, doubted: str, *arguments: str, who: str = "ana", code: int = 0) -> str:
        """`sluicegate in-doubt resolve ... compensated` in this process."""
        words = [
            "in-doubt",
            "resolve",
            doubted,
            "compensated",
            "--agent",
            self.seller,
            "--as",
            who,
            *arguments,
        ]
        done = CliRunner().invoke(app, words)
        if isinstance(done.exception, Terminal):
            raise done.exception
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    def look(self, *arguments: str, code: int = 0) -> dict[str, dict[str, object]]:
        """The calls of `-o json`, by intent."""
        calls = json.loads(self.cli("call", *arguments, "-o", "json", code=code))["calls"]
        return {str(call["intent_id"]): call for call in calls}

    def call(self, tool: str, agent: str, session: str, **arguments: str) -> tuple[str, dict[str, str]]:
        """(intent id, result) of a released call."""
        one = intent(tool, dict(arguments), agent=agent, session=session)
        reply = self.loop.run(self.gate.ask(one))
        assert reply.status == "released", reply
        return one.intent_id, orjson.loads(reply.result or b"null")

    def sale(self, agent: str, session: str, item: str) -> tuple[str, str]:
        """An order and its parcel: their intents."""
        ordered, result = self.call("shop.order", agent, session, item=item)
        return ordered, self.call("shop.ship", agent, session, order=result["id"])[0]

    def hand_on(self, session: str) -> str:
        """A session of the other agent, opened by the seller's."""
        new = f"s-{uuid.uuid4().hex[:8]}"
        terms = intent("", {"agent": self.other, "session": new}, agent=self.seller, session=session)
        self.loop.run(self.gate.ask(replace(terms, kind="handoff", goal="go on")))
        return new

    def session(self) -> str:
        """A new session of the seller."""
        name = f"s-{uuid.uuid4().hex[:8]}"
        self.loop.run(self.gate.open_session(self.seller, name))
        return name


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("saga"))
    people = ("people.registered", {"people": [{"person_id": "ana", "name": "Ana", "roles": []}]})
    with gates.running(settings, files=shop.FILES, control=[REGISTERED, people]) as pair:
        yield pair


@pytest.fixture
def stand(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> Stand:
    loop, gate = shared
    for name, value in {**stack.environment_of(gate.settings), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)
    tools = Shop()
    gate.adapter._behave = tools
    seller, other = gate.everywhere()
    return Stand(loop, gate, tools, seller, other)


def test_one_call_is_taken_back_once_and_read_back(stand: Stand) -> None:
    session = stand.session()
    ordered, result = stand.call("shop.order", stand.seller, session, item="a lamp")
    mailed, _ = stand.call("shop.mail", stand.seller, session, text="hello")
    refused = intent("shop.cancel", {"id": "never"}, agent=stand.seller, session=session)
    assert stand.loop.run(stand.gate.ask(refused)).status == "refused"
    assert f'to do: shop.cancel {{"id": "{result["id"]}"}}' in stand.cli("call", ordered, "--dry-run")
    assert stand.shop.orders[result["id"]] == "open"
    assert "has no `compensate`" in stand.cli("call", mailed, code=1)
    assert "nothing happened" in stand.cli("call", refused.intent_id)
    assert "read back" in stand.cli("call", ordered, "--why", "a test")
    assert stand.shop.orders[result["id"]] == "cancelled"
    assert "taken back by" in stand.cli("call", ordered)
    assert [d for d in stand.shop.done if "cancel" in d] == [f"shop.cancel {result['id']}"]
    [row] = [r for r in json.loads(stand.cli("list", "-o", "json")) if r["intent_id"] == ordered]
    assert (row["by"], row["open"], row["done"], row["verified"]) == (shop.BY, 0, 0, 1)
    unready = ("--by", "nobody-1", "--dry-run")
    assert "has no `compensate`" in stand.cli("call", mailed, *unready)
    other, _ = stand.call("shop.order", stand.seller, session, item="a table")
    said = stand.cli("call", other, *unready)
    assert (
        "to do: shop.cancel" in said
        and "first: agent `nobody-1` carries it out and is not registered" in said
    )
    with pytest.raises(Terminal, match="`nobody-1` carries it out and is not registered"):
        stand.cli("call", other, "--by", "nobody-1")
    with pytest.raises(Terminal, match="is not on the ledger"):
        stand.cli("call", "i-nobody-knows")
    with pytest.raises(Terminal, match="ordered before for agent `rollback-"):
        stand.cli("call", ordered, "--by", stand.seller)
    stand.loop.run(stand.gate.intact())


def test_a_cascade_goes_backwards_over_partitions_and_in_quarantine(stand: Stand) -> None:
    session = stand.session()
    ordered, shipped = stand.sale(stand.seller, session, "a lamp")
    mailed, _ = stand.call("shop.mail", stand.seller, session, text="on its way")
    theirs = stand.hand_on(session)
    second, parcel = stand.sale(stand.other, theirs, "a table")
    elsewhere, _ = stand.sale(stand.seller, stand.session(), "not of it")
    found = stand.look(ordered, "--cascade", "--dry-run")
    assert set(found) >= {ordered, shipped, second, parcel} and elsewhere not in found
    assert (found[shipped]["followed_from"], found[shipped]["how"]) == (ordered, "data")
    assert (found[parcel]["followed_from"], found[parcel]["how"]) == (second, "data")
    assert found[second]["how"] == "handed on"
    assert [k for k in found if found[k]["undo_tool"]] == [parcel, second, shipped, ordered], (
        "the latest first"
    )
    said = stand.cli("call", ordered, "--cascade", "--seen", code=1)
    assert said.index("cannot be taken back") < said.index("before: saga-")
    assert "nothing was done" in said and mailed in said

    async def stop() -> None:
        for scope, value in (("agent", stand.seller), ("session", session), ("tool", "shop.recall")):
            await quarantines.add(stand.gate.settings, stand.gate.keys, scope, value, "a test")
        release = stand.gate.service.control.control.deployed
        await quarantines.add(stand.gate.settings, stand.gate.keys, "release", release, "a test")

    async def lift() -> None:
        for scope, value in list((await control_log.read(stand.gate.settings)).control.quarantines):
            await quarantines.lift(stand.gate.settings, stand.gate.keys, scope, value, "a test")
        await stand.gate.service.control.wait_for((await control_log.read(stand.gate.settings)).control.head)

    try:
        stand.loop.run(stop())
        said = stand.cli("call", ordered, "--cascade", "--seen", "--partial", code=1)
    finally:
        stand.loop.run(lift())
    assert "1 left" in said, "the mail, and nothing else"
    assert [d.split()[0] for d in stand.shop.done[-4:]] == [
        "shop.recall",
        "shop.cancel",
        "shop.recall",
        "shop.cancel",
    ]
    assert stand.look(ordered, "--cascade")[ordered]["verified"] is True
    assert max(stand.shop.effects.values()) == 1
    stand.loop.run(stand.gate.intact())


def test_a_compensation_that_fails_half_way(stand: Stand) -> None:
    """What it followed from is left, another branch goes on, and the next run continues."""
    session = stand.session()
    ordered, result = stand.call("shop.order", stand.seller, session, item="a lamp")
    second, parcel = stand.sale(stand.other, stand.hand_on(session), "a table")
    shipped, _ = stand.call("shop.ship", stand.seller, session, order=result["id"])
    bad, good = stand.shop.parcels
    stand.shop.broken = {"shop.recall"}
    found = stand.look(ordered, "--cascade", code=1)
    assert {k: found[k]["stands"] for k in (ordered, shipped, second, parcel)} == dict.fromkeys((ordered, shipped, second, parcel), "left")  # fmt: skip
    assert "followed from it and is not taken back" in str(found[ordered]["why"])
    assert not [d for d in stand.shop.done if "cancel" in d]
    stand.shop.broken = set()

    async def half(call: Dispatch) -> gates.Answer:
        stand.shop.broken = {"shop.recall"} if bad in call.arguments.decode() else set()
        return await stand.shop(call)

    stand.gate.adapter._behave = half
    found = stand.look(ordered, "--cascade", code=1)
    assert {k: found[k]["stands"] for k in (ordered, shipped, second, parcel)} == {
        ordered: "left", shipped: "done", second: "left", parcel: "left",
    }  # fmt: skip
    assert found[shipped]["undo"] == undo_id(stand.seller, shipped, 2), (
        "a try that had no effect is tried anew"
    )
    stand.gate.adapter._behave, stand.shop.broken = stand.shop, set()
    found = stand.look(ordered, "--cascade")
    assert {str(call["stands"]) for call in found.values()} == {"done", "nothing"}
    assert max(stand.shop.effects.values()) == 1
    assert sorted(stand.shop.parcels.values()) == ["back", "back"] and good in stand.shop.parcels
    stand.loop.run(stand.gate.intact())


def test_a_call_in_doubt_is_taken_back_and_resolved_by_that(stand: Stand) -> None:
    """By the key it was sent with, whether it happened or not; refused, unread and interrupted, it goes on where it stopped."""
    session = stand.session()
    stand.shop.lost = {"shop.book"}
    one = intent("shop.book", {"item": "a room"}, agent=stand.seller, session=session)
    assert stand.loop.run(stand.gate.ask(one)).status == "in_doubt"
    [key] = stand.shop.bookings
    assert f'to do: shop.unbook {{"key": "{key}"}}' in stand.resolve(one.intent_id, "--dry-run")
    assert "in doubt" not in stand.cli("list") and stand.shop.bookings[key] == "open"
    ordered, _ = stand.call("shop.order", stand.seller, session, item="a lamp")
    with pytest.raises(Terminal, match="not in doubt"):
        stand.resolve(ordered)
    stand.shop.broken = {"shop.unbook"}
    assert "not resolved" in stand.resolve(one.intent_id, code=1)
    stand.shop.broken, stand.shop.deaf = set(), {"shop.unbook"}
    assert "does not hold" in stand.resolve(one.intent_id, code=1)
    assert stand.look(one.intent_id, "--dry-run")[one.intent_id]["stands"] == "cannot", "it is in doubt still"
    stand.shop.bookings[key] = "cancelled"  # by hand
    before = len(stand.gate.replies)
    assert "unknown_person" in stand.resolve(one.intent_id, who="bob", code=1), (
        "taken back, and not resolved so far"
    )
    assert "compensated, recorded" in stand.resolve(one.intent_id, "--why", "the guest called")
    _, told = stand.loop.run(stand.gate.answer(one.intent_id, before))
    assert (told.status, told.reason) == ("resolved", "compensated")
    assert "the guest called" in told.for_developer
    assert "resolved so before" in stand.resolve(one.intent_id)
    assert [d for d in stand.shop.done if d.startswith("shop.unbook")] == [f"shop.unbook {key}"], "once"
    assert max(stand.shop.effects.values()) == 1
    explained = CliRunner().invoke(app, ["explain", one.intent_id, "-o", "json"]).stdout
    assert f"taken back by `{undo_id(stand.seller, one.intent_id)}`" in explained
    assert stand.look(one.intent_id)[one.intent_id]["stands"] == "done"
    stand.loop.run(stand.gate.intact())


def test_what_the_agent_took_back_itself_is_left_alone(stand: Stand) -> None:
    session = stand.session()
    ordered, result = stand.call("shop.order", stand.seller, session, item="a lamp")
    returned, _ = stand.call("shop.cancel", stand.seller, session, id=result["id"])
    again, _ = stand.call("shop.order", stand.seller, session, item="a table")
    mailed, _ = stand.call("shop.mail", stand.seller, session, text=result["id"])
    assert f"{mailed} of {stand.seller}, which holds `{result['id']}` of it" in stand.cli(
        "call", ordered, "--cascade", "--dry-run"
    )
    for more in ((), ("--cascade",)):
        assert f"`{returned}` of `{stand.seller}` took it back already" in str(
            stand.look(ordered, *more)[ordered]["why"]
        )
        assert stand.look(again, *more, "--dry-run")[again]["stands"] == "todo"


def test_of_two_operators_at_once_one_has_to_look_again(stand: Stand) -> None:
    ordered, result = stand.call("shop.order", stand.seller, stand.session(), item="a lamp")

    async def both() -> None:
        settings, keys = stand.gate.settings, stand.gate.keys
        first, second = [await make_plan(settings, Wish(ordered), keys.open) for _ in range(2)]
        assert await carry_out(settings, keys, first, How()) > 0
        with pytest.raises(Terminal, match="control moved"):
            await carry_out(settings, keys, second, How())
        assert (
            await carry_out(settings, keys, await make_plan(settings, Wish(ordered), keys.open), How()) == -1
        )

    stand.loop.run(both())
    assert [d for d in stand.shop.done if "cancel" in d] == [f"shop.cancel {result['id']}"]


def test_what_is_read_back_says_no(stand: Stand) -> None:
    ordered, result = stand.call("shop.order", stand.seller, stand.session(), item="a lamp")
    stand.shop.deaf = {"shop.cancel"}
    found = stand.look(ordered, code=1)[ordered]
    assert (found["stands"], found["undone"], found["verified"]) == ("left", True, False)
    assert "does not hold" in str(found["why"])
    stand.shop.orders[result["id"]] = "cancelled"  # by hand
    assert stand.look(ordered)[ordered]["verified"] is True
    assert len([d for d in stand.shop.done if "cancel" in d]) == 1, "it is not undone again, only read back"


def test_the_operators_process_is_killed_half_way(stand: Stand) -> None:
    session = stand.session()
    ordered, _ = stand.sale(stand.seller, session, "a lamp")
    stand.sale(stand.other, stand.hand_on(session), "a table")
    began, go_on = stand.loop.run(_event()), stand.loop.run(_event())

    async def slow(call: Dispatch) -> gates.Answer:
        answer = await stand.shop(call)
        if call.tool == "shop.cancel" and not began.is_set():
            began.set()
            await go_on.wait()  # it was done, and nobody heard so far
        return answer

    stand.gate.adapter._behave = slow
    command = [sys.executable, "-m", "sluicegate.streams.cli", "rollback", "call", ordered, "--cascade"]
    process = subprocess.Popen(
        command, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        stand.loop.run(_wait(began, process), START_LIMIT_S + gates.LIMIT_S)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stand.loop.run(_set(go_on))
    found = stand.look(ordered, "--cascade")
    assert {str(call["stands"]) for call in found.values()} == {"done", "nothing"}
    assert set(stand.shop.orders.values()) == {"cancelled"} and set(stand.shop.parcels.values()) == {"back"}
    assert max(stand.shop.effects.values()) == 1
    stand.loop.run(stand.gate.intact())


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _wait(event: asyncio.Event, process: subprocess.Popen[bytes]) -> None:
    await until(lambda: event.is_set() or process.poll() is not None, "the first compensation", START_LIMIT_S)
    assert event.is_set(), "the command ended before it took anything back"
