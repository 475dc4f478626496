"""Words that several layers must say alike: the kinds of a call, and which classes of tools may repeat. Next: `avro/intent.avsc`."""

TOOL_CALL, MODEL_CALL, MODEL_STREAM = "tool_call", "model_call", "model_stream"
"""`model_stream`: a model call whose asker reads the answer as it comes, as far as the contract lets it."""
CALL_KINDS = (TOOL_CALL, MODEL_CALL, MODEL_STREAM)
"""Kinds of an intent that names a contract and goes through every stage."""
MODEL = "model"
"""The executor kind that only model calls reach."""
BUFFERED, GATED, OPEN = STREAM_MODES = ("buffered", "gated", "open")
"""How a streamed answer leaves the executor: whole and validated, sentence by sentence, as it comes (DESIGN §5.3)."""
MEMORY = "memory"
"""The executor kind that the ledger itself is: nobody executes it."""

REPEATABLE = ("read_only", "idempotent")
"""Classes whose call may be made again after a claim without a receipt."""


def call_kind(executor_kind: str) -> str:
    """The kind of intent that a contract's executor kind asks for."""
    return MODEL_CALL if executor_kind == MODEL else TOOL_CALL


def may_ask(kind: str, executor_kind: str) -> bool:
    """Whether an intent of this kind may reach such a contract."""
    return kind == call_kind(executor_kind) or (kind == MODEL_STREAM and executor_kind == MODEL)
