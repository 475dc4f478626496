"""Detectors: what is found, what is not taken for it, and that the time is linear."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.guardrails.detectors import DETECTORS, MARK, detects, scrub

KINDS = tuple(DETECTORS)

# Made up after the makers' formats; put together here so that no scanner takes this file for a leak.
FOUND = [
    ("secret", "key AK" + "IAIOSFODNN7EXAMPLE."),
    ("secret", "gh" + "p_" + "a1B2" * 9),
    ("secret", "xox" + "b-1234567890-abcdefghij"),
    ("secret", "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc"),
    ("secret", "sk-" + "proj-" + "abcDEF123_" * 4),
    ("secret", "ey" + "J" + "hbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w"),
    ("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"),
    ("secret", "postgres://app:s3cr3t-pw@db.internal/x"),
    ("secret", "my password: hunter22!"),
    ("secret", 'API_KEY="q8w7e6r5t4"'),
    ("iban", "to GB29 NWBK 6016 1331 9268 19 and then"),
    ("iban", "DE89370400440532013000"),
    ("iban", "de89 3704 0044 0532 0130 00"),
    ("card", "4111 1111 1111 1111 exp 2029"),
    ("card", "4111 1111 1111 1111 123"),
    ("card", "371449635398431"),
    ("card", "order 77 5555-5555-5555-4444"),
    ("national_id", "ssn 536-90-4399"),
    ("national_id", "RSSMRA85T10A562S"),
    ("national_id", "12345678Z"),
    ("national_id", "390.533.447-05"),
    ("email", "write to emma.j@bluesparrow.co.uk!"),
    ("email", "<jörg@müller.example>"),
    ("phone", "call +49 (30) 901820 now"),
    ("lookalike", "Landlоrd"),
    ("lookalike", "pay\u200bpal"),
    ("lookalike", "ｐａｙ"),
    ("lookalike", "hi\U000e0041\U000e0042"),
]
CLEAN = [
    ("secret", "the password is required, token: required, AKIA is a prefix, see ghp_ and sk-learn"),
    ("iban", "GB29 NWBK 6016 1331 9268 18; DE8937040044053201300; XX29 NWBK 6016 1331 9268 19"),
    ("card", "4111111111111112, 1795000000000000, 41111111111111111111, 1 2 3 4 5 6 7 8 9 0 1 2 3"),
    ("national_id", "536-90-439, 000-12-3456, 12345678A, 390.533.447-06"),
    ("email", "at @home, a@b, user@"),
    ("phone", "030 901820, 1+1=2, +1 2"),
    ("lookalike", "Привет Ωμέγα naïve café 北京 Müller"),
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_found(kind: str, text: str) -> None:
    assert detects(kind, text)
    scrubbed = scrub((kind,), text)
    assert MARK in scrubbed
    assert not detects(kind, scrubbed)


@pytest.mark.parametrize(("kind", "text"), CLEAN)
def test_not_found(kind: str, text: str) -> None:
    assert list(DETECTORS[kind](text)) == []
    assert scrub((kind,), text) == text


def test_only_the_finding_is_taken_out() -> None:
    text = "pay 4111 1111 1111 1111, then GB29 NWBK 6016 1331 9268 19 please"
    assert scrub(("card", "iban"), text) == f"pay {MARK}, then {MARK} please"
    assert scrub(("secret",), "x -----BEGIN PRIVATE KEY-----\nabc") == f"x {MARK}"
    assert scrub(("secret",), "postgres://app:s3cr3t-pw@db/x") == f"postgres://app:{MARK}@db/x"


PIECES = st.sampled_from([text for _, text in FOUND] + [text for _, text in CLEAN] + list(" .-@:/+[]x1\n"))


@settings(max_examples=150)
@given(st.lists(PIECES, max_size=6).map("".join), st.sampled_from([(k,) for k in KINDS] + [KINDS]))
def test_scrubbing_twice_is_scrubbing_once(text: str, kinds: tuple[str, ...]) -> None:
    once = scrub(kinds, text)
    assert scrub(kinds, once) == once


@given(st.text(max_size=60))
def test_any_text_is_taken(text: str) -> None:
    for kind in KINDS:
        detects(kind, text)


def steps(kind: str, text: str) -> int:
    """Characters looked at by Python's own code, an upper bound of which is what a test can count without a clock."""
    return sum(1 for _ in itertools.islice(DETECTORS[kind](text), 1_000_000))


@pytest.mark.parametrize(
    "unit", ["DE12 ", "4 ", "eyJa.", "a@", "+1", "x:", "aa", "token=", "-----BEGIN PRIVATE KEY-----"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_of_64_kb_ends(kind: str, unit: str) -> None:
    text = unit * (65_536 // len(unit))
    assert steps(kind, text) <= len(text)
