"""Private keys in files: made here, readable by their owner only, and never printed or sent anywhere.

Ed25519 keys are JWK files (RFC 8037), `<home>/keys/<kid>.jwk`; MAC secrets that our own processes share stand
together in `<home>/keys/mac.json` (`keys/mac_keys.py`). Control gets public halves only. Next: `control/identities.py`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.keys import mac_keys

SECRET_BYTES = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An Ed25519 key of ours. Its repr never shows the secret."""

    kid: str
    secret: bytes

    def __repr__(self) -> str:
        return f"PrivateKey(kid={self.kid!r})"

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()


def default_path(home: Path, kid: str) -> Path:
    """Where a new key of this kid goes; what no file name should hold becomes `_`."""
    return home / "keys" / f"{_UNSAFE.sub('_', kid)}.jwk"


def new_kid(principal: str) -> str:
    """A kid nobody has: the principal and 32 random bits."""
    return f"{principal}.{secrets.token_hex(4)}"


def create(path: Path, kid: str) -> PrivateKey:
    """Make a key and its file, mode 0600. Raises `Terminal` when the file exists: a key is never overwritten."""
    key = PrivateKey(kid, secrets.token_bytes(SECRET_BYTES))
    text = json.dumps(
        {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": _b64(key.public), "d": _b64(key.secret)}
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise Terminal(f"`{path}` exists and is not overwritten, give another --file or --kid") from error
    except OSError as error:
        raise Terminal(f"`{path}` cannot be written: {error.strerror}, give another --file") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load(path: Path) -> PrivateKey:
    """The key in a JWK file. Raises `Terminal`, without a byte of it, when there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if (found["kty"], found["crv"]) != ("OKP", "Ed25519"):
            raise ValueError
        key = PrivateKey(str(found["kid"]), _unb64(found["d"]))
        if len(key.secret) != SECRET_BYTES or key.public != _unb64(found["x"]):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Terminal(f"`{path}` is no Ed25519 key file, make one with `sluicegate keys new`") from error
    return key


def public_of(text: str) -> bytes:
    """An Ed25519 public key: 64 hex digits, or the path of a JWK file. Raises `Terminal`."""
    try:
        if len(text) == 2 * SECRET_BYTES and "/" not in text:
            raw = bytes.fromhex(text)
        else:
            found = json.loads(Path(text).read_text("utf-8"))
            if (found["kty"], found["crv"]) != ("OKP", "Ed25519"):
                raise ValueError
            raw = _unb64(found["x"])
        Ed25519PublicKey.from_public_bytes(raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Terminal(
            f"`{text[:80]}` is no Ed25519 public key, give 64 hex digits or the path of a JWK file"
        ) from error
    return raw


def create_mac(home: Path, kid: str) -> None:
    """Make a MAC secret in `<home>/keys/mac.json`, mode 0600. Raises `Terminal` when the kid has one."""
    found = mac_keys.load(home)
    if kid in found:
        raise Terminal(f"`keys/mac.json` has a secret for `{kid}` already, give another --kid")
    found[kid] = secrets.token_bytes(SECRET_BYTES)
    path = home / "keys" / "mac.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump({name: secret.hex() for name, secret in found.items()}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
