"""What an evidence bundle is made of, read with the standard library and `cryptography` alone: Avro, Merkle trees, signed notes.

The first part of a bundle's `verify.py`, as `evidence/file.py` puts it together. It shares no code with the rest of Sluicegate, so that
a mistake there does not verify itself; tests hold it to the same vectors. Never trusts a length or a claim.
Next: `evidence/ledger.py`.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Record = dict[str, Any]

# Avro records by their CRC-64 fingerprint. l long, s string, b bytes, ? boolean, i 16 bytes, h 32 bytes; [x array, capital: optional.
SCHEMAS = {
    "577bd727711fd455": "header v:l log_id:i partition:l seq:l event_id:i stage:s status:s reason:s policies:[s caused_by:[i labels:[s facts_hash:h content_commitment:H prev_hash:h intent_id:s tenant:s agent_id:s session_id:s subject:s decided_at:l input_topic:s input_partition:l input_offset:l control_head:l release:s engine:s",
    "c6f91384bd13d01b": "control_facts kind:s who:s why:s body:b",
    "7dc53566b578effa": "control_facts kind:s who:s why:s body:b kid:s signature:b",
    "8e4a66093d2e38db": "genesis_facts log_id:b partitions:l env:s signing:s",
    "4bc5b2049c41dc60": "intent_facts digest:b kind:s tool:s version:s executor:s issued_at:l deadline_at:l authenticated:? control_stale:? remembered:?",
    "058d1496013582ce": "intent_facts digest:b kind:s tool:s version:s executor:s issued_at:l deadline_at:l authenticated:? control_stale:? remembered:? call_digest:b",
    "50007c769e65335f": "hold_facts action_digest:b tool_class:s executor:s expires_at:l timeout_ms:l quorum:l reviewers:[s release:s grounded_arguments:[s grounded_from:[s grounded_labels:[s grounded_events:[b grounded_paths:[s observed:[s redacted:[s",
    "03aa76bc9eaa158e": "hold_facts action_digest:b tool_class:s executor:s expires_at:l timeout_ms:l quorum:l reviewers:[s release:s grounded_arguments:[s grounded_from:[s grounded_labels:[s grounded_events:[b grounded_paths:[s observed:[s redacted:[s tool:s",
    "07ddf75b16099e00": "review_facts verdict:s reviewer:s action_digest:b approvals:[s quorum:l reviewers:[s edited:? authenticated:?",
    "9abc07b594e66aef": "seal_facts generation:l next_log_id:b size:l root:b",
    "8e6be48507504701": "import_facts generation:l log_id:b partition:l seq:l root:b piece:l pieces:l digest:b rows:[b",
    "2e90ab417cb02f86": "envelope kid:s alg:s audience:s signed_at:l expires_at:l payload:b signature:b",
}  # fmt: skip

# -- bytes --------------------------------------------------------------------------------------------------------


def long(b: bytes, p: int) -> tuple[int, int]:
    """Avro's int and long."""
    if b[p] < 0x80:
        return (b[p] >> 1) ^ -(b[p] & 1), p + 1
    value = shift = 0
    while True:
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), p
        shift += 7


def take(b: bytes, p: int, kind: str) -> tuple[Any, int]:
    """A value of a kind of `SCHEMAS`."""
    if kind == "l":
        return long(b, p)
    if kind == "?":
        return b[p] == 1, p + 1
    if kind in "ih":
        n = 16 if kind == "i" else 32
        return b[p : p + n], p + n
    if kind in "sb":
        n, p = long(b, p)
        if n < 0 or p + n > len(b):
            raise ValueError("a length that is not there")
        return (b[p : p + n].decode() if kind == "s" else b[p : p + n]), p + n
    if kind[0] == "[":
        items: list[Any] = []
        count, p = long(b, p)
        while count:
            for _ in range(count):
                item, p = take(b, p, kind[1])
                items.append(item)
            count, p = long(b, p)
        return items, p
    return (None, p + 1) if b[p] == 0 else take(b, p + 1, kind.lower())


FIELDS = {bytes.fromhex("c301" + k): [f.split(":") for f in v.split()[1:]] for k, v in SCHEMAS.items()}
NAMES = {bytes.fromhex("c301" + k): v.split()[0] for k, v in SCHEMAS.items()}


def decode(data: bytes, name: str = "") -> Record:
    """A record, by its fingerprint. `{}` for one that this check does not look into."""
    prefix = data[:10]
    if prefix not in FIELDS or name not in ("", NAMES[prefix]):
        if name:
            raise ValueError(f"it is no {name}")
        return {}
    found: Record = {"": NAMES[prefix]}
    p = 10
    for field, kind in FIELDS[prefix]:
        found[field], p = take(data, p, kind)
    if p != len(data):
        raise ValueError("it has another length than it says")
    return found


def sha(*parts: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(b"".join(parts)).digest()


def b64(text: str) -> bytes:
    """Strict base64: one text for one value."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 that nobody writes so")
    return data


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Ed25519."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def field(data: bytes) -> bytes:
    """Bytes as Avro writes them: their length, then they."""
    return number(len(data)) + data


def number(value: int) -> bytes:
    """A long as Avro writes it."""
    z, out = (value << 1) ^ (value >> 63), bytearray()
    while z > 0x7F:
        out.append(z & 0x7F | 0x80)
        z >>= 7
    return bytes([*out, z])


def partition_of(agent: str, partitions: int) -> int:
    """The partition where all of an agent's records stand: Kafka's murmur2 of its id."""
    data, mask = agent.encode(), 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for i in range(0, len(data) & ~3, 4):
        k = int.from_bytes(data[i : i + 4], "little") * 0x5BD1E995 & mask
        h = (h * 0x5BD1E995 & mask) ^ ((k ^ k >> 24) * 0x5BD1E995 & mask)
    if tail := data[len(data) & ~3 :]:
        h = (h ^ int.from_bytes(tail, "little")) * 0x5BD1E995 & mask
    h = (h ^ h >> 13) * 0x5BD1E995 & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


# -- tree heads (RFC 6962, C2SP tlog-checkpoint, tlog-cosignature and tlog-policy) ---------------------------------


class Tree:
    """A Merkle tree that grows from the hashes left of its first leaf. Keeps the roots at the sizes it was asked for."""

    def __init__(self, start: int, left: list[bytes], wanted: set[int]) -> None:
        levels = [i for i in reversed(range(64)) if start >> i & 1]
        if len(levels) != len(left) or any(len(h) != 32 for h in left):
            raise ValueError(f"{len(left)} hashes cannot stand for {start} leaves")
        self.size, self.nodes, self.wanted = start, list(zip(levels, left, strict=True)), wanted
        self.roots: dict[int, bytes] = {}
        self.keep()

    def add(self, node: bytes, level: int = 0) -> None:
        """The hash of the next 2^level leaves."""
        if self.size % (1 << level):
            raise ValueError("a subtree that cannot begin here")
        self.size += 1 << level
        while self.nodes and self.nodes[-1][0] == level:
            node, level = sha(b"\x01", self.nodes.pop()[1], node), level + 1
        self.nodes.append((level, node))
        if self.size in self.wanted:
            self.keep()

    def keep(self) -> None:
        """Remember the root at this size."""
        root = self.nodes[-1][1] if self.nodes else sha()
        for _, node in reversed(self.nodes[:-1]):
            root = sha(b"\x01", node, root)
        self.roots[self.size] = root

    def extend(self, right: list[bytes], size: int) -> None:
        """The hashes right of the last leaf, up to a tree of `size`."""
        for node in right:
            level = 0
            while self.size % (2 << level) == 0 and self.size + (2 << level) <= size:
                level += 1
            self.add(node, level)
        if self.size != size:
            raise ValueError(f"its hashes lead to {self.size} leaves, not {size}")


def continues(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> bool:
    """RFC 9162 §2.1.4.2: the tree of `new` leaves continues the one of `old`."""
    if old == new or old == 0:
        return not proof and (old == 0 or old_root == new_root)
    if not 0 < old < new or not proof:
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else proof
    fn, sn, a, b = old - 1, new - 1, path[0], path[0]
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    for part in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            a, b = sha(b"\x01", part, a), sha(b"\x01", part, b)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            b = sha(b"\x01", b, part)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and a == old_root and b == new_root


# -- signed notes (C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-policy) ---------------------------------

NOTE, TIMED = 1, 4
"""Kinds of signatures: a plain one, and one that has its time in it."""


class Note:
    """A signed text; `signatures` are (name, key id, bytes)."""

    def __init__(self, text: str) -> None:
        body, between, lines = text.rpartition("\n\n")
        if not between or not lines.endswith("\n"):
            raise ValueError("it is no signed note")
        self.text, self.signatures = body + "\n", list[tuple[str, bytes, bytes]]()
        for line in lines.splitlines():
            dash, name, value = line.split(" ")
            data = b64(value)
            if dash != "\N{EM DASH}" or len(data) < 5 or base64.b64encode(data).decode() != value:
                raise ValueError("it has a line that is no signature")
            self.signatures.append((name, data[:4], data[4:]))
        origin, size, root = self.text.removesuffix("\n").split("\n")
        self.origin, self.size, self.root = origin, int(size), b64(root)
        if (
            f"{origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n" != self.text
            or len(self.root) != 32
        ):
            raise ValueError("it is no checkpoint: origin, size and root, a line each")

    def second(self, name: str, kind: int, public: bytes) -> int | None:
        """When this key signed it (0 for a plain signature), None where it did not. Raises for a signature that is wrong."""
        key_id = sha(name.encode(), b"\n", bytes([kind]), public)[:4]
        for who, which, value in self.signatures:
            if (who, which) != (name, key_id):
                continue
            time = int.from_bytes(value[:8], "big") if kind == TIMED else 0
            message = f"cosignature/v1\ntime {time}\n{self.text}" if kind == TIMED else self.text
            if not signed_by(public, value[8:] if kind == TIMED else value, message.encode()):
                raise ValueError(f"the signature of `{name}` does not verify")
            return time
        return None


class Policy:
    """Which witnesses there are, and who must have signed."""

    def __init__(self, text: str = "quorum none") -> None:
        self.witnesses: dict[str, tuple[str, bytes]] = {}
        self.logs: list[bytes] = []
        self.groups: dict[str, tuple[int, list[str]]] = {}
        self.quorum = ""
        for words in (line.split() for line in text.splitlines()):
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "log":
                self.logs.append(self.key(words[1], NOTE)[1])
            elif words[0] == "witness":
                self.witnesses[words[1]] = self.key(words[2], TIMED)
            elif words[0] == "group":
                members = words[3:]
                need = {"any": 1, "all": len(members)}.get(words[2]) or int(words[2])
                if not 1 <= need <= len(members) or not all(self.known(m) for m in members):
                    raise ValueError(f"group `{words[1]}` of the witness policy")
                self.groups[words[1]] = (need, members)
            elif words[0] == "quorum" and not self.quorum and self.known(words[1]):
                self.quorum = words[1]
            else:
                raise ValueError(f"line `{' '.join(words)[:80]}` of the witness policy")
        if not self.quorum:
            raise ValueError("the witness policy has no quorum")

    def known(self, name: str) -> bool:
        """Whether a name may stand in a group or as the quorum."""
        return name == "none" or name in self.witnesses or name in self.groups

    @staticmethod
    def key(vkey: str, kind: int) -> tuple[str, bytes]:
        """Name and public key of `<name>+<id>+<kind and key>`."""
        name, key_id, data = vkey.split("+", 2)
        material = b64(data)
        if (
            len(material) != 33
            or material[0] != kind
            or sha(name.encode(), b"\n", material)[:4].hex() != key_id
        ):
            raise ValueError(f"`{vkey[:80]}` is no key of kind {kind}")
        return name, material[1:]

    def holds(self, signed: set[str], name: str = "") -> bool:
        """Whether those who signed are enough."""
        name = name or self.quorum
        if name in self.groups:
            need, members = self.groups[name]
            return sum(self.holds(signed, m) for m in members) >= need
        return name == "none" or name in signed
