"""A witness signs one history of a log, and says why it does not sign another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.transparency import checkpoints, log_files, merkle, witness
from sluicegate.processors.transparency.checkpoints import Checkpoint, LogKey
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness import Refused, Request
from sluicegate.schemas import notes
from sluicegate.schemas.errors import Terminal

from tests.unit.test_checkpoints import KEY, LOG_ID, NOW, ORIGIN, OTHER, SECRET, signed
from tests.unit.test_merkle import Memory, leaves_of, mth

LOGS = {ORIGIN: (KEY,)}
LEAVES = leaves_of(300)


def request(
    old: int, new: int, leaves: list[bytes] = LEAVES, at: int = NOW, secret: bytes = SECRET
) -> Request:
    proof = merkle.consistency_proof(old, new, Memory(leaves)) if old <= new else []
    return Request(old, tuple(proof), str(signed(new, mth(leaves[:new]), at, secret)))


def head(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint | None:
    return Checkpoint(ORIGIN, size, mth(leaves[:size])) if size else None


def refusal(asked: Request, last: Checkpoint | None, at: int = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        witness.judge(asked, LOGS, last, at)
    return caught.value


@given(st.integers(0, 299), st.integers(0, 300))
@settings(deadline=None)
def test_what_continues_is_cosigned_and_goes_over_the_wire(old: int, more: int) -> None:
    asked = request(old, min(300, old + more))
    assert witness.parse_request(asked.body) == asked
    assert witness.judge(asked, LOGS, head(old), NOW).head == (
        head(min(300, old + more)) or Checkpoint(ORIGIN, 0, mth([]))
    )


@given(st.integers(1, 299), st.integers(1, 300), st.data())
@settings(deadline=None)
def test_a_fork_is_refused(old: int, more: int, data: st.DataObject) -> None:
    """Of any event that the witness has under its signature."""
    at = data.draw(st.integers(0, old - 1))
    forked = [*LEAVES[:at], merkle.leaf_hash(b"another"), *LEAVES[at + 1 :]]
    found = refusal(request(old, min(300, old + more), forked), head(old))
    assert (found.status, found.code) in ((422, "inconsistent"), (409, "forked"))
    assert found.evidence
    same = refusal(request(old, old, forked), head(old))
    assert (same.status, same.code, same.size) == (409, "forked", old)
    assert "is FORKED: it signed two roots" in str(same)


def test_another_old_size_is_told_the_right_one() -> None:
    for old in (0, 99, 101):
        found = refusal(request(old, 200), head(100))
        assert (found.status, found.code, found.size) == (409, "conflict", 100)
        assert not found.evidence
    assert refusal(request(100, 50), head(100)).status == 400  # the log shrank, or is asked wrongly
    assert refusal(request(50, 50), head(100)).code == "conflict"


def test_a_log_or_key_that_it_does_not_know() -> None:
    other = Request(0, (), str(signed(origin=checkpoints.origin_of("prod", LOG_ID, 0))))
    assert (refusal(other, None).status, refusal(other, None).code) == (404, "unknown_log")
    stranger = request(0, 7, secret=OTHER)
    assert (refusal(stranger, None).status, refusal(stranger, None).code) == (403, "unknown_key")
    broken = Request(0, (), request(0, 7).note.replace("\n7\n", "\n8\n"))
    assert (refusal(broken, None).status, refusal(broken, None).code) == (403, "signature")


def test_a_key_past_its_rotation_gets_nothing() -> None:
    late = NOW + 1_000  # the key ended then
    found = refusal(request(0, 7, at=late), None, late)
    assert (found.status, found.code) == (403, "key_expired")
    backdated = refusal(request(0, 7, at=NOW), None, late)
    assert (backdated.status, backdated.code) == (403, "key_expired")
    assert "is not valid now: sign with the log's current key" in str(backdated)


@pytest.mark.parametrize(
    "body",
    [b"", b"old x\n\nnote", b"old 01\n\nnote", b"old -1\n\nnote", b"old 1\n!\n\nnote", b"\xff", b"old 1\n" + b"AAAA\n" * 64 + b"\nnote"],
)  # fmt: skip
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(Refused, match="no add-checkpoint request"):
        witness.parse_request(body)


def test_a_note_that_is_no_checkpoint() -> None:
    key = notes.VKey(ORIGIN, notes.ED25519, notes.public_of(SECRET))
    note = notes.Note("hello\n", (notes.sign("hello\n", key, notes.ed25519_signer(SECRET)),))
    assert refusal(Request(0, (), str(note)), None).status == 400


def test_a_description_of_a_log_is_read_back() -> None:
    made = LogFile("dev", LOG_ID, 4, (KEY, LogKey("log.2", b"k" * 32, 1, 2)))
    assert log_files.parse(made.text) == made
    assert made.origins[0].endswith("/control") and made.origins[4] == ORIGIN
    assert log_files.by_origin([made])[ORIGIN] == made.keys
    for text in ("", "{}", '{"format": "x"}', "[]"):
        with pytest.raises(Terminal, match="no description of a log"):
            log_files.parse(text)
