"""The terms of a hand-off, as a contract that every release has: what an agent may write, and what policies may read.

Never decides anything. Next: `handoff/handoff.py`.
"""

from __future__ import annotations

import jsonschema_rs
from sluicegate.processors.conform import compile_typer
from sluicegate.processors.handoff.delegation import MAX_CALLS
from sluicegate.processors.policy.cedar_schema import HANDOFF, ToolTypes
from sluicegate.processors.releases.shapes import shape_of

MAX_ROLES = 50

_TEXT = {"type": "string", "minLength": 1, "maxLength": 256}
PROPERTIES: dict[str, object] = {
    "agent": _TEXT,
    "session": _TEXT,
    "roles": {"type": "array", "items": _TEXT, "maxItems": MAX_ROLES},
    "max_calls": {"type": "integer", "minimum": 1, "maximum": MAX_CALLS},
}
SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["agent", "session"],
    "properties": PROPERTIES,
}
RULED: dict[str, object] = {**SCHEMA, "properties": {**PROPERTIES, "goal": {"type": "string"}}}
"""What guardrails may look at: the terms and the goal."""

_SHAPE = shape_of({**SCHEMA, "required": ["agent", "session", "roles", "max_calls"]})

VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
TYPER = compile_typer(_SHAPE)
TYPES = ToolTypes(HANDOFF, HANDOFF, _SHAPE)
"""What policies may say about a hand-off: all four arguments, as they will be."""
