"""A proof that one event is in a log, as a file: C2SP tlog-proof text, and the same as JSON with the header in it.

Checked with the origin, the key history and the witness policy alone, without a network. The leaf is the hash of the
event's header, and the header has the hashes of facts and content. Next: `transparency/merkle.py`, `transparency/checkpoints.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import CheckpointFault, LogKey, Signed
from sluicegate.processors.transparency.witness_policy import Policy
from sluicegate.schemas.notes import Note

FORMAT = "sluicegate/inclusion/v1"
TLOG_PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A header's place in a checkpointed tree. `header` is what the ledger has, so that its hash is the leaf."""

    header: bytes
    index: int
    proof: tuple[bytes, ...]
    note: Note

    @property
    def tlog_proof(self) -> str:
        """The C2SP text; the header is its extra data."""
        hashes = "".join(f"{_b64(h)}\n" for h in self.proof)
        return f"{TLOG_PROOF}\nextra {_b64(self.header)}\nindex {self.index}\n{hashes}\n{self.note}"

    def as_json(self) -> dict[str, object]:
        """What `sluicegate prove` prints."""
        return {
            "format": FORMAT,
            "origin": checkpoints.read_text(self.note.text).origin,
            "index": self.index,
            "leaf": header_hash(self.header).hex(),
            "header": _b64(self.header),
            "proof": [_b64(h) for h in self.proof],
            "checkpoint": str(self.note),
        }

    def verify(self, keys: Iterable[LogKey], origin: str = "", policy: Policy | None = None) -> Signed:
        """The checkpoint that the header is in. Raises `CheckpointFault`, code `inclusion` where it is not in it."""
        history = tuple(keys)
        signed = checkpoints.verify(str(self.note), history, origin)
        if policy is not None:
            policy.check(signed.note, checkpoints.key_of(signed, history))
        leaf, head = header_hash(self.header), signed.head
        # INVARIANT: a header that was changed or never written has no proof (tests/unit/test_checkpoints.py).
        if not merkle.verify_inclusion(leaf, self.index, head.size, self.proof, head.root):
            raise CheckpointFault(
                "inclusion",
                f"the header is not event {self.index} of checkpoint {head.size} of `{head.origin}`",
            )
        return signed


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def split(text: str) -> list[str]:
    """The parts of a file: one checkpoint or proof, a JSON list of proofs, or one a line."""
    text = text.lstrip()
    try:
        if text.startswith("["):
            return [json.dumps(one) for one in json.loads(text)]
        if text.startswith("{") and len(lines := text.splitlines()) > 1 and lines[0].endswith("}"):
            return [line for line in lines if line.strip()]
    except ValueError as error:
        raise CheckpointFault(
            "malformed", "it is no list of proofs, make one with `sluicegate prove`"
        ) from error
    return [text]


def parse(text: str) -> Inclusion:
    """A proof in either form. Raises `CheckpointFault`."""
    try:
        return _from_json(text) if text.lstrip().startswith("{") else _from_text(text)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise CheckpointFault(
            "malformed", "it is no proof of inclusion, make one with `sluicegate prove`"
        ) from error


def _from_json(text: str) -> Inclusion:
    found = json.loads(text)
    if found["format"] != FORMAT:
        raise ValueError(found["format"])
    _, note = checkpoints.read(str(found["checkpoint"]))
    proof = tuple(base64.b64decode(str(h), validate=True) for h in found["proof"])
    return Inclusion(base64.b64decode(str(found["header"]), validate=True), int(found["index"]), proof, note)


def _from_text(text: str) -> Inclusion:
    before, _, checkpoint = text.partition("\n\n")
    first, extra, index, *hashes = before.split("\n")
    if first != TLOG_PROOF or not extra.startswith("extra ") or not index.startswith("index "):
        raise ValueError(first)
    _, note = checkpoints.read(checkpoint)
    proof = tuple(base64.b64decode(h, validate=True) for h in hashes)
    header = base64.b64decode(extra.removeprefix("extra "), validate=True)
    return Inclusion(header, int(index.removeprefix("index ")), proof, note)
