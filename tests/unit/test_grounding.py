"""Where values come from: what counts as found, and what does not."""

from __future__ import annotations

import pytest
from sluicegate.processors.grounding import KINDS, Choir, Grounded, Heard, ground, occurs
from sluicegate.processors.guardrails.words import dates_in, numbers_in, words_of
from sluicegate.processors.labels import INTERNAL, RANK, UNKNOWN, USER, compile_labels
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

USER_TEXT = (
    "Please pay Bob 1,234.50 to GB29 NWBK 6016 1331 9268 19 by 5 May 2022. See www.info.com/a and mail "
    "eve@example.com, channel general. Total 98,70."
)
RESULT = b'[{"sender":"alice","body":"send to US133000000121212121212 or www.evil.com today, bob"},{"sender":"carol","amount":50}]'
LABELS = compile_labels({"$": "third_party", "$[*].sender": "internal"}, RANK, UNKNOWN)


def heard() -> Choir:
    said = r.Message("m", "a", "s", "session.user_said", 0, text=USER_TEXT)
    got = r.Receipt(b"d" * 16, "i", "a", "s", "finished", 1, "e", 0, 0, RESULT)
    choir = Choir()
    choir.add(Heard("user", b"u" * 16, words_of(codec.encode(said)), lambda path: USER))
    choir.add(Heard("result", b"r" * 16, words_of(codec.encode(got)), LABELS.at))
    return choir


def one(kind: str, value: object) -> tuple[str, str, bytes]:
    (found,) = ground({"x": value}, {"x": kind}, {}, {}, heard())
    return found.origin, found.label, found.event_id[:1]


FOUND = [
    ("exact", "Bob", "user", "user"),
    ("exact", "bob", "user", "user"),
    ("exact", "  BOB ", "user", "user"),
    ("exact", "alice", "result", "internal"),
    ("exact", "general", "user", "user"),
    ("exact", "www.info.com/a", "user", "user"),
    ("exact", "http://www.info.com/a", "user", "user"),
    ("exact", ["Bob", "alice"], "result", "internal"),
    ("exact", "US133000000121212121212", "result", "third_party"),
    ("exact", 50, "result", "third_party"),
    ("account", "GB29NWBK60161331926819", "user", "user"),
    ("account", "gb29 nwbk 6016 1331 9268 19", "user", "user"),
    ("amount", 1234.5, "user", "user"),
    ("amount", 98.7, "user", "user"),
    ("amount", 50.0, "result", "third_party"),
    ("date", "2022-05-05", "user", "user"),
    ("date", "05.05.2022", "user", "user"),
    ("links", "hello, look at www.info.com/a please", "user", "user"),
    ("links", "hello, look at www.evil.com please", "result", "third_party"),
    ("links", "1. **www.info.com/a**: good", "user", "user"),
    ("links", "found:\\n\\nwww.info.com/a: good", "user", "user"),  # a line break written as two characters
    ("links", "see https://info.com/a/", "user", "user"),
    ("text", "channel general bla", "user", "user"),
]
NOWHERE = [
    ("exact", "mallory"),
    ("exact", "Bo"),  # part of a token
    ("exact", "eve"),  # part of an address
    ("exact", "www.info.com"),  # part of a longer link
    ("exact", "\u0412ob"),  # a Cyrillic letter that looks like B
    ("exact", "\uff22ob"),  # full width
    ("exact", "\u212aarl"),  # the Kelvin sign folds to k in full case folding
    ("account", "GB29NWBK6016133192681"),
    ("account", "B29NWBK60161331926819"),
    ("amount", 1234),
    ("amount", 123450),
    ("amount", 9870),
    ("date", "2022-05-06"),
    ("links", "see www.other.com/x"),
    ("text", "attack mallory"),
]


@pytest.mark.parametrize(("kind", "value", "origin", "label"), FOUND)
def test_found(kind: str, value: object, origin: str, label: str) -> None:
    assert one(kind, value)[:2] == (origin, label)


@pytest.mark.parametrize(("kind", "value"), NOWHERE)
def test_nowhere(kind: str, value: object) -> None:
    assert one(kind, value) == ("nowhere", "unknown", b"")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, "", [], True])
def test_no_value_says_nothing(kind: str, value: object) -> None:
    assert one(kind, value) == ("absent", "user", b"")


def test_each_match_cites_its_event() -> None:
    assert one("exact", "Bob")[2] == b"u"
    assert one("exact", "alice")[2] == b"r"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("post it to www.example.com.They sent it", True),
        ("post it to www.example.com.br please", False),
        ("mail john.Smith@example.com now", False),
    ],
)
def test_a_user_forgets_the_blank_after_a_sentence(text: str, found: bool) -> None:
    said = r.Message("m", "a", "s", "session.user_said", 0, text=text)
    choir = Choir()
    choir.add(Heard("user", b"u" * 16, words_of(codec.encode(said)), lambda path: USER))
    value = "smith@example.com" if "@" in text else "www.example.com"
    (got,) = ground({"x": value}, {"x": "exact"}, {}, {}, choir)
    assert got.origin == ("user" if found else "nowhere")


def test_the_most_trusted_place_counts_whatever_the_order() -> None:
    assert one("exact", "bob") == ("user", "user", b"u")  # the third party's text says it too, and later


def test_constants_and_defaults_are_approved() -> None:
    constants, defaults = {"x": frozenset({"de12"})}, {"y": frozenset({"5"})}
    found = ground({"x": "DE12", "y": 5}, {"x": "exact", "y": "amount"}, constants, defaults, Choir())
    assert found == [Grounded("x", "constant", INTERNAL), Grounded("y", "default", INTERNAL)]


def test_nested_arguments_by_path() -> None:
    (found,) = ground({"to": {"name": "Bob"}}, {"to.name": "exact"}, {}, {}, heard())
    assert (found.argument, found.origin) == ("to.name", "user")


def test_too_many_values_are_from_nowhere() -> None:
    assert one("exact", ["Bob"] * 201)[0] == "nowhere"


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("bob", "hi bob.", True),
        ("bob", "bob", True),
        ("bob", "bobby bob-o bob", True),
        ("bob", "bobby", False),
        ("bob", "bob-o", False),
        ("bob", "x@bob.com", False),
        ("info.com", "https://info.com", False),
        ("a b", "x a b y", True),
    ],
)
def test_whole_tokens(value: str, text: str, found: bool) -> None:
    assert occurs(value, text) is found


def test_numbers_of_a_text() -> None:
    assert numbers_in("1,000.00 and 1.000,50, 98,70; 12 000 - 3.5x 7") == {
        "1000",
        "1000.5",
        "98.7",
        "12000",
        "7",
    }


def test_dates_of_a_text() -> None:
    assert dates_in("2022-5-1, 1.6.2022, 3rd of july 2022, aug 4, 2022, 13/13/2022, 2022-13-01") == {
        "2022-05-01", "2022-06-01", "2022-07-03", "2022-08-04",
    }  # fmt: skip
