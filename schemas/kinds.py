"""Words that several layers must say alike: the kinds of a call, and which classes of tools may repeat. Next: `avro/intent.avsc`."""

TOOL_CALL, MODEL_CALL = "tool_call", "model_call"
CALL_KINDS = (TOOL_CALL, MODEL_CALL)
"""Kinds of an intent that names a contract and goes through every stage."""
MODEL = "model"
"""The executor kind that only a `model_call` reaches."""

REPEATABLE = ("read_only", "idempotent")
"""Classes whose call may be made again after a claim without a receipt."""


def call_kind(executor_kind: str) -> str:
    """The kind of intent that a contract's executor kind asks for."""
    return MODEL_CALL if executor_kind == MODEL else TOOL_CALL
