"""The kinds of tampering: what is done, whether the forger makes the chain fit, who finds it, under which name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.mutations import scenes
from tests.mutations.scenes import Name, Place, Scene

VERIFY = "ledger verify"
CONTENTS = "ledger verify --contents"
SINCE = "ledger verify --since KEPT"
REPLAY = "replay --mode check"

Tamper = Callable[[Scene], int]
"""Changes a copy of a scene; the seq at which it has to be found (of the first record that tells), -1: anywhere."""


@dataclass(frozen=True)
class Kind:
    """One kind of tampering.

    Attributes:
        what: in words.
        scene: the sound ledger.
        name: the invariant that has to be named.
        also: others that may be named beside it, because the damage has several sides.
        rechained: ids, hashes and chain were made to fit.
        by: the command that finds it.
        control: it is found on the control ledger.
    """

    what: str
    scene: Callable[[], Scene]
    name: Name
    tamper: Tamper
    also: frozenset[Name] = frozenset()
    rechained: bool = True
    by: str = VERIFY
    control: bool = False


@dataclass(frozen=True)
class Result:
    """What was found of a kind."""

    kind: Kind
    place: Place | None
    names: tuple[Name, ...]
    wanted: int

    @property
    def ok(self) -> bool:
        """Found, named rightly and nothing else named, at its position."""
        if self.place is None or not {*self.names} <= {self.kind.name, *self.kind.also}:
            return False
        return self.wanted < 0 or self.place[1] == self.wanted


KINDS: list[Kind] = []


def kind(
    what: str, name: Name, *, scene: Callable[[], Scene] = scenes.everyday, also: tuple[Name, ...] = (),
    rechained: bool = True, by: str = VERIFY, control: bool = False,
) -> Callable[[Tamper], Tamper]:  # fmt: skip
    """Register what the decorated function does."""

    def register(tamper: Tamper) -> Tamper:
        KINDS.append(Kind(what, scene, name, tamper, frozenset(also), rechained, by, control))
        return tamper

    return register


def run(one: Kind) -> Result:
    """Do it to a copy, and look."""
    scene = scenes.copy(one.scene())
    wanted = one.tamper(scene)
    names = scenes.differs(scene) if one.by == REPLAY else scenes.found(scene, one.by == CONTENTS)
    return Result(one, names.get(one.name), tuple(sorted(names)), wanted)
