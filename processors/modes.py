"""Observe or enforce: whether what policies and guardrails say is applied, or only recorded.

`mode.set` events of control name a scope and a value; what no event names is enforced. The careful word wins: an
explicit `enforce` for the agent or the tool beats any `observe`. What observe may never skip is in
docs/decisions/0006-what-observe-never-skips.md. Pure. Next: `authorize.py` (who asks), `control/control.py` (who folds).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

OBSERVE, ENFORCE, DEFAULT = "observe", "enforce", "default"
"""`default` takes a setting back."""

MODES = (OBSERVE, ENFORCE, DEFAULT)
SCOPES = ("agent", "tool", "environment", "policy")

MAX_MODES = 10_000
"""Settings in one control ledger, about 200 bytes each: 2 MB. More are not folded."""

Modes = Mapping[tuple[str, str], str]
"""(scope, id) -> observe | enforce."""


def mode_for(control: Control, agent_id: str, tool: str) -> str:
    """The mode of one call."""
    modes = control.modes
    if not modes:
        return ENFORCE
    own = (modes.get(("agent", agent_id)), modes.get(("tool", tool)))
    # INVARIANT: an explicit enforce is never undone by a wider observe (tests/unit/test_modes.py).
    if ENFORCE in own:
        return ENFORCE
    observed = OBSERVE in own or modes.get(("environment", control.env)) == OBSERVE
    return OBSERVE if observed else ENFORCE


def with_mode(modes: Modes, scope: str, value: str, mode: str) -> dict[tuple[str, str], str]:
    """The settings after one `mode.set`. A setting of another form changes nothing."""
    new = dict(modes)
    if scope not in SCOPES or mode not in MODES or not value:
        return new
    new.pop((scope, value), None)
    if mode != DEFAULT and len(new) < MAX_MODES:
        new[scope, value] = mode
    return new
