"""The library: a memo of inputs that follows from their places, bounded, and forgets what was not used."""

from __future__ import annotations

from sluicegate.processors.inputs import Input, Tick
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.sessions.library import ENTRY_BYTES, MAX_CHOIR_BYTES, Library
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import Driver


def message(text: str) -> bytes:
    return codec.encode(r.Message("m", "a", "s", "session.user_said", 0, text=text))


def test_bytes_are_kept_and_words_made_of_them() -> None:
    library = Library()
    library.remember(Input("messages", 0, 7, message("hello bob")), Decision())
    assert library.raw(("messages", 7)) == message("hello bob")
    words = library.get(("messages", 7))
    assert words is not None and words.texts == [("$", "hello bob")]
    assert library.raw(("messages", 7)) == message("hello bob")


def test_it_is_bounded_and_the_unused_leave_first() -> None:
    library = Library(limit_bytes=3 * (ENTRY_BYTES + len(message("a" * 100))))
    for n in range(3):
        library.put(("messages", n), message("a" * 100))
    library.get(("messages", 0))
    library.put(("messages", 3), message("a" * 100))
    assert [library.get(("messages", n)) is not None for n in range(4)] == [True, False, True, True]
    library.put(("messages", 4), message("a" * 100_000))  # one that is larger than the bound is kept alone
    assert len(library) == 1


def test_room_is_made_for_more_than_one() -> None:
    entry = ENTRY_BYTES + len(message("a" * 100))
    library, most = Library(limit_bytes=160 * entry), 0
    lengths = []
    for n in range(1_000):
        library.put(("messages", n), message("a" * 100))
        lengths.append(len(library))
        most = max(most, len(library))
        assert library.raw(("messages", n)) is not None
    assert most == 160
    # Full, it goes down by a sixteenth at most, and lets go once in eleven inputs, not at each.
    drops = [n for n in range(1, 1_000) if lengths[n] < lengths[n - 1]]
    assert min(lengths[160:]) == 150
    assert len(drops) == (1_000 - 160 + 10) // 11
    assert library.raw(("messages", 999 - 140)) is not None and library.raw(("messages", 800)) is None


def test_what_sessions_heard_is_bounded_by_bytes() -> None:
    library = Library()
    choir = library.choir("a", "s", b"1", "r")
    words = library.put(("messages", 0), message("a" * 100_000))
    assert library.choir("a", "s", b"1", "r") is choir
    assert library.choir("a", "s", b"2", "r") is not choir  # another session of that name
    choir = library.choir("a", "s", b"2", "r")
    for _ in range(MAX_CHOIR_BYTES // 100_000 + 1):
        library.gathered(words)
    assert library.choir("a", "s", b"2", "r") is not choir


def test_what_is_gone_or_dropped_is_not_remembered() -> None:
    library = Library()
    assert library.put(("messages", 1), None).texts == []
    assert library.get(("messages", 1)) is None
    library.put(("messages", 2), message("x"))
    library.drop(("messages", 2))
    library.drop(("messages", 2))
    assert len(library) == 0
    library.remember(Tick(0, 0), Decision())
    library.remember(Input("reviews", 0, 1, b"x"), Decision())
    assert len(library) == 0


def test_a_second_offer_asks_for_nothing_that_is_at_hand() -> None:
    d = Driver()
    d.open_session()
    first = d.call("desk.read", {"value": "x"}).dispatches[0]
    d.inputs["intents"].clear()
    again = d.tick(8_000_000).dispatches[0]
    assert (again.attempt, again.action_digest) == (2, first.action_digest)


def test_what_was_refused_is_not_remembered() -> None:
    """Nothing asks for it again, and there may be many."""
    d = Driver()
    d.open_session()
    before = len(d.library)
    assert d.call("desk.never").outcomes[-1].status == "refused"
    assert len(d.library) == before
    assert d.call("desk.read", {"value": "x"}).outcomes[-1].status == "dispatched"
    assert len(d.library) == before + 1
