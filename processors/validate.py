"""Validate: what must hold of a permitted call, and of its result, beyond permission.

The call: guardrails, then bound to its digest, so that what is approved, claimed and executed is the same bytes. The
result: JSON that fits the contract's `outputSchema`, then guardrails, before the agent sees it. Pure.
Next: `guardrails/guardrails.py`, `plan.py`.
"""

from __future__ import annotations

import hashlib

import jsonschema_rs
import orjson
from sluicegate.processors.guardrails.guardrails import guard_call
from sluicegate.processors.work import Refusal, Work
from sluicegate.schemas.topics import MAX_RESULT_BYTES


def action_digest(tool: str, version: str, canonical: bytes) -> bytes:
    """sha256 over tool, contract version and canonical arguments: what an approval and a claim are bound to."""
    return hashlib.sha256(b"%b\0%b\0%b" % (tool.encode(), version.encode(), canonical)).digest()


def validate(work: Work) -> Refusal | None:
    """Ask the guardrails, which may change the call or ask for people (`work.hold`), and bind it to its digest."""
    refusal = guard_call(work)
    bind(work)
    return refusal


def bind(work: Work) -> None:
    """Bind the call to its digest."""
    assert work.tool is not None and work.conformed is not None
    work.action_digest = action_digest(work.tool.name, work.tool.version, work.conformed.canonical)


def check_result(result: bytes | None, validator: jsonschema_rs.Validator | None) -> str:
    """A reason to withhold the result, or an empty string."""
    if result is None:
        return "malformed_result"
    if len(result) > MAX_RESULT_BYTES:
        return "result_too_large"
    try:
        value = orjson.loads(result)
    except orjson.JSONDecodeError:
        return "malformed_result"
    if validator is not None and not validator.is_valid(value):
        return "malformed_result"
    return ""
