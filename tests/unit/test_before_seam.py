"""Decisions of after a repartition that ask for bytes of before: made again, byte for byte, with those of the old ledger."""

from __future__ import annotations

from sluicegate.processors.replay.rederive import Kept, Rederive
from sluicegate.processors.replay.reproduce import EXPIRED, SAME, Remade, Reproduce
from sluicegate.processors.seam import generations
from sluicegate.schemas.places import stand
from sluicegate.streams.replay.before_seam import Picked, by_partition

from tests.driver import AGENT, Driver, read
from tests.exchange_driver import World
from tests.seam_driver import seam_to

PAYEE = "GB29NWBK60161331926819"
ARGS = {"recipient": PAYEE, "amount": 1.0, "subject": "rent", "date": "2026-11-18"}


def across() -> tuple[World, Driver, str]:
    """A value that was heard before a seam grounds a call of after it."""
    w = World(2)
    w.on(AGENT).open_session()
    w.on(AGENT).say(f"please send it to {PAYEE}")
    d = seam_to(w, 3).on(AGENT)
    asked = d.call("banking.send_money", ARGS)
    d.controls = generations.all_seen_from(d.controls, 1)  # as replay reads them
    return w, d, asked.outcomes[0].origin.intent_id


def again(d: Driver, intent: str, far: dict[tuple[str, int], Kept]) -> tuple[Reproduce, list[Remade]]:
    made = Reproduce(d.partition, d.controls, d.keys.open, {(AGENT, intent)})
    made.far = far
    for record in d.records:
        made.add(*record)
    made.finish()
    return made, made.rows


def read_before(w: World, d: Driver, intent: str) -> dict[tuple[str, int], Kept]:
    """What the decisions ask of the old partition, as `streams/replay/reproduce.py` reads it: until nothing new is asked."""
    far: dict[tuple[str, int], Kept] = {}
    while True:
        made, _ = again(d, intent, far)
        if not made.missed:
            return far
        [(place, wanted)] = by_partition(made.missed).items()
        assert place == (0, w.on(AGENT).partition)
        picked = Picked(*place, wanted)
        for record in w.on(AGENT).records:
            picked.take(record.value)
        assert picked.found.keys() == made.missed
        far |= picked.found


def test_they_come_out_again_with_the_bytes_of_before() -> None:
    w, d, intent = across()
    made, rows = again(d, intent, {})
    assert {row.verdict for row in rows} == {EXPIRED} and "a generation before" in rows[0].why
    assert made.missed and all(stand(offset) for _, offset in made.missed)
    _, rows = again(d, intent, read_before(w, d, intent))
    assert {row.verdict for row in rows} == {SAME}


def test_other_bytes_of_before_are_a_difference_and_erased_ones_say_whose() -> None:
    w, d, intent = across()
    far = read_before(w, d, intent)
    d.keys.destroyed.add("person-1")
    _, rows = again(d, intent, far)
    assert {row.verdict for row in rows} == {"ERASED"}
    d.keys.destroyed.clear()
    other = next(e for e in map(read, w.on(AGENT).records) if e.header.status == "opened")
    assert other.sealed is not None
    swapped = {at: Kept(other.header.subject, other.header.event_id, other.sealed, False) for at in far}
    _, rows = again(d, intent, swapped)
    assert "DIFFERENT" in {row.verdict for row in rows}


def test_replay_counts_what_it_does_not_compare() -> None:
    _, d, _ = across()
    made = Rederive(d.partition, d.controls, d.keys.open)
    for record in d.records:
        made.add(*record)
    tally = made.finish()
    assert tally.skipped["before the seam"] == 1 and not tally.differences and not tally.erased
