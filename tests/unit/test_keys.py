"""The key store: keys stand wrapped, a destroyed one is nowhere, and the ledger goes on without it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.keys import master_key
from sluicegate.streams.keys import store as key_store
from sluicegate.streams.keys.store import DESTROYED, LIVE, NONE, Keys

EVENT, OTHER = b"e" * 16, b"o" * 16


def raw(home: Path) -> bytes:
    """All bytes of the store's files, the write-ahead log with them."""
    return b"".join(p.read_bytes() for p in sorted((home / "keys").glob("subjects.sqlite*")))


def wrapped(home: Path, subject: str) -> bytes:
    with sqlite3.connect(home / "keys" / "subjects.sqlite") as db:
        [(key,)] = db.execute("select key from keys where subject = ?", (subject,)).fetchall()
    db.close()
    return bytes(key)


def test_what_is_sealed_opens_for_its_event_only(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    sealed = keys.seal("ada", EVENT, b"said")
    assert keys.open("ada", EVENT, sealed) == b"said"
    assert Keys(tmp_path).open("ada", EVENT, sealed) == b"said"
    assert keys.open("bob", EVENT, sealed) is None  # no key: nothing was ever sealed for bob
    with pytest.raises(Terminal, match="was changed or moved"):
        keys.open("ada", OTHER, sealed)


def test_a_destroyed_key_is_in_no_file_and_opens_nothing(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    sealed = keys.seal("ada", EVENT, b"said")
    kept = keys.seal("bob", EVENT, b"stays")
    key = wrapped(tmp_path, "ada")
    assert key in raw(tmp_path)  # the test can fail
    keys.destroy(["ada"])
    assert key not in raw(tmp_path)
    assert (keys.state("ada"), keys.state("bob"), keys.state("eve")) == (DESTROYED, LIVE, NONE)
    assert keys.open("ada", EVENT, sealed) is None
    assert keys.open("bob", EVENT, kept) == b"stays"
    keys.destroy(["ada", "eve"])  # again, and one that never was
    assert keys.state("eve") == DESTROYED


def test_what_comes_after_is_sealed_for_nobody(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.seal("ada", EVENT, b"said")
    keys.destroy(["ada"])
    late = keys.seal("ada", OTHER, b"a result that was on its way")
    assert late != keys.seal("ada", OTHER, b"a result that was on its way")
    assert keys.open("ada", OTHER, late) is None
    assert keys.state("ada") == DESTROYED


def test_another_process_lets_go_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, operator = Keys(tmp_path), Keys(tmp_path)
    sealed = worker.seal("ada", EVENT, b"said")
    worker.seal("bob", EVENT, b"said")
    operator.destroy(["ada"])
    monkeypatch.setattr(key_store, "RECHECK_S", 0.0)
    assert worker.open("ada", EVENT, sealed) is None
    operator.destroy(["bob"])
    assert worker.open("bob", EVENT, sealed) is None


def test_a_reader_keeps_the_last_copy_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(tmp_path)
    keys.seal("ada", EVENT, b"said")
    monkeypatch.setattr(key_store, "BUSY_LIMIT_S", 0.0)
    keys._db.execute("pragma busy_timeout=0")
    reader = sqlite3.connect(tmp_path / "keys" / "subjects.sqlite", isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from keys").fetchall()
    with pytest.raises(Retryable, match="run it again"):
        keys.destroy(["ada"])
    assert keys.state("ada") == DESTROYED
    reader.close()
    keys.destroy(["ada"])


def test_what_else_must_be_deleted_is_remembered(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.destroy(["ada", "ada#7"], [("ada", "sha256:1"), ("ada#7", "sha256:2"), ("ada", "sha256:1")])
    assert Keys(tmp_path).leftovers(["ada", "ada#7"]) == ["sha256:1", "sha256:2"]
    keys.left(["ada", "ada#7"])
    assert keys.leftovers(["ada"]) == []


# -- the master key -------------------------------------------------------------------------------------------------------


def test_the_store_alone_opens_nothing(tmp_path: Path) -> None:
    sealed = Keys(tmp_path).seal("ada", EVENT, b"said")
    (tmp_path / "keys" / "master.key").unlink()
    again = Keys(tmp_path)
    with pytest.raises(Terminal, match="there is no master key in"):
        again.open("ada", EVENT, sealed)
    (tmp_path / "keys" / "master.key").write_bytes(bytes(32))
    with pytest.raises(Terminal, match="restore the master key"):
        Keys(tmp_path).open("ada", EVENT, sealed)
    (tmp_path / "keys" / "master.key").write_bytes(b"short")
    with pytest.raises(Terminal, match="5 bytes, not 32"):
        Keys(tmp_path).open("ada", EVENT, sealed)


def test_a_wrapped_key_is_its_subject_s(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    sealed = keys.seal("ada", EVENT, b"said")
    keys._db.execute("insert into keys (subject, key) select 'eve', key from keys where subject = 'ada'")
    with pytest.raises(Terminal, match="key of subject `eve` does not open"):
        keys.open("eve", EVENT, sealed)


def test_a_store_from_before_is_wrapped(tmp_path: Path) -> None:
    bare = AESSIV.generate_key(512)
    keys = Keys(tmp_path)
    keys._db.execute("insert into keys (subject, key) values ('ada', ?)", (bare,))
    keys.close()
    assert bare in raw(tmp_path)
    sealed = AESSIV(bare).encrypt(b"said", [EVENT])
    assert Keys(tmp_path).open("ada", EVENT, sealed) == b"said"
    assert bare not in raw(tmp_path)


def test_the_master_key_may_stand_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vault" / "m.key"
    monkeypatch.setenv(master_key.FILE, str(file))
    sealed = Keys(tmp_path).seal("ada", EVENT, b"said")
    assert len(file.read_bytes()) == 32 and file.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "keys" / "master.key").exists()
    assert Keys(tmp_path).open("ada", EVENT, sealed) == b"said"


class Kms:
    """Somebody else's: here it turns bytes around."""

    down = False

    def wrap(self, key: bytes, subject: str) -> bytes:
        return subject.encode() + b"/" + key[::-1]

    def unwrap(self, wrapped: bytes, subject: str) -> bytes:
        if self.down:
            raise RuntimeError("secret text of a vault")
        return wrapped.removeprefix(subject.encode() + b"/")[::-1]


def test_a_kms_wraps_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(master_key.WRAPPER, f"{__name__}:Kms")
    sealed = Keys(tmp_path).seal("ada", EVENT, b"said")
    assert not (tmp_path / "keys" / "master.key").exists()
    assert Keys(tmp_path).open("ada", EVENT, sealed) == b"said"
    monkeypatch.setattr(Kms, "down", True)
    with pytest.raises(Retryable, match=r"did not answer \(RuntimeError\)$"):
        Keys(tmp_path).open("ada", EVENT, sealed)
    monkeypatch.setenv(master_key.WRAPPER, "nobody.there:function")
    with pytest.raises(Terminal, match="name a function as package"):
        Keys(tmp_path).seal("bob", EVENT, b"said")
