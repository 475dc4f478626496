"""The executor's own check of what it is told to do, in signed environments.

A dispatch that is not the pipeline's, or a call that the agent did not sign, has no effect: it becomes a dead letter
with an alarm. A dispatch this executor cannot judge *yet*, because its control is behind or unconfirmed, is dropped: the
ledger's tick offers it again. Never decides whether a call is permitted. Next: `processors/permits.py`, `lane.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sluicegate.processors.control import Control
from sluicegate.processors.intake import Problem
from sluicegate.processors.permits import agents_word, open_dispatch
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, Unreadable
from sluicegate.schemas.records import Dispatch

BEHIND_LIMIT_S = 1.0
"""How long a dispatch waits for the control event it was decided under; its lease is 5 s."""


class Verifier(Protocol):
    """Opens a record of `dispatches`."""

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """The dispatch. Raises `Unreadable` for one that must have no effect, `Retryable` for one not to judge now."""
        ...


class ReadsOnly:
    """For unsigned environments, where whoever may write the topic is believed."""

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """Decode it."""
        return codec.decode_as(Dispatch, value)


class ControlSource(Protocol):
    """Control as an executor reads it (`streams/control_log.ControlReader`)."""

    control: Control

    @property
    def stale(self) -> bool:
        """Whether its head could not be confirmed lately."""
        ...

    async def wait_for(self, head: int, limit_s: float = ...) -> None:
        """Return when control was read up to there; `Retryable` past the limit."""
        ...


class SignedVerifier:
    """For signed environments."""

    def __init__(self, source: ControlSource, clock: Callable[[], int]) -> None:
        self._source, self._clock = source, clock

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """The pipeline's signature first: only what it signed may make anybody wait."""
        source = self._source
        found = open_dispatch(source.control, partition, value, self._clock())
        if isinstance(found, Problem):
            raise Unreadable(found.reason, found.detail)
        # INVARIANT: what the ledger knew of keys and agents is known here, too (tests/unit/test_verifier.py).
        await source.wait_for(found.control_head, BEHIND_LIMIT_S)
        if source.stale:
            raise Retryable("control could not be confirmed, nothing is begun on an old one")
        problem = agents_word(source.control, found, self._clock())
        if problem is not None:
            raise Unreadable(problem.reason, problem.detail)
        return found
