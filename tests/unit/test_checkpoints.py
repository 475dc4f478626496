"""Signed notes, checkpoints, the history of keys, witness policies and proofs as files: each of them refuses what it must."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.transparency import checkpoints, merkle, proofs
from sluicegate.processors.transparency.checkpoints import Checkpoint, CheckpointFault, LogKey
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness_policy import parse_policy
from sluicegate.schemas import notes
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.notes import COSIGNATURE, ED25519, BadNote, Note, VKey
from sluicegate.streams.transparency.check import check_text

from tests.unit.test_merkle import Memory

SECRET, OTHER = b"s" * 32, b"o" * 32
PUBLIC = notes.public_of(SECRET)
LOG_ID = bytes(range(16))
ORIGIN = checkpoints.origin_of("dev", LOG_ID, 3)
NOW = 1_800_000_000
KEY = LogKey("log.1", PUBLIC, (NOW - 1_000) * 10**6, (NOW + 1_000) * 10**6)


def signed(
    size: int = 7, root: bytes = bytes(32), at: int = NOW, secret: bytes = SECRET, origin: str = ORIGIN
) -> Note:
    head = Checkpoint(origin, size, root)
    return checkpoints.sign_head(head, notes.public_of(secret), notes.ed25519_signer(secret), at)


def code_of(data: str, *keys: LogKey, origin: str = ORIGIN) -> str:
    with pytest.raises(CheckpointFault) as caught:
        checkpoints.verify(data, keys, origin)
    return caught.value.code


# -- notes --------------------------------------------------------------------------------------------------------

# The example of Go's golang.org/x/mod/sumdb/note, where the format comes from.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_another_implementation_verifies() -> None:
    key, note = notes.parse_vkey(PETER), notes.parse(PETERS)
    assert str(key) == PETER and str(note) == PETERS
    assert key.find(note) is not None
    with pytest.raises(BadNote, match="the signature of `PeterNeumann` does not verify"):
        key.find(Note(note.text.replace("answer", "question"), note.signatures))


def test_a_text_may_have_empty_lines() -> None:
    key = VKey("example.com/a", ED25519, PUBLIC)
    text = "one\n\ntwo\n"
    note = Note(text, (notes.sign(text, key, notes.ed25519_signer(SECRET)),))
    assert notes.parse(str(note)) == note and key.find(notes.parse(str(note))) is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no signatures\n", "no empty line"),
        ("a\n\n", "no empty line"),
        ("a\n\n— b\n", "no signature line"),
        ("a\n\n- b AAAAAAAA\n", "no signature line"),
        ("a\n\n— b AAAAAAAA", "last line has no end"),
        ("a\tb\n\n— b AAAAAAAA\n", "control character"),
        ("a\n\n" + "— b AAAAAAAA\n" * 101, "101 signatures"),
        ("a" * 70_000 + "\n\n— b AAAAAAAA\n", "bytes"),
    ],
)
def test_what_is_no_note(text: str, why: str) -> None:
    with pytest.raises(BadNote, match=why):
        notes.parse(text)


def test_what_is_no_verifier_key() -> None:
    assert notes.parse_vkey(str(VKey("a/b", COSIGNATURE, PUBLIC))) == VKey("a/b", COSIGNATURE, PUBLIC)
    for text, why in (
        (PETER.replace("c74f", "c74e"), "copy it again"),
        ("PeterNeumann", "no verifier key"),
        (str(VKey("a", 6, PUBLIC)), "of type 6"),
        (str(VKey("a", 1, b"short")), "of type 1"),
    ):
        with pytest.raises(BadNote, match=why):
            notes.parse_vkey(text)


def test_a_cosignature_is_over_the_text_and_its_time() -> None:
    key = VKey("witness.example/w", COSIGNATURE, PUBLIC)
    signature = notes.cosign("a\n", key, notes.ed25519_signer(SECRET), NOW)
    assert key.verify("a\n", signature) and signature.timestamp == NOW
    assert notes.cosigned("a\n", NOW) == b"cosignature/v1\ntime 1800000000\na\n"
    later = notes.Signature(key.name, key.key_id, (NOW + 1).to_bytes(8, "big") + signature.value[8:])
    assert not key.verify("a\n", later)
    assert not key.verify("a\n", notes.Signature(key.name, key.key_id, b"short"))


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        note = notes.parse(data)
    except BadNote:
        return
    assert notes.parse(str(note)) == note


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_checkpoint_says_log_size_and_root() -> None:
    note = signed()
    assert str(note).startswith(f"sluicegate.dev/dev/{LOG_ID.hex()}/3\n7\n{'A' * 43}=\n\n— ")
    found = checkpoints.verify(str(note), [KEY], ORIGIN)
    assert (found.head, found.kid, found.second) == (Checkpoint(ORIGIN, 7, bytes(32)), "log.1", NOW)
    assert checkpoints.origin_of("dev", LOG_ID, checkpoints.CONTROL).endswith("/control")


@pytest.mark.parametrize(
    "text",
    ["a\n1\n", "a\n01\nAAAA\n", f"a\n-1\n{'A' * 43}=\n", f"a\n1\n{'A' * 43}=\nmore\n", f"\n1\n{'A' * 43}=\n"],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(CheckpointFault, match="origin, size and root"):
        checkpoints.read_text(text)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    other = checkpoints.origin_of("prod", LOG_ID, 3)
    assert code_of(str(signed(origin=other)), KEY) == "other_log"
    renamed = str(signed(origin=other)).replace(other, ORIGIN)
    assert code_of(renamed, KEY) == "unknown_key"  # the key's id has the name in it


def test_a_changed_checkpoint_is_refused() -> None:
    assert code_of(str(signed()).replace("\n7\n", "\n8\n"), KEY) == "signature"
    assert code_of(str(signed(secret=OTHER)), KEY) == "unknown_key"
    assert code_of("nothing", KEY) == "malformed"


def test_a_key_signs_nothing_past_its_rotation() -> None:
    new = LogKey("log.2", notes.public_of(OTHER), NOW * 10**6, (NOW + 9_000) * 10**6)
    old = LogKey("log.1", PUBLIC, KEY.not_before, NOW * 10**6)
    before, after = str(signed(at=NOW - 1)), str(signed(at=NOW))
    assert checkpoints.verify(before, [old, new], ORIGIN).kid == "log.1"
    assert code_of(after, old, new) == "key_expired"
    with pytest.raises(CheckpointFault, match=r"`log\.1` when it was not valid: a rotated key was used"):
        checkpoints.verify(after, [old, new], ORIGIN)
    assert checkpoints.verify(str(signed(at=NOW, secret=OTHER)), [old, new], ORIGIN).kid == "log.2"
    assert code_of(str(signed(at=NOW - 1, secret=OTHER)), old, new) == "key_expired"


def test_the_time_is_under_the_signature() -> None:
    note = signed(at=NOW - 1)
    timed = note.signatures[1]
    moved = notes.Signature(timed.name, timed.key_id, (NOW - 2).to_bytes(8, "big") + timed.value[8:])
    assert code_of(str(Note(note.text, (note.signatures[0], moved))), KEY) == "signature"
    assert code_of(str(Note(note.text, note.signatures[:1])), KEY) == "unknown_key"


def test_two_roots_of_one_size_are_a_fork() -> None:
    one, two = (checkpoints.verify(str(signed(root=bytes([n]) * 32)), [KEY]) for n in (1, 2))
    assert checkpoints.newest([one, one]) == one
    with pytest.raises(CheckpointFault, match="signed two roots for size 7"):
        checkpoints.newest([one, two])


# -- witness policies ---------------------------------------------------------------------------------------------


def witness(name: str, number: int) -> tuple[VKey, bytes]:
    secret = bytes([number]) * 32
    return VKey(name, COSIGNATURE, notes.public_of(secret)), secret


W1, S1 = witness("witness.example/1", 1)
W2, S2 = witness("witness.example/2", 2)
W3, S3 = witness("witness.example/3", 3)
POLICY = f"""# what the auditor was given
witness ops {W1} http://127.0.0.1:1/
witness\taudit  {W2}
witness customer {W3}
group inside any ops audit
group both all inside customer
quorum both
"""


def cosigned(note: Note, *who: tuple[VKey, bytes], at: int = NOW) -> Note:
    made = [notes.cosign(note.text, key, notes.ed25519_signer(secret), at) for key, secret in who]
    return note.with_signatures(*made)


def test_a_quorum_is_met_or_said_to_be_missing() -> None:
    policy = parse_policy(POLICY)
    assert policy.witnesses["ops"].url == "http://127.0.0.1:1/"
    note = cosigned(signed(), (W2, S2), (W3, S3))
    assert policy.check(note, KEY) == {"audit": NOW, "customer": NOW}
    for some in (signed(), cosigned(signed(), (W1, S1), (W2, S2)), cosigned(signed(), (W3, S3))):
        with pytest.raises(CheckpointFault, match="quorum `both` is not met") as caught:
            policy.check(some, KEY)
        assert caught.value.code == "witnesses"


def test_a_witness_that_signs_another_text_is_found() -> None:
    policy = parse_policy(POLICY)
    forked = cosigned(signed(root=b"\1" * 32), (W2, S2), (W3, S3)).signatures[2:]
    with pytest.raises(CheckpointFault, match="witness `audit`: the signature"):
        policy.check(signed().with_signatures(*forked), KEY)


def test_a_witness_does_not_help_a_key_past_its_rotation() -> None:
    policy = parse_policy(POLICY)
    late = cosigned(signed(at=NOW), (W2, S2), (W3, S3), at=NOW + 1_000)
    with pytest.raises(CheckpointFault, match="signed by no witness"):
        policy.check(late, KEY)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no quorum line"),
        ("quorum a\n", "line 1 of the witness policy: `a` is not named before it"),
        ("quorum none\nquorum none\n", "line 2 .* second quorum"),
        (f"witness a {W1}\nwitness a {W2}\n", "the name `a` is taken"),
        (f"witness a {W1}\nwitness b {W1}\n", "another witness's key"),
        (f"witness none {W1}\n", "the name `none` is taken"),
        (f"witness a {PETER}\n", "is of type 1, 4 is needed"),
        (f"witness a {W1}\ngroup g 2 a\n", "`2` is not between 1 and 1"),
        (f"witness a {W1}\ngroup g any a a\n", "`a` is a member twice"),
        (f"witness a {W1}\ngroup g any b\n", "`b` is not named before it"),
        ("witness a b\n", "no verifier key"),
        ("who\n", "no line of log"),
    ],
)
def test_what_is_no_policy(text: str, why: str) -> None:
    with pytest.raises(Terminal, match=why):
        parse_policy(text)


def test_a_policy_without_witnesses() -> None:
    assert parse_policy(f"log {PETER}\nquorum none").check(signed(), KEY) == {}


# -- proofs -------------------------------------------------------------------------------------------------------


def inclusion(index: int = 3, size: int = 7) -> proofs.Inclusion:
    headers = [b"header %d" % i for i in range(size)]
    leaves = [header_hash(h) for h in headers]
    node = Memory(leaves)
    note = signed(size, merkle.root_at(size, node))
    return proofs.Inclusion(headers[index], index, tuple(merkle.inclusion_proof(index, size, node)), note)


def test_a_proof_is_checked_from_either_file() -> None:
    made = inclusion()
    for text in (json.dumps(made.as_json()), made.tlog_proof):
        found = proofs.parse(text)
        assert found == made
        assert found.verify([KEY], ORIGIN).head.size == 7


def test_what_is_checked_names_the_event_that_is_proved() -> None:
    log, rules = LogFile("dev", LOG_ID, 4, (KEY,)), parse_policy(POLICY)
    text = json.dumps([inclusion(3).as_json(), inclusion(5).as_json()])
    assert [(one.event, one.code) for one in check_text(text, log, rules)] == [
        ("3:3", "witnesses"),
        ("3:5", "witnesses"),
    ]
    assert check_text(str(inclusion().note), log, rules)[0].event == ""


def test_a_proof_of_another_header_or_place_does_not_hold() -> None:
    made = inclusion()
    wrong = (
        proofs.Inclusion(b"header 4", 3, made.proof, made.note),
        proofs.Inclusion(made.header, 4, made.proof, made.note),
        proofs.Inclusion(made.header, 3, made.proof[:-1], made.note),
        proofs.Inclusion(made.header, 3, inclusion(2).proof, made.note),
    )
    for one in wrong:
        with pytest.raises(CheckpointFault, match=r"is not event . of checkpoint 7") as caught:
            one.verify([KEY], ORIGIN)
        assert caught.value.code == "inclusion"


def test_a_proof_needs_the_witnesses_of_the_policy() -> None:
    policy = parse_policy(POLICY)
    made = inclusion()
    with pytest.raises(CheckpointFault, match="quorum"):
        made.verify([KEY], ORIGIN, policy)
    note = cosigned(made.note, (W1, S1), (W3, S3))
    assert proofs.Inclusion(made.header, 3, made.proof, note).verify([KEY], ORIGIN, policy).kid == "log.1"


@pytest.mark.parametrize("text", ["", "{}", '{"format": "x"}', "c2sp.org/tlog-proof@v1\nindex 1\n\n", "{"])
def test_what_is_no_proof(text: str) -> None:
    with pytest.raises(CheckpointFault, match="no proof of inclusion"):
        proofs.parse(text)


@given(st.integers(0, 2_000), st.integers(0, 255))
@settings(deadline=None)
def test_no_byte_of_a_proof_may_change(at: int, value: int) -> None:
    """Any changed byte is refused, or changed nothing that is said (a key id of no known key, base64's spare bits)."""
    made = inclusion()
    data = bytearray(made.tlog_proof.encode())
    at %= len(data)
    if data[at] == value:
        return
    data[at] = value
    try:
        found = proofs.parse(data.decode())
        head = found.verify([KEY], ORIGIN).head
    except (CheckpointFault, UnicodeDecodeError):
        return
    assert (found.header, found.index, found.proof, head.text) == (made.header, 3, made.proof, made.note.text)
