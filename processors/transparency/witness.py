"""What a witness does with a head it is shown: cosigns it if it continues what it cosigned before, else refuses.

The rules and status codes of https://c2sp.org/tlog-witness. Pure: the last head comes in, and whoever calls keeps the new one
before it answers. Never signs. Next: `streams/transparency/witness_server.py` (the process), `transparency/checkpoints.py`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import Checkpoint, CheckpointFault, LogKey, Signed

MAX_REQUEST_BYTES = 80 * 1024
"""A note of 64 kB and 63 hashes."""
SIZE_TYPE = "text/x.tlog.size"


class Refused(Exception):
    """A head that is not cosigned.

    Attributes:
        status: HTTP's.
        code: `malformed`, `unknown_log`, `signature`, `unknown_key`, `key_expired`, `conflict`, `forked` or `inconsistent`.
        size: of the head cosigned before, where that is the answer.
    """

    def __init__(self, status: int, code: str, message: str, size: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.size = status, code, size

    @property
    def evidence(self) -> bool:
        """Whether the log signed something that it must not have: worth keeping."""
        return self.code in ("forked", "inconsistent", "key_expired")


@dataclass(frozen=True, slots=True)
class Request:
    """`add-checkpoint`."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    @property
    def body(self) -> bytes:
        """As it is sent."""
        lines = "".join(f"{base64.b64encode(h).decode()}\n" for h in self.proof)
        return f"old {self.old}\n{lines}\n{self.note}".encode()


def parse_request(body: bytes) -> Request:
    """Raises `Refused`."""
    try:
        before, _, note = body.decode().partition("\n\n")
        first, *hashes = before.split("\n")
        old = int(first.removeprefix("old "))
        proof = tuple(base64.b64decode(h, validate=True) for h in hashes)
        if first != f"old {old}" or old < 0 or len(proof) > merkle.MAX_PROOF:
            raise ValueError(first)
    except (ValueError, binascii.Error) as error:
        raise Refused(400, "malformed", "it is no add-checkpoint request") from error
    return Request(old, proof, note)


def judge(
    request: Request, logs: Mapping[str, Sequence[LogKey]], last: Checkpoint | None, second: int
) -> Signed:  # fmt: skip
    """The checkpoint to keep and cosign. Raises `Refused`.

    `last`: the head that was cosigned for the log in the request before, None for the first.
    """
    signed = _signed(request, logs, second)
    head = signed.head
    size = last.size if last else 0
    if request.old > head.size:
        raise Refused(400, "malformed", f"old size {request.old} is above the checkpoint's {head.size}")
    # INVARIANT: a witness signs one history of a log (tests/unit/test_witness.py).
    if last is not None and head.size == size and head.root != last.root:
        raise Refused(
            409,
            "forked",
            f"log `{head.origin}` is FORKED: it signed two roots for size {size}; both notes are kept as evidence",
            size,
        )
    if request.old != size:
        raise Refused(409, "conflict", f"this witness cosigned size {size} of `{head.origin}` last", size)
    root = last.root if last else merkle.EMPTY_ROOT
    if not merkle.verify_consistency(size, head.size, root, head.root, request.proof):
        raise Refused(
            422,
            "inconsistent",
            f"checkpoint {head.size} of `{head.origin}` does not continue the {size} events that this witness cosigned: the log "
            "was forked, or its proof is wrong",
        )
    return signed


def _signed(request: Request, logs: Mapping[str, Sequence[LogKey]], second: int) -> Signed:
    try:
        head, _ = checkpoints.read(request.note)
    except CheckpointFault as error:
        raise Refused(400, "malformed", str(error)) from error
    keys = logs.get(head.origin)
    if keys is None:
        raise Refused(404, "unknown_log", f"log `{head.origin[:200]}` is none that this witness knows")
    try:
        signed = checkpoints.verify(request.note, keys, head.origin)
    except CheckpointFault as error:
        raise Refused(403, error.code, str(error)) from error
    # INVARIANT: a key past its rotation gets no cosignature, whatever time it writes (tests/unit/test_witness.py).
    if not checkpoints.key_of(signed, keys).valid_at(second):
        raise Refused(
            403,
            "key_expired",
            f"key `{signed.kid}` of `{head.origin}` is not valid now: sign with the log's current key",
        )
    return signed
