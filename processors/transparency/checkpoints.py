"""Checkpoints: signed heads of a ledger partition's tree, and which key may sign one when.

A checkpoint is a C2SP signed note of origin, size and root (https://c2sp.org/tlog-checkpoint). The log signs it twice
with one key: as a plain Ed25519 note, which every tool reads, and as a timestamped cosignature, whose time says whether
the key was valid then. The history of keys is control's fold. Extension lines are refused: nobody audits them.
Never signs without being given a signer. Next: `transparency/witness_policy.py` (who else has to sign), `transparency/proofs.py`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicegate.processors.transparency.merkle import HASH_BYTES
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.notes import COSIGNATURE, ED25519, BadNote, Note, Signer, VKey, cosign, parse, sign

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

ROLE = "checkpointer"
"""Of the keys that sign checkpoints, in control."""
ORIGIN_PREFIX = "sluicegate.dev/"
CONTROL = -1
"""The partition number of the control ledger, as `verify` writes it."""
SECOND_US = 1_000_000


class CheckpointFault(Terminal):
    """A checkpoint that does not hold.

    Attributes:
        code: `malformed`, `other_log`, `unknown_key`, `signature`, `key_expired`, `forked`, `shrunk` or `witnesses`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def partition_name(partition: int) -> str:
    """`control`, or the number."""
    return "control" if partition == CONTROL else str(partition)


def origin_of(env: str, log_id: bytes, partition: int) -> str:
    """A log's name: environment, generation (each has its own random log id) and partition."""
    return f"{ORIGIN_PREFIX}{env}/{log_id.hex()}/{partition_name(partition)}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def read_text(text: str) -> Checkpoint:
    """The tree head in a note's text. Raises `CheckpointFault`."""
    try:
        origin, size, root = text.removesuffix("\n").split("\n")
        found = Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
    except (ValueError, binascii.Error) as error:
        raise CheckpointFault(
            "malformed", "it is no checkpoint: origin, size and root, a line each"
        ) from error
    if found.text != text or not origin or found.size < 0 or len(found.root) != HASH_BYTES:
        raise CheckpointFault("malformed", "it is no checkpoint: origin, size and root, a line each")
    return found


@dataclass(frozen=True, slots=True)
class LogKey:
    """One key of a log's history; times in microseconds, valid from the first until before the second."""

    kid: str
    public: bytes
    not_before: int
    not_after: int

    def vkey(self, origin: str, kind: int = ED25519) -> VKey:
        """The key under a log's name; the same key signs every partition's log, under its name."""
        return VKey(origin, kind, self.public)

    def valid_at(self, second: int) -> bool:
        """Whether it may sign in that second of 1970."""
        return (second + 1) * SECOND_US > self.not_before and second * SECOND_US < self.not_after


def key_of(signed: Signed, keys: Iterable[LogKey]) -> LogKey:
    """The key that signed a checkpoint, among those that it was verified by."""
    return next(key for key in keys if key.kid == signed.kid)


def keys_of(control: Control) -> tuple[LogKey, ...]:
    """The history of an environment's checkpoint keys, those that ended too."""
    return tuple(
        LogKey(k.kid, k.public, k.not_before, k.not_after)
        for k in control.keys.values()
        if k.role == ROLE and k.alg == "Ed25519"
    )


def sign_head(head: Checkpoint, public: bytes, signer: Signer, second: int) -> Note:
    """The signed note of a head; `second` is the time it is signed."""
    plain, timed = VKey(head.origin, ED25519, public), VKey(head.origin, COSIGNATURE, public)
    return Note(head.text, (sign(head.text, plain, signer), cosign(head.text, timed, signer, second)))


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint whose signature holds: under which key, and when it says it was signed (seconds of 1970)."""

    head: Checkpoint
    note: Note
    kid: str
    second: int


def read(data: bytes | str) -> tuple[Checkpoint, Note]:
    """A checkpoint and its note, nothing verified. Raises `CheckpointFault`."""
    try:
        note = parse(data)
    except BadNote as error:
        raise CheckpointFault("malformed", f"it is no signed note: {error}") from error
    return read_text(note.text), note


def verify(data: bytes | str, keys: Iterable[LogKey], origin: str = "") -> Signed:
    """The checkpoint, signed by a key that was valid when it signed. Raises `CheckpointFault`, whose code says why not.

    `origin`: the log it has to be of.
    """
    head, note = read(data)
    # INVARIANT: a checkpoint of another log is never taken for this one's (tests/unit/test_checkpoints.py).
    if origin and head.origin != origin:
        raise CheckpointFault(
            "other_log", f"the checkpoint is of log `{head.origin}`, this is `{origin}`: take that log's"
        )
    expired = ""
    for key in keys:
        try:
            plain = key.vkey(head.origin).find(note)
            timed = key.vkey(head.origin, COSIGNATURE).find(note)
        except BadNote as error:
            raise CheckpointFault(
                "signature", f"checkpoint {head.size} of `{head.origin}`: {error}"
            ) from error
        if plain is None or timed is None:
            continue
        # INVARIANT: a key signs nothing before its registration and nothing past its end (tests/unit/test_checkpoints.py).
        if key.valid_at(timed.timestamp):
            return Signed(head, note, key.kid, timed.timestamp)
        expired = expired or key.kid
    if expired:
        raise CheckpointFault(
            "key_expired",
            f"checkpoint {head.size} of `{head.origin}` was signed with key `{expired}` when it was not valid: "
            "a rotated key was used, ask who has it",
        )
    raise CheckpointFault(
        "unknown_key",
        f"checkpoint {head.size} of `{head.origin}` has no signature of a known key of this log: "
        "get the key history again (`sluicegate checkpoint keys`), or it is forged",
    )


def age(one: Signed) -> tuple[int, int]:
    """To sort by: of heads of one size the one that was signed last is newest."""
    return one.head.size, one.second


def newest(found: Sequence[Signed]) -> Signed | None:
    """The largest of checkpoints of one log. Raises `CheckpointFault` where two of one size have two roots."""
    roots: dict[int, bytes] = {}
    for one in found:
        if roots.setdefault(one.head.size, one.head.root) != one.head.root:
            raise CheckpointFault(
                "forked",
                f"log `{one.head.origin}` signed two roots for size {one.head.size}: it was forked, keep both",
            )
    return max(found, key=age, default=None)
