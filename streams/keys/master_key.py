"""The master key: what wraps subjects' keys, so that the key store's file, or a copy of it, opens nothing by itself.

    SLUICEGATE_MASTER_KEY    the file (default: keys/master.key in the state directory); keep it on another disk, and back it
                             up apart from the key store
    SLUICEGATE_KEY_WRAPPER   package.module:function -> an object with `wrap(key, subject)` and `unwrap(wrapped, subject)`: a
                             KMS, which never gives the master key away; without it the file is used

AES-256-GCM with the subject as associated data: a wrapped key cannot be put at another subject. `Wrapper` is the port. Never
wraps content. Next: `keys/store.py` (the store).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.keys.named_function import function_of, no_function

FILE, WRAPPER = "SLUICEGATE_MASTER_KEY", "SLUICEGATE_KEY_WRAPPER"
MASTER_BYTES = 32
NONCE_BYTES = 12


class Wrapper(Protocol):
    """Wraps the key of a subject, and unwraps it again."""

    def wrap(self, key: bytes, subject: str) -> bytes:
        """What may stand in the store."""
        ...

    def unwrap(self, wrapped: bytes, subject: str) -> bytes:
        """The key. Raises `Terminal` when it was not wrapped here for this subject."""
        ...


class FileWrapper:
    """A master key in a file of its owner."""

    def __init__(self, master: bytes, path: Path) -> None:
        self._cipher, self._path = AESGCM(master), path

    def wrap(self, key: bytes, subject: str) -> bytes:
        """Nonce and ciphertext. The nonce is random: 2^32 keys under one master are far away."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, subject.encode())

    def unwrap(self, wrapped: bytes, subject: str) -> bytes:
        """The key."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], subject.encode())
        except InvalidTag as error:
            raise Terminal(
                f"the key of subject `{subject[:80]}` does not open under `{self._path}`, restore the master key it was wrapped with"
            ) from error


class _Asked:
    """A KMS behind a function; what it says in its errors stays out of ours."""

    def __init__(self, inner: Wrapper) -> None:
        self._inner = inner

    def wrap(self, key: bytes, subject: str) -> bytes:
        return self._ask(self._inner.wrap, key, subject)

    def unwrap(self, wrapped: bytes, subject: str) -> bytes:
        return self._ask(self._inner.unwrap, wrapped, subject)

    def _ask(self, function: Callable[[bytes, str], bytes], value: bytes, subject: str) -> bytes:
        try:
            return function(value, subject)
        except Exception as error:
            raise Retryable(
                f"the key wrapper of `{WRAPPER}` did not answer ({type(error).__name__})"
            ) from None


def wrapper_of(home: Path, *, make: bool, environ: Mapping[str, str] = os.environ) -> Wrapper:
    """The wrapper this process was told of. `make`: nothing is wrapped yet, so a missing master key is made.

    Raises `Terminal` when there is none, or no master key where there has to be one.
    """
    if text := environ.get(WRAPPER, "").strip():
        return _Asked(_named(text))
    given = environ.get(FILE, "").strip()
    path = Path(given).expanduser().absolute() if given else home / "keys" / "master.key"
    if make:
        _make(path)
    try:
        master = path.read_bytes()
    except FileNotFoundError as error:
        raise Terminal(
            f"there is no master key in `{path}`, and the key store was wrapped with one: restore it, or set {FILE}"
        ) from error
    if len(master) != MASTER_BYTES:
        raise Terminal(f"`{path}` is no master key: it has {len(master)} bytes, not {MASTER_BYTES}")
    return FileWrapper(master, path)


def _make(path: Path) -> None:
    """Written beside and linked: of two processes that make one, the first one's counts."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(MASTER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _named(text: str) -> Wrapper:
    function = function_of(WRAPPER, text)
    try:
        return cast(Wrapper, function())
    except Exception as error:
        raise no_function(WRAPPER, text) from error
