"""What policies hear of a memory operation: `context.memory`, and that nothing is shared unless one speaks of the scope.

A permit that says nothing of scopes was written for an agent's own memory. So a call on `shared:<name>` needs a permit that
decides and looks at `context.memory.scope` or `context.args.scope`; it may compare it with anything. Pure.
Next: `authorize.py` (who asks), `memory/cells.py` (what a scope is).
"""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.processors.memory.cells import SESSION, SHARED
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.policy.mentions import Mentions, mentions_of

Json = object


def context_of(args: dict[str, Json]) -> dict[str, Json]:
    """`context.memory` of a call."""
    key = args.get("key", args.get("prefix", ""))
    return {"scope": str(args.get("scope", SESSION)), "key": str(key)}


def is_shared(args: dict[str, Json]) -> bool:
    """Whether the call is about what several agents share."""
    return str(args.get("scope", SESSION)).startswith(SHARED)


def said(policies: Iterable[Policy], determining: Iterable[str]) -> bool:
    """Whether a permit that decided speaks of the scope.

    INVARIANT: no shared scope is reached by a permit that does not say so (tests/unit/test_shared_memory.py).
    """
    names = set(determining)
    permits = [p.est for p in policies if p.policy_id in names and p.effect == "permit"]
    return any(_speaks(mentions_of([est])) for est in permits)


def _speaks(found: Mentions) -> bool:
    return "scope" in found.memory or found.args is None or "scope" in found.args
