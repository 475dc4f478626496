"""Outgoing: every kind of record goes to its topic and partition, with its key, headers and signature."""

from __future__ import annotations

from sluicegate.processors.outcomes import Decision, Origin, Outcome
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.lanes.outgoing import Outgoing
from sluicegate.streams.transactions import Headers, Transaction

ID = bytes(range(16))
MINE, THEIRS = 2, "somebody-else"
"""This partition, and an agent of another one."""


class Gathered(Transaction):
    """Keeps what is added."""

    def __init__(self) -> None:
        self.added: list[tuple[str, int, bytes | None, bytes, int, Headers]] = []

    def add(
        self, topic: str, partition: int, key: bytes | None, value: bytes, timestamp_ms: int, headers: Headers
    ) -> None:
        self.added.append((topic, partition, key, value, timestamp_ms, headers))


def test_every_kind_goes_where_it_belongs() -> None:
    theirs = partition_of(THEIRS, 4)
    assert theirs != MINE
    origin = Origin("i", "t", "a", "s", "u", 5_000_000, "intents", MINE, 0, 0, "", "")
    outcome = Outcome(origin, ID, "route", "routed", "", None)
    work = r.Dispatch(
        ID, "i", "a", "s", "t", "tool", "read_only", b"", b"{}", bytes(32), "k", 1, 1, 1, "00-trace"
    )
    reply = r.Reply(ID, "i", THEIRS, "s", "refused", "route", "misrouted", [], 5)
    given = r.Transfer(ID, "handoff", THEIRS, "s", "a", "i", "t", 5, "", "", False, "", [], [], 0, [])
    asked = r.Exchange(ID, "budget.reserve", "team:x", 3, MINE, "t", "a", "s", "i", 5, 6, [], [], b"")
    letter = r.DeadLetter("intents", MINE, 9, "not_avro", "", 3, bytes(32), b"abc", 5)
    outgoing = Outgoing("e", MINE, lambda value: b"D" + value, lambda value: b"T" + value)
    gathered, state = Gathered(), PartitionState(b"", MINE, partitions=4, now=7_000_000)
    outgoing.outcome(gathered, outcome, b"sealed")
    outgoing.beside(
        gathered,
        Decision(
            dispatches=[work], replies=[reply], transfers=[given], exchanges=[asked], dead_letters=[letter]
        ),
        state,
    )
    assert [row[:5] for row in gathered.added] == [
        ("e.outcomes", MINE, b"a", b"sealed", 5_000),
        ("e.dispatches", MINE, b"a", b"D" + codec.encode(work), 7_000),
        ("e.replies", theirs, THEIRS.encode(), codec.encode(reply), 7_000),
        ("e.transfers", theirs, THEIRS.encode(), b"T" + codec.encode(given), 7_000),
        ("e.transfers", 3, b"team:x", b"T" + codec.encode(asked), 7_000),
        ("e.dead-letters", 0, b"intents/2/9", codec.encode(letter), 7_000),
    ]
    kinds = ["outcome", "dispatch", "reply", "transfer", "exchange", "dead-letter"]
    assert [dict(row[5])["ce_type"] for row in gathered.added] == [
        f"ai.sluicegate.{kind}".encode() for kind in kinds
    ]
    assert {dict(row[5])["ce_source"] for row in gathered.added} == {b"/e/outcomes/2"}
    assert dict(gathered.added[1][5])["traceparent"] == b"00-trace"
