"""Derailing: a session that goes in circles is halted until a person resumes it.

    derail:                  # in release.yaml; nothing is limited that is not written
      same_call: 8           # the same tool with the same arguments so many times ...
      within: 16             # ... among the last so many calls of the session
      without_result: 60     # calls in a row of which none released a result
      calls: 500             # calls of one session, counted anew when it is resumed
      falling_confidence: 4  # answers of models in a row, each less sure than the one before

The call that reaches a limit is refused with the limit's reason and halts the session; those after it are refused
`halted`. A person's review with the verdict `resume` starts every count anew. What was dispatched before goes on.
The state is bounded: 16 bytes for each of the last calls. How sure a model was is the mean probability of its answer's
tokens, which only an executor reports, for contracts that ask for it (`logprobs`); the agent's own word counts nothing.
Never looks at what a call means. Next: `route.py` (who asks), `state.py` (who counts).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from sluicegate.processors.sessions.session import Session

HALTS = ("loop", "no_progress", "step_cap", "falling_confidence")
"""Reasons that halt a session, one a limit."""

DIGEST_BYTES = 16

MAX_WITHIN = 32
"""Calls remembered of one session: 512 bytes. Kept only where a release limits repeated calls."""


FALL_PERMILLE = 10
"""An answer is less sure than the one before when its confidence is lower by this much: less is noise."""


class Derail(BaseModel):
    """Limits of a session; 0 is none. `within` 0 looks at all calls that are remembered."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    same_call: int = Field(0, ge=0, le=MAX_WITHIN)
    within: int = Field(0, ge=0, le=MAX_WITHIN)
    without_result: int = Field(0, ge=0)
    calls: int = Field(0, ge=0)
    falling_confidence: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Derail:
        if self.same_call == 1:
            raise ValueError("`same_call` 1 would halt every session at its first call, begin at 2")
        if self.within and self.within < self.same_call:
            raise ValueError("`within` is smaller than `same_call`, so nothing could ever reach it")
        return self


NO_LIMITS = Derail.model_validate({})


def call_digest(limits: Derail, tool: str, arguments: bytes) -> bytes:
    """What makes two calls the same: the tool and the arguments, whatever their order and spaces. Empty where
    repeated calls are not limited."""
    if not limits.same_call:
        return b""
    try:
        arguments = orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass  # it is refused anyway; the same bytes are the same call
    return hashlib.sha256(tool.encode() + b"\0" + arguments).digest()[:DIGEST_BYTES]


def limit_reached(limits: Derail, session: Session, digest: bytes) -> tuple[str, str]:
    """(reason, sentence for the developer) when this call is one too many; two empty texts when it is not."""
    if limits.calls and session.calls - session.calls_before >= limits.calls:
        return "step_cap", f"the session has made {limits.calls} calls, as many as the release allows"
    if limits.without_result and session.idle >= limits.without_result:
        return "no_progress", f"none of the last {session.idle} calls released a result"
    if limits.falling_confidence and session.falls >= limits.falling_confidence:
        said = f"the last {session.falls} answers of models were each less sure than the one before"
        return "falling_confidence", said
    if limits.same_call:
        within = limits.within or MAX_WITHIN
        kept = session.recent[-(within - 1) * DIGEST_BYTES :]
        same = 1 + sum(kept[at : at + DIGEST_BYTES] == digest for at in range(0, len(kept), DIGEST_BYTES))
        if same >= limits.same_call:
            return "loop", f"the same call came {same} times among the last {within}"
    return "", ""


def note_call(session: Session, digest: bytes, reason: str) -> None:
    """Fold a call that was made, or refused for `reason`, into its session."""
    if reason == "halted":
        return
    session.idle += 1
    if digest:
        session.recent = (session.recent + digest)[-MAX_WITHIN * DIGEST_BYTES :]
    if reason in HALTS:
        session.halted = reason


def note_result(session: Session) -> None:
    """Fold a released result."""
    session.idle = 0


def note_confidence(session: Session | None, confidence: int) -> None:
    """Fold how sure a model was, in 1/1,000; -1 says nothing."""
    if session is None or confidence < 0:
        return
    if session.sure >= 0 and confidence <= session.sure - FALL_PERMILLE:
        session.falls, session.sure = session.falls + 1, confidence
    elif confidence > session.sure:
        session.falls, session.sure = 0, confidence


def resume(session: Session) -> None:
    """A person lets it go on: every count begins anew."""
    session.halted, session.recent, session.idle, session.calls_before = "", b"", 0, session.calls
    session.sure, session.falls = -1, 0
