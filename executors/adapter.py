"""What an executor asks of a kind of tool: one call, one answer.

An adapter calls once and never again by itself: whether a call may be repeated is the ledger's decision. The one exception
is a contract with `retries` of a class that may repeat (`retries.py`). It never raises for what a tool does, and no answer
of it ever holds a secret.
Next: `http.py`, `python.py` (adapters), `dispatcher.py` (who calls them, and when).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sluicegate.schemas.records import Dispatch

ErrorClass = Literal[
    "timeout",
    "refused_by_tool",
    "tool_broke",
    "unreachable",
    "malformed_result",
    "result_too_large",
    "egress_denied",
    "quarantined",
    "crashed",
    "model_changed",
    "guardrail",
    "guardrail_error",
    "redaction_breaks_schema",
    "descriptor_changed",
    "rate_limit",
    "overload",
    "context_length",
    "content_policy",
    "authentication",
    "server_error",
    "content_unavailable",
]

ERROR_CHARS = 300
"""How much of a tool's own words about a failure is kept."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was shown of an answer before its end: the message's name, how many pieces, and the digest of them together."""

    message: str
    pieces: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The tool answered. `result`: UTF-8 JSON."""

    result: bytes
    streamed: Streamed | None = None
    stored: bool = False
    """The result is a reference to what was kept in the artifact store."""
    said: bytes = b""
    """Of a model's kept answer, as JSON: who answered, what it used, how sure it was."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The tool did not answer as its contract says.

    Attributes:
        error_class: the reason the ledger records.
        error: one sentence for the agent's developer.
        sent: False only with proof that nothing reached the tool.
        retry_after_ms: how long the other side asks to wait, or 0.
    """

    error_class: ErrorClass
    error: str
    sent: bool = True
    retry_after_ms: int = 0
    streamed: Streamed | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """The tool works on. `completion`: `poll` or `callback`; `job`: the tool's name of the work, or empty."""

    completion: str
    job: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A look that did not see the end: a sign of life, or with `error_class` none."""

    error_class: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Traceless:
    """A lookup by key that found no trace of the call."""


Answer = Finished | Failed | Parked | Pending | Traceless


class Adapter(Protocol):
    """One kind of executor, such as `http`."""

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """Call the tool once. It is cancelled when `timeout_s` is over, and then stops what it began."""
        ...

    async def close(self) -> None:
        """Let go of connections and processes. Called once, by the executor that was given this adapter."""
        ...
