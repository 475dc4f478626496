"""Mentions: which parts of a request a set of policies speaks about.

Cedar reads the whole context of every request, so a context holds only what its policies can look at; nothing else
could change their answer. Nor could the principal, beyond their scopes, where no condition looks at it. Found once a slice, by walking the policies' EST. Never evaluates anything.
Next: `policy/cedar.py` (slices), `sessions/history.py` and `authorize.py` (who build contexts).
"""

from __future__ import annotations

from dataclasses import dataclass, field

Json = object

SESSION_FIELDS = ("calls", "user_messages", "origin", "integrity", "confidentiality", "labels", "tools", "last",
                  "counts", "since", "sums")  # fmt: skip
"""All of `context.session`."""

MEMORY_FIELDS = ("key", "scope")
"""All of `context.memory`."""

_CONTEXT: Json = {"Var": "context"}
_PRINCIPAL: Json = {"Var": "principal"}


@dataclass(frozen=True, slots=True)
class Mentions:
    """What policies speak about. `args`: None when they may look at all arguments."""

    args: tuple[str, ...] | None = ()
    session: tuple[str, ...] = ()
    grounding: bool = False
    environment: bool = False
    on_behalf_of: bool = False
    delegation: bool = False
    counts: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    prompt: bool = False
    stream: bool = False
    memory: tuple[str, ...] = ()
    """Of a memory operation: `scope`, `key`, both or none."""
    principal: bool = True
    """Whether a condition looks at the principal; its scope does not count."""
    task: bool = False
    """Whether a condition looks at `task` or `own_task`."""


@dataclass(slots=True)
class _Found:
    """Paths below `context`, as far as they are written out; a path that ends early stands for all below it."""

    paths: set[tuple[str, ...]] = field(default_factory=set)
    principal: bool = False

    def below(self, *prefix: str) -> set[str]:
        """The next names after a prefix."""
        size = len(prefix)
        return {path[size] for path in self.paths if len(path) > size and path[:size] == prefix}

    def speaks_of(self, name: str) -> bool:
        """Whether anything looks at a part of the context, or below it."""
        return self.whole(name) or bool(self.below(name))

    def whole(self, *prefix: str) -> bool:
        """Whether something looks at the prefix as a value, or at what stands above it."""
        return any(prefix[: len(path)] == path for path in self.paths)


def mentions_of(ests: list[dict[str, Json]]) -> Mentions:
    """What these policies mention."""
    found = _Found()
    for est in ests:
        _walk(est, found)
    # INVARIANT: what is left out cannot change an answer (tests/properties/test_policies.py).
    session = set(SESSION_FIELDS) if found.whole("session") else found.below("session")
    names = {name: tuple(sorted(found.below("session", name))) for name in ("counts", "sums", "since")}
    return Mentions(
        None if found.whole("args") else tuple(sorted(found.below("args"))),
        tuple(name for name in SESSION_FIELDS if name in session),
        found.speaks_of("grounding"),
        found.speaks_of("environment"),
        found.speaks_of("on_behalf_of"),
        found.speaks_of("delegation"),
        names["counts"],
        names["sums"],
        names["since"],
        found.speaks_of("prompt"),
        found.speaks_of("stream"),
        MEMORY_FIELDS if found.whole("memory") else tuple(sorted(found.below("memory"))),
        found.principal,
        found.speaks_of("task") or found.speaks_of("own_task"),
    )


def _walk(node: Json, found: _Found) -> None:
    if isinstance(node, list):
        for item in node:
            _walk(item, found)
    elif isinstance(node, dict):
        found.principal = found.principal or node == _PRINCIPAL
        path = _path(node)
        if path is not None:
            found.paths.add(path)
            return
        for child in node.values():
            _walk(child, found)


def _path(node: Json) -> tuple[str, ...] | None:
    """The names below `context` that an access writes out; None for anything else."""
    if node == _CONTEXT:
        return ()
    if not isinstance(node, dict) or len(node) != 1:
        return None
    ((op, body),) = node.items()
    if op not in (".", "has") or not isinstance(body, dict):
        return None
    left = _path(body.get("left"))
    return None if left is None else (*left, str(body.get("attr")))
