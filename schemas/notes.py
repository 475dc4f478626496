"""C2SP signed notes: text that keys have signed, a line a signature; Ed25519 and timestamped witness cosignatures.

`parse` never trusts: it says what stands there. `VKey.verify` says whether one signature is right. Formats:
https://c2sp.org/signed-note and https://c2sp.org/tlog-cosignature. Never makes a key and never reads a clock.
Next: `processors/transparency/checkpoints.py` (notes that are tree heads).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = 1
COSIGNATURE = 4
"""Signature types: an Ed25519 note, and a cosignature/v1, which has its time in it."""
MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 100
"""One note's; the log's two, and 16 are what every reader must take."""

_DASH = "— "
_NAME = re.compile(r"[^\s+]{1,255}")

Signer = Callable[[bytes], bytes]
"""Ed25519 over these bytes: a key in a file, or a KMS that never gives its key away."""


class BadNote(ValueError):
    """Bytes that are no signed note; the message says why."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One line: whose it says it is, and its bytes."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line with its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    @property
    def timestamp(self) -> int:
        """Seconds since 1970, of a cosignature; its signature covers them."""
        return int.from_bytes(self.value[:8], "big")


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its last newline, and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(s.line for s in self.signatures)}"

    def with_signatures(self, *more: Signature) -> Note:
        """The note with these lines too; a line that is there already stays one."""
        kept = dict.fromkeys((*self.signatures, *more))
        return Note(self.text, tuple(kept))


@dataclass(frozen=True, slots=True)
class VKey:
    """A verifier key: `<name>+<key id>+<type and public key>`, as every C2SP tool writes it."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of sha256(name, newline, type, public key)."""
        return hashlib.sha256(b"%b\n%c%b" % (self.name.encode(), self.kind, self.public)).digest()[:4]

    def __str__(self) -> str:
        material = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    def verify(self, text: str, signature: Signature) -> bool:
        """Whether this key signed the text with this line."""
        if (signature.name, signature.key_id) != (self.name, self.key_id):
            return False
        value, message = signature.value, text.encode()
        if self.kind == COSIGNATURE:
            if len(value) != 72:
                return False
            message, value = cosigned(text, signature.timestamp), value[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(value, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def find(self, note: Note) -> Signature | None:
        """This key's right signature under the note. Raises `BadNote` where it has one that is wrong."""
        for signature in note.signatures:
            if (signature.name, signature.key_id) == (self.name, self.key_id):
                if not self.verify(note.text, signature):
                    raise BadNote(f"the signature of `{self.name}` does not verify: the note was changed")
                return signature
        return None


def check_name(name: str) -> str:
    """The name, where it can be a key's. Raises `BadNote`."""
    if not _NAME.fullmatch(name):
        raise BadNote(f"`{name[:80]}` is no name of a key: no spaces, no plus, 1 to 255 characters")
    return name


def parse_vkey(text: str) -> VKey:
    """Raises `BadNote`."""
    name, _, rest = text.strip().partition("+")
    key_id, _, material = rest.partition("+")
    try:
        data = base64.b64decode(material, validate=True)
        key = VKey(check_name(name), data[0], data[1:])
        right = bytes.fromhex(key_id) == key.key_id
    except (ValueError, IndexError, binascii.Error) as error:
        raise BadNote(f"`{text[:80]}` is no verifier key NAME+ID+KEY") from error
    if not right:
        raise BadNote(f"`{text[:80]}`: its id is not the one its name and key give, copy it again")
    if key.kind not in (ED25519, COSIGNATURE) or len(key.public) != 32:
        raise BadNote(
            f"`{text[:80]}` is a key of type {key.kind}: Ed25519 (1) or a cosignature (4) is needed"
        )
    return key


def cosigned(text: str, timestamp: int) -> bytes:
    """What a cosignature/v1 signs."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def sign(text: str, key: VKey, signer: Signer) -> Signature:
    """A note signature, type 1."""
    return Signature(key.name, key.key_id, signer(text.encode()))


def cosign(text: str, key: VKey, signer: Signer, timestamp: int) -> Signature:
    """A timestamped cosignature, type 4. `timestamp` in seconds."""
    return Signature(key.name, key.key_id, timestamp.to_bytes(8, "big") + signer(cosigned(text, timestamp)))


def ed25519_signer(secret: bytes) -> Signer:
    """A signer over 32 bytes of private key."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign


def public_of(secret: bytes) -> bytes:
    """The public key of a private one."""
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Signature lines, as a witness answers them. Raises `BadNote`."""
    found = []
    if lines and not lines.endswith("\n"):
        raise BadNote("its last line has no end")
    for line in lines.split("\n")[:-1]:
        name, _, rest = line.removeprefix(_DASH).partition(" ")
        try:
            data = base64.b64decode(rest, validate=True)
        except (ValueError, binascii.Error):
            data = b""
        if not line.startswith(_DASH) or len(data) < 5 or not _NAME.fullmatch(name):
            raise BadNote(f"`{line[:80]}` is no signature line")
        found.append(Signature(name, data[:4], data[4:]))
    if len(found) > MAX_SIGNATURES:
        raise BadNote(f"it has {len(found)} signatures, more than {MAX_SIGNATURES}")
    return tuple(found)


def parse(data: bytes | str) -> Note:
    """A signed note. Raises `BadNote`."""
    raw = data.encode() if isinstance(data, str) else data
    if len(raw) > MAX_NOTE_BYTES:
        raise BadNote(f"it has {len(raw)} bytes, more than {MAX_NOTE_BYTES}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadNote("it is not UTF-8") from error
    if any(ord(c) < 0x20 and c != "\n" for c in text):
        raise BadNote("it has a control character")
    body, between, lines = text.rpartition("\n\n")
    if not between or not lines:
        raise BadNote("it has no empty line with signatures behind it")
    return Note(body + "\n", parse_signatures(lines))
