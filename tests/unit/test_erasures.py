"""What `erase` takes and what it leaves: names, repetition, unknown subjects, and rows that still arrive in ClickHouse."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from sluicegate.processors.erasure import KIND
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import DAY_MS, HOUR_MS, TOPICS
from sluicegate.sinks import erasing
from sluicegate.streams.erasures import Look, _known
from sluicegate.streams.expiry import FOR_EVER, IN_THE_CLEAR, Expiry, expiries
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import config_of

from tests.driver import Driver

EVENT = b"e" * 16


def known(d: Driver, keys: Keys, subject: str) -> Look:
    return _known(keys, d.control, subject)


def test_an_erasure_takes_what_was_said_and_leaves_the_name_of_who_comes_back(tmp_path: Path) -> None:
    d, keys = Driver(), Keys(tmp_path)
    keys.seal("ada", EVENT, b"said")
    first = known(d, keys, "ada")
    assert (first.live, first.taken, first.done) == (["ada"], ["ada"], None)
    event = d.control_event(KIND, subjects=["ada"]).head
    died = known(d, keys, "ada")  # the command died before it destroyed the key: the same command goes on
    assert (died.live, died.taken) == (["ada"], ["ada"]) and died.done and died.done.event == event
    keys.destroy(died.taken)
    back = f"ada#{event}"
    again = known(d, keys, "ada")
    assert (again.live, again.taken) == ([], ["ada"]) and again.done and again.done.event == event
    keys.destroy(again.taken)
    assert keys.state(back) == "none"
    sealed = keys.seal(back, EVENT, b"here again")
    assert keys.open(back, EVENT, sealed) == b"here again"
    for name in ("ada", back):  # by either name
        new = known(d, keys, name)
        assert (new.subject, new.live, new.taken, new.done) == ("ada", [back], ["ada", back], None)


@pytest.mark.parametrize(
    ("subject", "said"),
    [("nobody", "no key of subject `nobody`"), ("system", "`system` is nobody"), ("a\nb", "no subject id"), ("", "no subject id")],
)  # fmt: skip
def test_who_cannot_be_erased(tmp_path: Path, subject: str, said: str) -> None:
    with pytest.raises(Terminal, match=said):
        known(Driver(), Keys(tmp_path), subject)


# -- ClickHouse -----------------------------------------------------------------------------------------------------------


class Server:
    """Counts rows of `contents`; a projector inserts `late` more after each of the first deletions. `unknown`: what it refuses."""

    def __init__(self, rows: int, late: list[int], old_parts: list[int], unknown: str = "-") -> None:
        self.rows, self.late, self.old_parts, self.unknown = rows, late, old_parts, unknown
        self.commands: list[str] = []

    def command(self, cmd: str) -> object:
        self.commands.append(cmd)
        if self.unknown in cmd:
            raise DatabaseError("not enough privileges")
        if "DELETE WHERE" in cmd:
            self.rows = self.late.pop(0) if self.late else 0
        return ""

    def query(self, query: str) -> SimpleNamespace:
        if "system.tables" in query:
            return SimpleNamespace(result_rows=[("contents",)])
        if "system.parts" in query:
            return SimpleNamespace(result_rows=[(self.old_parts.pop(0) if self.old_parts else 0,)])
        return SimpleNamespace(result_rows=[(self.rows,)])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "QUIET_S", 0.0)
    monkeypatch.setattr(erasing, "POLL_S", 0.0)


def test_rows_that_still_arrive_are_erased_too() -> None:
    server = Server(5, [2, 1], [3, 3, 0])
    waits: list[str] = []
    assert erasing.erase_rows(server, "dev", ["ada", "it's"], waits.append) == 8
    deletes = [c for c in server.commands if "DELETE" in c]
    assert (
        deletes
        == [
            "ALTER TABLE `dev`.`contents` DELETE WHERE subject IN ('ada', 'it\\'s') SETTINGS mutations_sync = 2"
        ]
        * 3
    )
    assert server.commands[3:] == [
        "ALTER TABLE `dev`.`contents` MODIFY SETTING old_parts_lifetime = 1",
        "SYSTEM START CLEANUP `dev`.`contents`",
        "SYSTEM START TTL MERGES `dev`.`contents`",
        "ALTER TABLE `dev`.`contents` RESET SETTING old_parts_lifetime",
    ]
    assert len(waits) == 2


def test_what_a_user_may_not_say_is_said_once_and_waited_for_all_the_same() -> None:
    server = Server(1, [], [3, 3, 2, 1, 0], unknown="CLEANUP")
    assert erasing.erase_rows(server, "dev", ["ada"], lambda what: None) == 1
    said = [c for c in server.commands if c.startswith("SYSTEM")]
    assert said == [f"{s} `dev`.`contents`" for s in (*erasing.WAKING, erasing.WAKING[1], erasing.WAKING[1])]
    assert "RESET SETTING" in server.commands[-1] and server.old_parts == []


def test_old_parts_that_stay_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "PARTS_LIMIT_S", 0.0)
    server = Server(1, [], [1] * 9)
    with pytest.raises(Retryable, match="the rows are erased, but clickhouse still keeps old parts"):
        erasing.erase_rows(server, "dev", ["ada"], lambda what: None)
    assert "RESET SETTING" in server.commands[-1]


# -- topics ---------------------------------------------------------------------------------------------------------------


def test_what_is_kept_for_an_hour_is_not_there_for_a_week() -> None:
    for topic in TOPICS:
        segment = config_of(topic).get("segment.ms")
        assert (segment is None) == (topic.retention_ms < 0)
        if segment is not None:
            assert int(segment) <= max(topic.retention_ms // 6, HOUR_MS // 6) <= 5 * DAY_MS


def test_until_when_topics_hold_it() -> None:
    assert {"intents", "messages", "receipts", "replies", "dead-letters"} <= set(IN_THE_CLEAR)
    assert not {"outcomes", "control", "snapshots"} & set(IN_THE_CLEAR)
    assert Expiry("replies", -1, HOUR_MS, None).text == FOR_EVER
    assert Expiry("replies", DAY_MS, HOUR_MS, 1_777_777_777_000).text == "2026-05-03T03:09+00:00"


def test_topics_of_before_a_repartition_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def configs(_: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
        kept = {"retention.ms": "3600000", "segment.ms": "600000"}
        return {name: {} if name == "test.pieces" else kept for name in names}  # somebody deleted that one

    monkeypatch.setattr("sluicegate.streams.expiry.topics.configs_of", configs)
    told = {one.topic for one in asyncio.run(expiries(Settings(env="test", generation=1), 0))}
    assert {"intents", "g1.intents", "g1.pieces", "dead-letters"} <= told
    assert not {"pieces", "g1.dead-letters"} & told
    assert {one.topic for one in asyncio.run(expiries(Settings(env="test"), 0))} == {*IN_THE_CLEAR} - {
        "pieces"
    }
