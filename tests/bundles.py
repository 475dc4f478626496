"""Evidence bundles of a ledger in memory, signed by a log key and a witness; and bundles that were tampered with.

    made = Made(driver)              # control has a checkpointer's key from now on
    path = made.bundle(tmp_path)     # as `sluicegate evidence` makes it
    reseal(path, "events.jsonl", change)   # change a member, and make manifest and seal fit: what a forger would do

The heads are real notes over the ledger's leaves. Next: `tests/unit/test_evidence.py`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import CONTROL, Checkpoint, Signed
from sluicegate.processors.verify.reading import split
from sluicegate.schemas import notes
from sluicegate.schemas.notes import COSIGNATURE, VKey
from sluicegate.streams.evidence import formats as evidence_formats
from sluicegate.streams.evidence.build import WITHHELD, Ask, Nodes, Picker, control_line
from sluicegate.streams.evidence.bundle import Gathered, Part, assemble, touched
from sluicegate.streams.evidence.file import seal

from tests.driver import AGENT, LOG_ID, T0, Driver, Record, release_files

FOREVER = 2**53 - 1
LOG_SECRET, WITNESS_SECRET = b"L" * 32, b"W" * 32
WITNESS = VKey("witness.example/ops", COSIGNATURE, notes.public_of(WITNESS_SECRET))
POLICY = f"witness ops {WITNESS}\nquorum ops\n"
DAY_US = 86_400_000_000


def key_added(driver: Driver, kid: str = "log.1", secret: bytes = LOG_SECRET, until: int = FOREVER) -> None:
    """A checkpointer's key is registered."""
    driver.control_event(
        "key.added", kid=kid, principal="checkpointer", role="checkpointer", alg="Ed25519",
        public=notes.public_of(secret).hex(), not_before=0, not_after=until,
    )  # fmt: skip


def leaves(records: list[Record]) -> list[bytes]:
    """Of a ledger."""
    return [header_hash(split(x.value).header) for x in records]


def head(
    driver: Driver, partition: int, size: int, at: int, secret: bytes = LOG_SECRET, witnessed: bool = True
) -> Signed:
    """The signed head of the first `size` events."""
    records = driver.control_records if partition == CONTROL else driver.records
    nodes = Nodes()
    for leaf in leaves(records)[:size]:
        nodes.append(leaf)
    log = LOG_ID if partition == CONTROL else driver.log_id
    found = Checkpoint(checkpoints.origin_of("test", log, partition), size, merkle.root_at(size, nodes))
    note = checkpoints.sign_head(found, notes.public_of(secret), notes.ed25519_signer(secret), at)
    if witnessed:
        note = note.with_signatures(
            notes.cosign(note.text, WITNESS, notes.ed25519_signer(WITNESS_SECRET), at)
        )
    return Signed(found, note, "log.1", at)


class Made:
    """A ledger whose heads are signed when a bundle is made. `before`: the agent's partition in the generations before."""

    def __init__(
        self,
        driver: Driver,
        files: Mapping[str, Mapping[str, str]] | None = None,
        before: Sequence[Driver] = (),
    ) -> None:
        self.driver, self.drivers = driver, [*before, driver]
        self.files = {k: dict(v) for k, v in (files or _files(driver)).items()}
        if "log.1" not in driver.control.keys:
            key_added(driver)

    @property
    def span(self) -> tuple[int, int]:
        """A period that holds everything, and is over an hour before heads are signed."""
        return T0, self.driver.now + 1

    def bundle(
        self, folder: Path, *, agent: str = AGENT, span: tuple[int, int] | None = None, signed: bool = True,
        disclose: int = WITHHELD, others: bool = True, heads: Callable[[dict[str, Signed]], None] | None = None,
        earlier: tuple[int, ...] = (), name: str = "bundle.zip", without_effect: tuple[int, ...] = (),
    ) -> Path:  # fmt: skip
        """Make one, as `streams/evidence/bundle.py` does of what it read."""
        d = self.driver
        since, until = span or self.span
        destroyed = d.keys.destroyed

        def may(subject: str) -> bool:
            return subject not in destroyed

        ask = Ask(agent, since, until, disclose, others)
        parts = self._parts(ask, may)
        found = Gathered(d.control, touched(parts, ask), policy=POLICY, made_at=until + DAY_US)
        found.without_effect = list(without_effect)
        found.files = self.files
        for record in d.control_records:
            line, leaf = control_line(record.value, agent)
            found.control_lines.append(line)
            found.control_nodes.append(leaf)
        at = (d.now + DAY_US) // 10**6
        if signed:
            found.heads = {"control": head(d, CONTROL, len(d.control_records), at)}
            for part in found.parts:
                mine = self.drivers[part.generation.number]
                found.heads[part.name] = head(mine, mine.partition, len(mine.records), at)
            found.earlier = {str(d.partition): [head(d, d.partition, n, at - 60) for n in earlier]}
            if heads is not None:
                heads(found.heads)
        if disclose != WITHHELD:
            names = {e for one in self.drivers for x in one.records for e in [_subject(x)] if e and may(e)}
            found.keys = {n: (n.encode() or b"-").ljust(64, b"\0")[:64] for n in names}
        path = folder / name
        assemble(path, found)
        return path

    def _parts(self, ask: Ask, may: Callable[[str], bool]) -> list[Part]:
        parts: list[Part] = []
        for one, driver in zip(self.driver.control.generations, self.drivers, strict=True):
            lines: list[bytes] = []
            picker = Picker(ask, lines.append, may, parts[-1].picker if parts else None)
            part = Part(one, driver.partition, picker, lines)
            for record in driver.records:
                part.nodes.append(picker.add(record.value))
            picker.finish()
            parts.append(part)
        return parts


def _subject(record: Record) -> str:
    from tests.driver import read

    event = read(record)
    return event.header.subject if event.sealed is not None else ""


def _files(driver: Driver) -> dict[str, dict[str, str]]:
    from sluicegate.processors.releases.file import digest_of

    known = [release_files(edition=e) for e in ("1", "2")]
    return {digest_of(f): f for f in known}


def reseal(
    path: Path, change: Mapping[str, bytes | None], manifest: Callable[[dict[str, object]], None] = lambda _: None
) -> Path:  # fmt: skip
    """Another bundle with other members (None takes one out), digests and seal made to fit."""
    with zipfile.ZipFile(path) as old:
        members = {n: old.read(n) for n in old.namelist()}
    members.update({n: b for n, b in change.items() if b is not None})
    for name in [n for n, b in change.items() if b is None]:
        del members[name]
    said = json.loads(members.pop("manifest.json"))
    said["members"] = {n: hashlib.sha256(b).hexdigest() for n, b in members.items()}
    manifest(said)
    made = path.with_name(f"forged-{len(list(path.parent.iterdir()))}.zip")
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in [*members.items(), ("manifest.json", json.dumps(said).encode())]:
            new.writestr(name, data)
        new.comment = b"0" * 64
    seal(made)
    return made


def rows(path: Path, member: str = "events.jsonl") -> list[dict[str, object]]:
    """The lines of a member."""
    with zipfile.ZipFile(path) as archive:
        return [json.loads(line) for line in io.BytesIO(archive.read(member))]


def flip_a_bit(draw: Callable[[SearchStrategy[Any]], Any], row: dict[str, object]) -> None:
    """Another bit in one of a row's encoded parts."""
    part = draw(st.sampled_from(sorted(k for k in row if k != "seq")))
    raw = bytearray(evidence_formats.b64(str(row[part])))
    at, bit = draw(st.integers(0, len(raw) - 1)), draw(st.integers(0, 7))
    raw[at] ^= 1 << bit
    row[part] = base64.b64encode(bytes(raw)).decode()


def dumped(lines: list[dict[str, object]]) -> bytes:
    """And back."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
