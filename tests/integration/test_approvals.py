"""Approvals through a real broker, from the terminal: two people agree and it runs once; one byte changed is void."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.schemas.records import Dispatch, ReviewFacts
from sluicegate.streams.cli import app
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.settings import Settings
from typer.testing import CliRunner

from tests.driver import AGENT, PEOPLE, PERSON
from tests.integration import gate as gates
from tests.integration.gate import RESULT, Gate, Loop, intent, until
from tests.integration.test_signed import FOREVER, MAC, PIPELINE_MAC, key_added, write_macs
from tests.integration.test_signed import signed as envelope

BEN, CEM = "person-3", "person-4"


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("approvals"))
    control = [("people.registered", {"people": PEOPLE})]
    with gates.running(settings, control=control) as (loop, gate):
        gate.adapter._behave = note
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        yield loop, gate


@pytest.fixture
def run(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(shared[1].settings, monkeypatch)


class Runner:
    """`sluicegate ...` against the gate."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka)):
            monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
        monkeypatch.delenv("SLUICEGATE_CLICKHOUSE", raising=False)

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, (done.output, done.exception)
        return done

    def json(self, *arguments: str) -> object:
        return json.loads(self(*arguments, "-o", "json").stdout)


def hold(loop: Loop, gate: Gate, value: str = "1000", *, agent: str = AGENT) -> str:
    """A held call's id."""

    async def ask() -> str:
        record = intent("desk.wire", {"value": value}, agent=agent)
        reply = await gate.ask(record)
        assert reply.status == "held", reply
        return record.intent_id

    return loop.run(ask())


RAN: list[Dispatch] = []
"""Every call of a tool."""


async def note(work: Dispatch) -> Answer:
    RAN.append(work)
    return Finished(RESULT)


def calls(ident: str) -> int:
    """How often the tool was called for an intent."""
    return sum(work.intent_id == ident for work in RAN)


def lived(loop: Loop, gate: Gate, ident: str, life: list[str]) -> None:
    """Wait until this is the intent's life, as the gate reads the ledger; it never is longer."""
    loop.run(until(lambda: len(gate.life(ident)) >= len(life), "the life"))
    assert gate.life(ident) == life


def changed(digest: str) -> str:
    """The same but for one bit of its first byte."""
    return f"{int(digest[:2], 16) ^ 1:02x}{digest[2:]}"


def test_two_people_agree_and_it_is_executed_once(shared: tuple[Loop, Gate], run: Runner) -> None:
    loop, gate = shared
    ident = hold(loop, gate)
    [listed] = [row for row in run.json("approvals") if row["intent_id"] == ident]  # type: ignore[attr-defined]
    assert (listed["agent_id"], listed["tool"], listed["agreed"]) == (AGENT, "desk.wire", "0 of 2")
    assert (listed["why"], listed["reviewers"]) == ("two people agree to this", "desk or treasury")
    assert ident in run("approvals").stdout
    shown = run.json("approvals", "show", ident)
    assert shown["arguments"] == {"value": "1000"} and shown["exact"] is True  # type: ignore[index,call-overload]
    first = run("approve", ident, "--as", PERSON, "--why", "I know them")
    assert f"agreed: {PERSON} (1 of 2); 1 more must agree" in first.stdout
    again = run("approve", ident, "--as", PERSON, code=1)
    assert "void: already_approved. another person has to agree" in again.stdout
    assert calls(ident) == 0
    second = run("approve", ident, "--as", BEN)
    assert f"approved `{ident}` as `{BEN}`: released" in second.stdout
    third = run("approve", ident, "--as", CEM, code=1)
    assert f"`{ident}` is not held" in third.stdout
    assert calls(ident) == 1
    lived(loop, gate, ident, ["routed", "held", "held", "noted", "held", "permitted", "validated", "dispatched",
                              "claimed", "released"])  # fmt: skip


def test_one_byte_changed_is_void(shared: tuple[Loop, Gate], run: Runner) -> None:
    loop, gate = shared
    ident = hold(loop, gate)
    run("approve", ident, "--as", PERSON)
    digest = run.json("approvals", "show", ident)["action_digest"]  # type: ignore[index,call-overload]
    void = run("approve", ident, "--as", BEN, "--digest", changed(digest), code=1)
    assert "void: digest_mismatch. approve the digest that is shown" in void.stdout
    assert calls(ident) == 0
    lived(loop, gate, ident, ["routed", "held", "held", "noted"])
    assert "released" in run("approve", ident, "--as", BEN, "--digest", digest).stdout
    assert calls(ident) == 1


def test_an_edit_and_what_others_see_of_it(shared: tuple[Loop, Gate], run: Runner, tmp_path: Path) -> None:
    loop, gate = shared
    ident = hold(loop, gate)
    run("approve", ident, "--as", PERSON)
    (tmp_path / "less.json").write_text('{ "value": "10" }')
    nothing = run("approve", ident, "--as", BEN, "--edit", f"@{tmp_path / 'less.json'}", "--dry-run")
    assert "nothing was sent" in nothing.stdout
    edited = run("approve", ident, "--as", BEN, "--edit", f"@{tmp_path / 'less.json'}")
    assert '-   "value": "1000"' in edited.stdout and '+   "value": "10"' in edited.stdout
    assert "1 more must agree to the edited call" in edited.stdout
    shown = run("approvals", "show", ident).stdout
    assert "changed by a person" in shown and '+   "value": "10"' in shown and f"agreed: {BEN}" in shown
    assert "released" in run("approve", ident, "--as", PERSON).stdout
    [work] = [w for w in RAN if w.intent_id == ident]
    assert work.arguments == b'{"value":"10"}'
    wrong = CliRunner().invoke(app, ["approve", hold(loop, gate), "--as", BEN, "--edit", '{"value": 7}'])
    assert "do not fit `desk.wire`" in str(wrong.exception)


def test_a_rejection_ends_it(shared: tuple[Loop, Gate], run: Runner) -> None:
    loop, gate = shared
    ident = hold(loop, gate)
    assert "unknown_person" in run("reject", ident, "--as", "eve", "--why", "no", code=1).stdout
    done = run("reject", ident, "--as", PERSON, "--why", "not our supplier")
    assert f"rejected `{ident}` as `{PERSON}`" in done.stdout
    loop.run(
        until(
            lambda: [r.reason for _, r in gate.replies if r.intent_id == ident][-1:] == ["approval_rejected"],
            "the reply",
        )
    )
    assert calls(ident) == 0


def test_held_calls_survive_a_restart(shared: tuple[Loop, Gate], run: Runner) -> None:
    """From a snapshot and from the ledger alone; one approval before, one after."""
    loop, gate = shared
    ident = hold(loop, gate)
    run("approve", ident, "--as", PERSON)

    async def restart() -> None:
        for lane in list(gate.service.lanes.values()):
            await lane.snapshot()
        await gate.service.stop()
        gate.service = LedgerService(gate.settings, gate.keys)
        await gate.service.start()
        await until(lambda: len(gate.service.lanes) == gate.settings.partitions, "the partitions")

    [before] = [row for row in run.json("approvals") if row["intent_id"] == ident]  # type: ignore[attr-defined]
    loop.run(restart())
    [after] = [row for row in run.json("approvals") if row["intent_id"] == ident]  # type: ignore[attr-defined]
    assert {**after, "age": 0, "expires_in": 0} == {**before, "age": 0, "expires_in": 0}
    assert after["agreed"] == "1 of 2"
    assert "released" in run("approve", ident, "--as", BEN).stdout
    assert calls(ident) == 1


def test_held_calls_survive_a_rebalance(shared: tuple[Loop, Gate], run: Runner) -> None:
    """A second worker takes partitions over while people decide; one agrees before, one when it is alone."""
    loop, gate = shared
    holds = {agent: hold(loop, gate, agent=agent) for agent in gate.everywhere()}
    first, second = gate.service, LedgerService(gate.settings, gate.keys)

    async def join() -> None:
        await second.start()
        await until(lambda: len(first.lanes) == len(second.lanes) == 1, "a partition each", 60)
        gate.service = second

    async def leave() -> None:
        await first.stop()
        await until(lambda: len(second.lanes) == gate.settings.partitions, "all partitions", 60)

    loop.run(join())
    for ident in holds.values():
        run("approve", ident, "--as", PERSON)
    loop.run(leave())
    for ident in holds.values():
        assert "released" in run("approve", ident, "--as", BEN).stdout
        assert calls(ident) == 1


def test_what_the_session_did_before_is_shown(shared: tuple[Loop, Gate], run: Runner) -> None:
    loop, gate = shared

    async def history() -> str:
        record = intent("desk.read", {"value": "balance\u202e"})
        assert (await gate.ask(record)).result == RESULT
        return record.intent_id

    loop.run(history())
    shown = run("approvals", "show", hold(loop, gate, "\u202eevil")).stdout
    assert "desk.read" in shown and "for person-1" in shown and "policy desk-wire" in shown
    assert "\u202e" not in shown and "\\u202eevil" in shown


@pytest.fixture(scope="module")
def signed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    """A signed environment; the keys of two people lie in its home."""
    home = tmp_path_factory.mktemp("signed-approvals")
    write_macs(home, {"executor-1": MAC.hex(), "pipeline-1": PIPELINE_MAC.hex()})
    settings = gates.new_settings(kafka, home)
    control = [
        ("people.registered", {"people": PEOPLE}),
        key_added("agent-1", AGENT, "agent"),
        key_added("channel-1", "chat", "channel"),
        key_added("executor-1", "executor", "executor", "HS256"),
        key_added("pipeline-1", "pipeline", "pipeline", "HS256"),
    ]
    for person in (PERSON, BEN):
        made = key_files.create(key_files.default_path(home, f"{person}.key"), f"{person}.key")
        about = {
            "principal": person,
            "role": "person",
            "alg": "Ed25519",
            "not_before": 0,
            "not_after": FOREVER,
        }
        control.append(("key.added", {"kid": made.kid, "public": made.public.hex(), **about}))
    with gates.running(settings, signing="signed", control=control) as (loop, gate):
        gate.wrap = lambda value, topic: envelope(
            gate, value, topic, "channel-1" if topic == "messages" else "agent-1"
        )
        gate.adapter._behave = note
        loop.run(gate.open_session())
        yield loop, gate


def test_each_person_signs_with_a_key_of_their_own(
    signed: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, gate = signed
    run = Runner(gate.settings, monkeypatch)
    ident = hold(loop, gate)
    bens = str(key_files.default_path(gate.settings.home, f"{BEN}.key"))
    nobodys = gate.settings.home / "nobodys.jwk"
    key_files.create(nobodys, "nobodys")
    assert "void: wrong_signer" in run("approve", ident, "--as", PERSON, "--key", bens, code=1).stdout
    assert "void: unknown_key" in run("approve", ident, "--as", PERSON, "--key", str(nobodys), code=1).stdout
    missing = CliRunner().invoke(app, ["approve", ident, "--as", CEM])
    assert "no valid key of `person-4` lies here" in str(missing.exception)
    assert calls(ident) == 0
    assert "(1 of 2)" in run("approve", ident, "--as", PERSON).stdout
    assert f"as `{BEN}`: released" in run("approve", ident, "--key", bens).stdout
    assert calls(ident) == 1

    def reviews() -> list[ReviewFacts]:
        return [e.facts for _, e in gate.events if isinstance(e.facts, ReviewFacts)]

    loop.run(until(lambda: len(reviews()) >= 2, "both words on the ledger"))
    assert [(f.reviewer, f.authenticated) for f in reviews()] == [(PERSON, True), (BEN, True)]
    edited = hold(loop, gate)
    run("approve", edited, "--as", PERSON, "--edit", '{"value": "less"}')
    assert "released" in run("approve", edited, "--as", BEN).stdout
    assert [w.arguments for w in RAN if w.intent_id == edited] == [b'{"value":"less"}']
    loop.run(gate.intact())


def test_intact(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    loop.run(gate.intact())
