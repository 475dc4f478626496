"""Reproducing chosen intents: what the same bytes, other bytes and missing things are called, and why."""

from __future__ import annotations

import asyncio
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.replay import reproduce
from sluicegate.processors.replay.reproduce import Remade, Reproduce, Result
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.reproduce import exit_code
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.replay import engines
from sluicegate.streams.replay.engines import Engine, FailedError, MissingError
from sluicegate.streams.replay.reproduce import Best, Period, Targets

from tests.driver import AGENT, Driver, Record, read, release
from tests.forging import forge, with_header


@pytest.fixture
def driver() -> Driver:
    """A ledger with a bit of everything, under two releases."""
    made = Driver()
    made.everyday(1)
    made.deploy(release(edition="2"))
    made.everyday(1)
    return made


def of(driver: Driver, intent: str, records: list[Record] | None = None) -> list[Remade]:
    """One intent of the driver's, decided again."""
    again = Reproduce(
        driver.partition, driver.controls, driver.keys.open, {(AGENT, intent)}, lambda s: f"`{s}` is gone"
    )
    for record in driver.records if records is None else records:
        again.add(*record)
    again.finish()
    return again.rows


def intent_of(driver: Driver, status: str) -> str:
    """The last intent that had a status."""
    return [e.header.intent_id for e in map(read, driver.records) if e.header.status == status][-1]


def test_only_the_chosen_are_compared_and_are_the_same(driver: Driver) -> None:
    for status in ("released", "refused", "held"):
        rows = of(driver, intent_of(driver, status))
        assert rows and {row.verdict for row in rows} == {reproduce.SAME}
        assert {row.intent_id for row in rows} == {intent_of(driver, status)}


@pytest.mark.parametrize(
    ("status", "changes", "cause", "field"),
    [
        ("refused", {"reason": "policy_error"}, "decision", "reason"),
        ("dispatched", {"release": "sha256:" + "0" * 64}, "release", "release"),
        ("dispatched", {"policies": ["another"]}, "decision", "policies"),
        ("dispatched", {"labels": ["trusted"]}, "header", "labels"),
    ],
)
def test_what_is_different_is_named_with_its_cause(
    driver: Driver, status: str, changes: dict[str, object], cause: str, field: str
) -> None:
    intent = intent_of(driver, status)

    def change(events):  # type: ignore[no-untyped-def]
        at = max(i for i, e in enumerate(events) if (e.header.status, e.header.intent_id) == (status, intent))
        return [*events[:at], with_header(events[at], **changes), *events[at + 1 :]]

    bad = [row for row in of(driver, intent, forge(driver, change)) if row.verdict != reproduce.SAME]
    assert (bad[0].verdict, bad[0].cause, bad[0].field) == (reproduce.DIFFERENT, cause, field)
    assert bad[0].why == reproduce.CAUSES[cause]
    assert bad[0].recorded != bad[0].remade


def test_an_answer_that_another_head_gives_is_laid_at_its_door() -> None:
    """The record says a head at which the agent was not quarantined, and the answer is that of a later one."""
    driver = Driver()
    driver.open_session()
    before = driver.control.head
    driver.control_event("quarantine.added", scope="agent", value=AGENT)
    driver.call("desk.read")
    refused = read(driver.records[-1]).header
    assert (refused.status, refused.control_head) == ("refused", before + 1)
    forged = forge(driver, lambda e: [*e[:-1], with_header(e[-1], control_head=before)])
    [row] = of(driver, refused.intent_id, forged)
    assert (row.verdict, row.cause) == (reproduce.DIFFERENT, "control_head")


def test_other_facts(driver: Driver) -> None:
    intent = intent_of(driver, "dispatched")

    def change(events):  # type: ignore[no-untyped-def]
        at = max(
            i for i, e in enumerate(events) if (e.header.status, e.header.intent_id) == ("dispatched", intent)
        )
        facts = events[at].facts
        return [*events[:at], replace(events[at], facts=replace(facts, timeout_ms=9_999)), *events[at + 1 :]]

    bad = [row for row in of(driver, intent, forge(driver, change)) if row.verdict != reproduce.SAME]
    assert (bad[0].cause, bad[0].field, bad[0].recorded, bad[0].remade) == (
        "facts",
        "facts.timeout_ms",
        "9999",
        "2000",
    )


def test_what_was_erased_says_by_what(driver: Driver) -> None:
    driver.keys.destroyed.add("person-1")
    rows = of(driver, intent_of(driver, "released"))
    assert reproduce.ERASED in {row.verdict for row in rows}
    assert {row.why for row in rows if row.verdict == reproduce.ERASED} == {"`person-1` is gone"}


def _row(intent: str, verdict: str, engine: str = "0.1.0", seq: int = 0) -> Remade:
    return Remade(0, seq, seq, f"intents/0/{seq}", "a", intent, "route", "routed", "", 0, engine, verdict)


def test_an_intents_verdict_is_the_worst_of_its_inputs_and_the_share_counts_intents() -> None:
    rows = [
        _row("i", "SAME"),
        _row("i", "DIFFERENT"),
        _row("j", "SAME"),
        _row("k", "ERASED"),
        _row("l", "EXPIRED"),
    ]
    result = Result(rows=rows)
    assert result.intents == {
        ("a", "i"): "DIFFERENT",
        ("a", "j"): "SAME",
        ("a", "k"): "ERASED",
        ("a", "l"): "EXPIRED",
    }
    assert result.share == 1 / 3  # what was erased by order does not count
    assert (result.verdict, exit_code(result)) == ("DIFFERENT", 1)
    assert exit_code(Result(rows=rows[2:])) == 4
    assert exit_code(Result(rows=[_row("j", "SAME"), _row("m", "SKIPPED")])) == 0
    assert (Result().share, exit_code(Result())) == (1.0, 0)
    assert Result(rows=rows[3:4]).said == "1 ERASED: nothing is left to decide again", (
        "no share of what was erased by order"
    )


def test_what_another_engine_decided_is_missing_without_it() -> None:
    targets = Targets(
        {
            (0, 1): _row("i", "SAME", "0.0.9", 1),
            (0, 2): _row("i", "SAME", "0.0.9", 1),
            (0, 3): _row("i", "SAME", seq=3),
        }
    )
    assert targets.of_engine("0.0.9") == {0: {("a", "i")}}
    assert [row.verdict for row in targets.missing("0.0.9", "ENGINE_MISSING", "why")] == ["ENGINE_MISSING"]


keys = st.sets(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=30)


@given(keys, st.text(max_size=5), st.integers(0, 40))
def test_a_seed_draws_the_same_sample_in_any_order(
    found: set[tuple[str, str]], seed: str, count: int
) -> None:
    drawn = reproduce.sample(seed, found, count)
    assert len(drawn) == min(count, len(found)) and set(drawn) <= found
    assert reproduce.sample(seed, sorted(found, reverse=True), count) == drawn
    half = reproduce.sample(seed, sorted(found)[: len(found) // 2], count)
    assert set(reproduce.sample(seed, [*half, *sorted(found)[len(found) // 2 :]], count)) == set(drawn)


def test_a_sample_is_of_intents_first_decided_in_the_period(driver: Driver) -> None:
    events = [decode(0, record.offset, record.value) for record in driver.records]
    first = {
        e.header.intent_id: e.header.decided_at
        for e in reversed(events)
        if isinstance(e.facts, r.IntentFacts)
    }
    cut = sorted(first.values())[len(first) // 2]

    def drawn(period: Period) -> set[str]:
        best = Best(period)
        for record in driver.records:
            best.take(0, record.value)
        return {intent for _, intent in best.chosen()}

    assert drawn(Period(1_000, "s", since=cut)) == {i for i, at in first.items() if at >= cut}
    assert drawn(Period(1_000, "s", until=cut - 1)) == {i for i, at in first.items() if at < cut}
    assert len(drawn(Period(3, "s"))) == 3
    assert drawn(Period(3, "s")) == drawn(Period(3, "s"))


# -- engines ----------------------------------------------------------------------------------------------------------


def wheel(folder: Path, version: str, body: str, *, lock: bool = True) -> Path:
    """A wheel whose command line is this body."""
    path = folder / f"sluicegate-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("sluicegate/__init__.py", "sluicegate/streams/__init__.py"):
            archive.writestr(name, "")
        archive.writestr("sluicegate/streams/cli.py", body)
    if lock:
        (folder / engines.LOCK).write_text(
            f"# wheels\n{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        )
    return path


ANSWER = """
import json, sys
chosen = json.load(sys.stdin)["chosen"]
rows = [dict(partition=int(p), seq=1, offset=1, input="intents/0/0", agent_id=a, intent_id=i, stage="route", status="routed",
             release="", control_head=0, engine="0.0.9", verdict="SAME", newer_field=1) for p, keys in chosen.items() for a, i in keys]
print(json.dumps({"engine": "%s", "inputs": rows}))
"""


def test_a_locked_wheel_decides_in_a_process_of_its_own(tmp_path: Path) -> None:
    wheel(tmp_path, "0.0.9", ANSWER % "0.0.9")
    engine = engines.find(tmp_path, "0.0.9")
    [row] = asyncio.run(engines.run(engine, {2: {("a", "i")}}))
    assert (row.partition, row.agent_id, row.intent_id, row.verdict, row.engine) == (
        2,
        "a",
        "i",
        "SAME",
        "0.0.9",
    )
    assert engines.find(tmp_path, "0.0.9") == engine  # unpacked once


@pytest.mark.parametrize(
    ("body", "said"),
    [(ANSWER % "0.0.8", "is engine 0.0.8"), ("raise SystemExit('no such option --stdin')", "no such option"), ("print(7)", "0.0.9")],
)  # fmt: skip
def test_an_engine_that_answers_otherwise_failed(tmp_path: Path, body: str, said: str) -> None:
    wheel(tmp_path, "0.0.9", body)
    with pytest.raises(FailedError, match=said):
        asyncio.run(engines.run(engines.find(tmp_path, "0.0.9"), {0: {("a", "i")}}))


def test_an_engine_that_does_not_end_is_ended(tmp_path: Path) -> None:
    wheel(tmp_path, "0.0.9", "import sys, time\nsys.stdin.read()\ntime.sleep(600)")
    with pytest.raises(FailedError, match="did not end"):
        asyncio.run(engines.run(engines.find(tmp_path, "0.0.9"), {}, timeout_s=0.2))


def test_a_wheel_that_is_not_locked_or_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"put `sluicegate-0\.0\.9-py3-none-any\.whl`"):
        engines.find(tmp_path, "0.0.9")
    path = wheel(tmp_path, "0.0.9", "", lock=False)
    with pytest.raises(MissingError, match="does not say of it"):
        engines.find(tmp_path, "0.0.9")
    wheel(tmp_path, "0.0.9", "")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MissingError, match="does not say of it"):
        engines.find(tmp_path, "0.0.9")
    with pytest.raises(MissingError, match="is no version"):
        engines.find(tmp_path, "../0.0.9")


def test_an_environment_of_its_own_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "0.0.9" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert engines.find(tmp_path, "0.0.9") == Engine("0.0.9", str(own))


def test_what_is_said_on_stdin_is_checked() -> None:
    chosen = {3: {("a", "i"), ("a", "j")}}
    assert engines.unpacked(engines.packed(chosen)) == chosen
    for text in (b"", b"[]", b'{"chosen": [1]}', b'{"chosen": {"x": []}}', b'{"chosen": {"0": [1]}}'):
        with pytest.raises(Terminal, match="stdin"):
            engines.unpacked(text)
