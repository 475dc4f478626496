"""Labels: how far a value may be trusted, and how widely it may be shown.

    integrity          user < internal < third_party < web < unknown     (who could have written it)
    confidentiality    public < internal < secret                        (who may read it)

Labels are computed, never declared by an agent: a contract says which part of a result carries which label, by JSON
path, and the deepest path that fits wins. A session's labels join all that was released into it. A set of integrity
labels is an int of bits, so that the fold joins with `|`. Never reads content by itself.
Next: `grounding.py` (which label an argument's value has), `state.py` (who folds labels).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sluicegate.schemas.errors import Terminal

Json = object

INTEGRITY = ("user", "internal", "third_party", "web", "unknown")
"""Best to worst."""
CONFIDENTIALITY = ("public", "internal", "secret")
"""Widest to narrowest."""
RANK = {name: rank for rank, name in enumerate(INTEGRITY)}
CONFIDENTIALITY_RANK = {name: rank for rank, name in enumerate(CONFIDENTIALITY)}
USER, INTERNAL, UNKNOWN = 0, 1, len(INTEGRITY) - 1
"""Ranks."""
CONFIDENTIAL_MARK = "c:"
"""Prefix of a confidentiality in an outcome's labels, since both orders have an `internal`."""

MAX_LEAVES = 5_000
"""Leaves of one result that are looked at; a result has at most 64 kB. What lies beyond counts as `unknown`."""
MAX_PATH_DEPTH = 32
"""Levels of a result that are told apart; what lies deeper shares the label of its parent."""

_STEP = re.compile(r"\.([A-Za-z0-9_\-]+|\?)|(\[\*\])")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_\-]+")
_ODD_NAME = "?"
"""Stands for a name with other characters: a result must not be able to spell a path with one name."""
_BEYOND = "?"
"""The path of all that was not looked at."""


def worst(bits: int) -> int:
    """The worst rank in a set of integrity labels; `user` for the empty set."""
    return max(bits.bit_length() - 1, 0)


def names_of(bits: int) -> list[str]:
    """The integrity labels in a set, best first."""
    return [name for rank, name in enumerate(INTEGRITY) if bits >> rank & 1]


def header_labels(bits: int, confidentiality: int) -> list[str]:
    """Labels as they stand in an outcome's header."""
    return [*names_of(bits), CONFIDENTIAL_MARK + CONFIDENTIALITY[confidentiality]]


def read_header(labels: list[str]) -> tuple[int, int]:
    """(integrity bits, confidentiality rank) of a header's labels; words nobody knows count as the worst."""
    bits = confidentiality = 0
    for label in labels:
        if label.startswith(CONFIDENTIAL_MARK):
            word = label.removeprefix(CONFIDENTIAL_MARK)
            confidentiality = max(confidentiality, CONFIDENTIALITY_RANK.get(word, len(CONFIDENTIALITY) - 1))
        else:
            bits |= 1 << RANK.get(label, UNKNOWN)
    return bits, confidentiality


@dataclass(slots=True)
class _Node:
    rank: int | None = None
    names: dict[str, _Node] = field(default_factory=dict)
    items: _Node | None = None


@dataclass(frozen=True, slots=True)
class PathLabels:
    """A contract's labels by JSON path, ready to be asked. `default` is the rank where no path fits."""

    root: _Node
    default: int
    known: dict[str, int] = field(default_factory=dict)

    def at(self, path: str) -> int:
        """The rank at a path as `leaves` writes it."""
        found = self.known.get(path)
        if found is None:
            found = self._walk(path)
            if len(self.known) < MAX_LEAVES:
                self.known[path] = found
        return found

    def _walk(self, path: str) -> int:
        if path == _BEYOND:
            return UNKNOWN
        node: _Node | None = self.root
        rank = self.default if self.root.rank is None else self.root.rank
        for step in parse_path(path):
            assert node is not None
            node = node.items if step == "[*]" else node.names.get(step)
            if node is None:
                break
            if node.rank is not None:
                rank = node.rank
        return rank


def parse_path(path: str) -> list[str]:
    """`$.a[*].b` -> ["a", "[*]", "b"]. Raises `Terminal` for anything else: filters and slices are not needed here."""
    steps = [m[1] or "[*]" for m in _STEP.finditer(path, 1)]
    if not path.startswith("$") or "".join(s if s == "[*]" else f".{s}" for s in steps) != path[1:]:
        raise Terminal(f"json path `{path}` is not of the form `$.name[*].name`")
    return steps


def compile_labels(rules: dict[str, str], words: dict[str, int], default: int) -> PathLabels:
    """Rules {json path: word} as a tree. Raises `Terminal` for a path or word that does not exist."""
    root = _Node()
    for path in sorted(rules):
        node = root
        for step in parse_path(path):
            if step == "[*]":
                node.items = node.items or _Node()
                node = node.items
            else:
                node = node.names.setdefault(step, _Node())
        if rules[path] not in words:
            raise Terminal(f"label `{rules[path]}` at `{path}` is not one of {', '.join(words)}")
        node.rank = words[rules[path]]
    return PathLabels(root, default)


def leaves(value: Json) -> Iterator[tuple[str, Json]]:
    """(path, leaf) of a JSON value in its own order, at most `MAX_LEAVES`; array positions are written `[*]`."""
    stack: list[tuple[str, Json, int]] = [("$", value, 0)]
    count = 0
    while stack and count < MAX_LEAVES:
        path, node, depth = stack.pop()
        if isinstance(node, dict):
            step = depth < MAX_PATH_DEPTH
            for name, item in reversed(list(node.items())):
                plain = name if _PLAIN_NAME.fullmatch(name) else _ODD_NAME
                stack.append((f"{path}.{plain}" if step else path, item, depth + 1))
        elif isinstance(node, list):
            step = depth < MAX_PATH_DEPTH
            stack.extend((f"{path}[*]" if step else path, v, depth + 1) for v in reversed(node))
        else:
            count += 1
            yield path, node
    if stack:
        yield _BEYOND, None


def everything(labels: PathLabels) -> list[int]:
    """The ranks that any part of a result may have."""
    found, nodes = ([] if labels.root.rank is not None else [labels.default]), [labels.root]
    while nodes:
        node = nodes.pop()
        found += [] if node.rank is None else [node.rank]
        nodes += [*node.names.values(), *([node.items] if node.items is not None else [])]
    return found


def join_all(integrity: PathLabels, confidentiality: PathLabels) -> tuple[int, int]:
    """As `join`, of a result that nobody looks at: all that a contract says of any part of it."""
    bits = 0
    for rank in everything(integrity):
        bits |= 1 << rank
    return bits, max(everything(confidentiality))


def join(value: Json, integrity: PathLabels, confidentiality: PathLabels) -> tuple[int, int]:
    """(integrity bits, worst confidentiality) of everything in a result."""
    bits = secret = 0
    for path, _ in leaves(value):
        bits |= 1 << integrity.at(path)
        secret = max(secret, confidentiality.at(path))
    if not bits:  # an empty result still says something: that there is nothing
        bits, secret = 1 << integrity.at("$"), confidentiality.at("$")
    return bits, secret
