"""The key store: one key per subject, so that forgetting a person is destroying a key.

Content on the ledger is AES-SIV (RFC 5297) under its subject's key, with the event id as associated data: sealing
is deterministic, and a sealed text cannot be moved to another event. This is the `Keys` port's default, an SQLite
file under the state directory; a KMS takes its place in production. Keys stand in it wrapped (`keys/master_key.py`). Never in
Kafka, never in ClickHouse. After `destroy` nothing of the key is left in the files, other processes let go of it within
`RECHECK_S` of using it, and what is sealed for the subject from then on opens for nobody.
Next: `processors/outcomes.py` (`seal`), `sinks/clickhouse.py` (who opens), `erasures.py` (who destroys).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.keys.master_key import Wrapper, wrapper_of

KEY_BITS = 512
"""AES-256-SIV takes two 256-bit keys."""

BARE_BYTES = KEY_BITS // 8
"""Of a key that stands unwrapped, as stores before the master key kept them; wrapped ones are longer."""

MAX_CACHED = 50_000
"""Keys kept in memory by one process, about 400 bytes each: 20 MB."""

BUSY_LIMIT_S = 10.0
"""How long a process waits for another one that writes a key, or reads while one is destroyed."""

RECHECK_S = 1.0
"""A process that uses keys looks this often whether one was destroyed: a microsecond each time."""

LIVE, DESTROYED, NONE = "live", "destroyed", "none"
"""What a subject's key can be."""

_TABLES = """
create table if not exists keys (subject text primary key, key blob, destroyed_at integer);
create index if not exists destroyed on keys (destroyed_at) where destroyed_at is not null;
create table if not exists leftovers (subject text, artifact text, primary key (subject, artifact)) without rowid;
"""


def keys_at(home: Path) -> Path:
    """Where a machine's key store is."""
    return home / "keys" / "subjects.sqlite"


class Keys:
    """Subject keys in `<home>/keys/subjects.sqlite`, shared by all processes of this machine."""

    def __init__(self, home: Path) -> None:
        path = keys_at(home)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._home = home
        self._db = sqlite3.connect(path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        # FULL: a key must outlive the ledger record that was sealed with it, through a power cut too.
        self._db.execute("pragma synchronous=full")
        self._db.execute("pragma secure_delete=on")  # a destroyed key leaves no copy in a free page
        self._db.executescript(_TABLES)
        self._cache: OrderedDict[str, AESSIV] = OrderedDict()
        self._wrapper: Wrapper | None = None
        self._seen, self._checked = self._version(), time.monotonic()
        self._until = 0
        """Destroyed until then: seen."""
        self._wrap_bare()

    def seal(self, subject: str, event_id: bytes, content: bytes) -> bytes:
        """Ciphertext of `content`; the subject's key is made at its first use.

        INVARIANT: after an erasure the ledger goes on, and what comes of the subject is sealed with a key that nobody keeps
        (tests/unit/test_keys.py).
        """
        cipher = self._cipher(subject, create=True)
        if cipher is None:
            cipher = AESSIV(AESSIV.generate_key(KEY_BITS))
        return cipher.encrypt(content, [event_id])

    def open(self, subject: str, event_id: bytes, sealed: bytes) -> bytes | None:
        """The content, or None when its key was destroyed or never was here.

        Raises `Terminal` when key and ciphertext do not belong together.
        """
        cipher = self._cipher(subject, create=False)
        if cipher is None:
            return None
        try:
            return cipher.decrypt(sealed, [event_id])
        except InvalidTag as error:
            raise Terminal(
                f"content of event `{event_id.hex()}` does not open, it was changed or moved"
            ) from error

    def disclose(self, subject: str) -> bytes | None:
        """The subject's key itself, for an evidence bundle; None when it was destroyed or never was here."""
        row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        return None if row is None or row[0] is None else self._wrapping().unwrap(row[0], subject)

    def state(self, subject: str) -> str:
        """`LIVE`, `DESTROYED` or `NONE`."""
        row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        return NONE if row is None else DESTROYED if row[0] is None else LIVE

    def destroy(self, subjects: Iterable[str], artifacts: Iterable[tuple[str, str]] = ()) -> None:
        """Destroy keys, those too that were never made. `artifacts`: (subject, name) that have to be deleted after it.

        What must be deleted besides is written down with it, since nothing can tell afterwards. Raises `Retryable` when
        another process keeps the old pages in use: the keys are destroyed, and running it again removes their last copy.
        """
        gone = list(subjects)
        self._db.execute("begin immediate")
        try:
            # Never before an earlier one, whatever the clock does: others look for what came after what they saw.
            now = max(time.time_ns() // 1000, self._last_destroyed() + 1)
            self._db.executemany("insert or ignore into leftovers values (?, ?)", list(artifacts))
            self._db.executemany(
                "insert into keys values (?, null, ?) on conflict (subject) do update set key = null, "
                "destroyed_at = coalesce(destroyed_at, excluded.destroyed_at)",
                [(subject, now) for subject in gone],
            )
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback")
            raise
        for subject in gone:
            self._cache.pop(subject, None)
        self._forget_pages()

    def leftovers(self, subjects: Iterable[str]) -> list[str]:
        """Artifacts of destroyed subjects that are still to be deleted."""
        found = [
            self._db.execute("select artifact from leftovers where subject = ?", (subject,)).fetchall()
            for subject in subjects
        ]
        return [str(name) for rows in found for (name,) in rows]

    def left(self, subjects: Iterable[str]) -> None:
        """They were deleted."""
        self._db.executemany("delete from leftovers where subject = ?", [(subject,) for subject in subjects])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _forget_pages(self) -> None:
        """Empty the write-ahead log, which has the old pages: the file itself is overwritten by `secure_delete`."""
        until = time.monotonic() + BUSY_LIMIT_S
        while self._db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]:
            if time.monotonic() > until:
                raise Retryable("the key is destroyed, but a process still reads the key store: run it again")
            time.sleep(0.05)

    def _wrapping(self) -> Wrapper:
        if self._wrapper is None:
            wrapped = self._db.execute(
                "select 1 from keys where length(key) > ? limit 1", (BARE_BYTES,)
            ).fetchone()
            self._wrapper = wrapper_of(self._home, make=wrapped is None)
        return self._wrapper

    def _wrap_bare(self) -> None:
        """Keys of a store from before the master key."""
        query = "select subject, key from keys where length(key) = ?"
        if self._db.execute(f"{query} limit 1", (BARE_BYTES,)).fetchone() is None:
            return
        wrapper = self._wrapping()
        self._db.execute("begin immediate")
        rows = self._db.execute(query, (BARE_BYTES,)).fetchall()
        self._db.executemany(
            "update keys set key = ? where subject = ?",
            [(wrapper.wrap(key, subject), subject) for subject, key in rows],
        )
        self._db.execute("commit")
        self._forget_pages()

    def _version(self) -> int:
        """Another number when another process has written."""
        return int(self._db.execute("pragma data_version").fetchone()[0])

    def _recheck(self) -> None:
        """Let go of keys that another process destroyed."""
        self._checked = time.monotonic()
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        query = "select subject, destroyed_at from keys where destroyed_at > ?"
        for subject, at in self._db.execute(query, (self._until,)).fetchall():
            self._cache.pop(subject, None)
            self._until = max(self._until, at)

    def _last_destroyed(self) -> int:
        found = self._db.execute(
            "select max(destroyed_at) from keys where destroyed_at is not null"
        ).fetchone()
        return int(found[0] or 0)

    def _cipher(self, subject: str, *, create: bool) -> AESSIV | None:
        if time.monotonic() - self._checked > RECHECK_S:
            self._recheck()
        cipher = self._cache.get(subject)
        if cipher is not None:
            return cipher
        row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        if row is None and create:
            wrapped = self._wrapping().wrap(AESSIV.generate_key(KEY_BITS), subject)
            self._db.execute("insert or ignore into keys (subject, key) values (?, ?)", (subject, wrapped))
            row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        if row is None or row[0] is None:
            return None
        cipher = AESSIV(self._wrapping().unwrap(row[0], subject))
        self._cache[subject] = cipher
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return cipher
