"""Which key signs a head, and that a KMS does so without giving its key away."""

from __future__ import annotations

from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Key
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import Checkpoint
from sluicegate.schemas import notes
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.transparency.head_signer import HeadSigner

from tests.unit.test_checkpoints import NOW, ORIGIN

FOREVER = 2**53 - 1
HEAD = Checkpoint(ORIGIN, 7, bytes(32))
KMS_SECRET = b"k" * 32


def kms(kid: str, message: bytes) -> bytes:
    """Stands for a call to a key management service."""
    if kid == "away":
        raise ConnectionError("token s3cr3t expired")
    return b"short" if kid == "odd" else notes.ed25519_signer(KMS_SECRET)(message)


def made(home: Path, kid: str) -> bytes:
    return key_files.create(key_files.default_path(home, kid), kid).public


def control(*keys: tuple[str, bytes, int, int], role: str = checkpoints.ROLE) -> Control:
    found = {kid: Key(kid, "log", role, "Ed25519", public, start, end) for kid, public, start, end in keys}
    return Control(keys=found)


def test_the_newest_valid_key_whose_secret_is_here(tmp_path: Path) -> None:
    old, new = made(tmp_path, "old"), made(tmp_path, "new")
    now = NOW * 10**6
    signer = HeadSigner(tmp_path, {})
    rotating = control(("old", old, 0, now), ("new", new, now, FOREVER))
    assert signer.choose(rotating, NOW - 1).key.kid == "old"
    chosen = signer.choose(rotating, NOW)
    assert chosen.key.kid == "new"
    note = checkpoints.sign_head(HEAD, chosen.key.public, chosen.signer, NOW)
    assert checkpoints.verify(str(note), checkpoints.keys_of(rotating), ORIGIN).kid == "new"
    elsewhere = control(("old", old, 0, FOREVER), ("theirs", b"t" * 32, 0, FOREVER))
    assert signer.choose(elsewhere, NOW).key.kid == "old"
    assert HeadSigner(tmp_path, {"SLUICEGATE_CHECKPOINT_KID": "old"}).choose(elsewhere, NOW).key.kid == "old"


def test_without_a_key_it_says_what_to_do(tmp_path: Path) -> None:
    public = made(tmp_path, "k")
    signer = HeadSigner(tmp_path, {})
    for none in (
        control(),
        control(("k", public, 0, NOW * 10**6)),  # ended
        control(("k", b"o" * 32, 0, FOREVER)),  # another key of that name
        control(("k", public, 0, FOREVER), role="attestor"),
    ):
        with pytest.raises(Retryable, match="sluicegate keys new log --role checkpointer"):
            signer.choose(none, NOW)
    assert not signer.has_key(control())
    with pytest.raises(Retryable, match="no valid key `other` of role `checkpointer`"):
        HeadSigner(tmp_path, {"SLUICEGATE_CHECKPOINT_KID": "other"}).choose(
            control(("k", public, 0, FOREVER)), NOW
        )


def test_a_kms_signs(tmp_path: Path) -> None:
    environ = {"SLUICEGATE_CHECKPOINT_SIGNER": f"{__name__}:kms"}
    signer = HeadSigner(tmp_path, environ)
    registered = control(("kms-1", notes.public_of(KMS_SECRET), 0, FOREVER))
    chosen = signer.choose(registered, NOW)
    note = checkpoints.sign_head(HEAD, chosen.key.public, chosen.signer, NOW)
    assert checkpoints.verify(str(note), checkpoints.keys_of(registered), ORIGIN).kid == "kms-1"
    for kid, why in (("away", r"did not sign \(ConnectionError\)"), ("odd", "gave no signature of 64 bytes")):
        broken = signer.choose(control((kid, notes.public_of(KMS_SECRET), 0, FOREVER)), NOW)
        with pytest.raises(Retryable, match=why) as caught:
            broken.signer(b"x")
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", ["nothing", "no.such.module:f", f"{__name__}:none", "a b:c"])
def test_a_signer_that_cannot_be_had_is_said_at_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(Terminal, match=r"name a function as package\.module:function"):
        HeadSigner(tmp_path, {"SLUICEGATE_CHECKPOINT_SIGNER": text})
