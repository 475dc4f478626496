"""The key store: one key per subject, so that forgetting a person is destroying a key.

Content on the ledger is AES-SIV (RFC 5297) under its subject's key, with the event id as associated data: sealing
is deterministic, and a sealed text cannot be moved to another event. This is the `Keys` port's default, an SQLite
file under the state directory; a KMS takes its place in production. Never in Kafka, never in ClickHouse.
Next: `processors/outcomes.py` (`seal`), `sinks/clickhouse.py` (who opens).
"""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sluicegate.schemas.errors import Terminal

KEY_BITS = 512
"""AES-256-SIV takes two 256-bit keys."""

MAX_CACHED = 50_000
"""Keys kept in memory by one process, about 400 bytes each: 20 MB."""

BUSY_LIMIT_S = 10.0
"""How long a process waits for another one that writes a key."""


class Keys:
    """Subject keys in `<home>/keys/subjects.sqlite`, shared by all processes of this machine."""

    def __init__(self, home: Path) -> None:
        folder = home / "keys"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "subjects.sqlite"
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        # FULL: a key must outlive the ledger record that was sealed with it, through a power cut too.
        self._db.execute("pragma synchronous=full")
        self._db.execute(
            "create table if not exists keys (subject text primary key, key blob, destroyed_at integer)"
        )
        self._cache: OrderedDict[str, AESSIV] = OrderedDict()

    def seal(self, subject: str, event_id: bytes, content: bytes) -> bytes:
        """Ciphertext of `content`; the subject's key is made at its first use.

        Raises `Terminal` when the subject's key was destroyed: nothing new may be kept about them.
        """
        cipher = self._cipher(subject, create=True)
        if cipher is None:
            raise Terminal(
                f"the key of subject `{subject}` was destroyed by an erasure, use another subject id"
            )
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

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _cipher(self, subject: str, *, create: bool) -> AESSIV | None:
        cipher = self._cache.get(subject)
        if cipher is not None:
            return cipher
        row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        if row is None and create:
            self._db.execute(
                "insert or ignore into keys (subject, key) values (?, ?)",
                (subject, AESSIV.generate_key(KEY_BITS)),
            )
            row = self._db.execute("select key from keys where subject = ?", (subject,)).fetchone()
        if row is None or row[0] is None:
            return None
        cipher = AESSIV(row[0])
        self._cache[subject] = cipher
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return cipher
