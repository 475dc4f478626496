"""C2SP tlog-policy: a file that says which logs are known, which witnesses there are, and how many must have signed.

    witness ops  <vkey> https://witness.example/
    witness audit <vkey>
    group both all ops audit
    quorum both

Format: https://c2sp.org/tlog-policy. Never opens the file. Next: `transparency/checkpoints.py`, `transparency/witness.py` (who signs so).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluicegate.processors.transparency.checkpoints import CheckpointFault, LogKey
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.notes import COSIGNATURE, ED25519, BadNote, Note, VKey, parse_vkey

MAX_LINES = 1_000
"""32 logs, witnesses and groups are what every reader must take; nobody has a thousand."""
NONE = "none"


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness: its name in the file, its key, and where it listens (may be empty)."""

    name: str
    vkey: VKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Holds when `threshold` of its members do."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. `quorum` is the name that has to hold, `none` for no witness at all."""

    logs: tuple[VKey, ...] = ()
    witnesses: Mapping[str, WitnessKey] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = NONE

    def times(self, note: Note) -> dict[str, int]:
        """Witness -> second it signed at, of those that signed. Raises `CheckpointFault` for a wrong signature."""
        found = {}
        for name, witness in self.witnesses.items():
            try:
                signature = witness.vkey.find(note)
            except BadNote as error:
                raise CheckpointFault("signature", f"witness `{name}`: {error}") from error
            if signature is not None:
                found[name] = signature.timestamp
        return found

    def _holds(self, name: str, signed: Mapping[str, int]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name == NONE or name in signed
        return sum(self._holds(member, signed) for member in group.members) >= group.threshold

    def check(self, note: Note, key: LogKey | None = None) -> dict[str, int]:
        """Who witnessed the note and when. Raises `CheckpointFault` where it does not meet the quorum.

        `key`: the log's; a witness that signed when that key was no longer valid does not count.
        """
        signed = self.times(note)
        if key is not None:
            signed = {name: second for name, second in signed.items() if key.valid_at(second)}
        # INVARIANT: no checkpoint passes without its quorum (tests/unit/test_checkpoints.py).
        if not self._holds(self.quorum, signed):
            missing = sorted(set(self.witnesses) - set(signed))
            raise CheckpointFault(
                "witnesses",
                f"quorum `{self.quorum}` is not met: signed by {', '.join(sorted(signed)) or 'no witness'}, "
                f"not by {', '.join(missing)}; take a checkpoint that they signed",
            )
        return signed


class _Reader:
    def __init__(self) -> None:
        self.logs: list[VKey] = []
        self.witnesses: dict[str, WitnessKey] = {}
        self.groups: dict[str, Group] = {}
        self.used: set[str] = set()
        self.quorum = ""

    def line(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self.logs.append(_key(vkey, ED25519))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._name(name)
                key = _key(vkey, COSIGNATURE)
                if any(w.vkey.public == key.public for w in self.witnesses.values()):
                    raise ValueError(f"witness `{name}` has another witness's key")
                self.witnesses[name] = WitnessKey(name, key, url[0] if url else "")
            case ["group", name, count, *members] if members:
                self._name(name)
                self.groups[name] = Group(self._threshold(count, members), tuple(members))
            case ["quorum", name]:
                if self.quorum:
                    raise ValueError("there is a second quorum line")
                if name != NONE and name not in self.witnesses and name not in self.groups:
                    raise ValueError(f"`{name}` is not named before it")
                self.quorum = name
            case _:
                raise ValueError("it is no line of log, witness, group or quorum")

    def _name(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise ValueError(f"the name `{name}` is taken")

    def _threshold(self, count: str, members: list[str]) -> int:
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise ValueError(f"`{member}` is not named before it")
            if member in self.used:
                raise ValueError(f"`{member}` is a member twice")
            self.used.add(member)
        words = {"any": 1, "all": len(members)}
        found = words.get(count) or (int(count) if count.isascii() and count.isdigit() else 0)
        if not 1 <= found <= len(members):
            raise ValueError(f"`{count}` is not between 1 and {len(members)}")
        return found


def _key(text: str, kind: int) -> VKey:
    key = parse_vkey(text)
    if key.kind != kind:
        raise BadNote(f"key `{key.name}` is of type {key.kind}, {kind} is needed here")
    return key


def parse_policy(text: str) -> Policy:
    """The policy in a file's text. Raises `Terminal` with the line."""
    reader, lines = _Reader(), text.split("\n")
    if len(lines) > MAX_LINES:
        raise Terminal(f"the witness policy has {len(lines)} lines, more than {MAX_LINES}")
    for at, line in enumerate(lines, 1):
        words = line.replace("\t", " ").split(" ")
        words = [w for w in words if w]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.line(words)
        except ValueError as error:
            raise Terminal(f"line {at} of the witness policy: {error}, correct it") from error
    if not reader.quorum:
        raise Terminal("the witness policy has no quorum line, add one: `quorum none` asks for no witness")
    return Policy(tuple(reader.logs), reader.witnesses, reader.groups, reader.quorum)
