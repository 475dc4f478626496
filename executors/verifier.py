"""The executor's own check of what it is told to do.

What is quarantined begins no claim and no call, in any environment. In signed environments, a dispatch that is not the pipeline's, or a call that the agent did not sign, has no effect: it becomes a dead letter
with an alarm. A dispatch this executor cannot judge *yet*, because its control is behind or unconfirmed, is dropped: the
ledger's tick offers it again. Never decides whether a call is permitted. Next: `processors/permits.py`, `lane.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.quarantine import quarantined
from sluicegate.processors.intake import Problem
from sluicegate.processors.permits import agents_word, open_dispatch, same_call
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, Unreadable
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.struct_reader import decode_as

BEHIND_LIMIT_S = 1.0
"""How long a dispatch waits for the control event it was decided under; its lease is 5 s."""


class Verifier(Protocol):
    """Opens a record of `dispatches`."""

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """The dispatch. Raises `Unreadable` for one that must have no effect, `Retryable` for one not to judge now."""
        ...

    def stopped(self, dispatch: Dispatch) -> str:
        """Why its call must not begin, as of now; an empty text when nothing stops it."""
        ...

    @property
    def stale(self) -> bool:
        """Whether `stopped` cannot be relied on now."""
        ...


class ReadsOnly:
    """Believes whoever may write the topic, and knows of no quarantine: for tests without a control ledger."""

    stale = False

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """Decode it."""
        return codec.decode_as(Dispatch, value)

    def stopped(self, dispatch: Dispatch) -> str:
        """Nothing is."""
        return ""


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


class Follower:
    """For unsigned environments: whoever may write the topic is believed, but control's quarantines count."""

    def __init__(self, source: ControlSource) -> None:
        self._source = source

    @property
    def stale(self) -> bool:
        """Whether control's head could not be confirmed for 5 s: then nothing is claimed."""
        return self._source.stale

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """Decode it, once control is as new as the decision."""
        found = decode_as(Dispatch, value)
        _same(found)
        await self._known(found)
        return found

    async def _known(self, dispatch: Dispatch) -> None:
        await self._source.wait_for(dispatch.control_head, BEHIND_LIMIT_S)
        if self._source.stale:
            raise Retryable("control could not be confirmed, nothing is begun on an old one")

    def stopped(self, dispatch: Dispatch) -> str:
        """What is quarantined. The release that counts is the one it was decided under; of a call through an alias, the
        candidate that is asked counts, too."""
        control, d = self._source.control, dispatch
        release = d.release or control.deployed
        # INVARIANT: a candidate quarantined after its offer is not called (tests/unit/test_quarantine.py).
        tools = (d.tool, d.candidate) if d.candidate else (d.tool,)
        said = (quarantined(control, d.agent_id, t, d.session_id, release, d.intent_id) for t in tools)
        return next((why for why in said if why), "")


class SignedVerifier(Follower):
    """For signed environments."""

    def __init__(self, source: ControlSource, clock: Callable[[], int]) -> None:
        super().__init__(source)
        self._clock = clock

    async def open(self, partition: int, value: bytes) -> Dispatch:
        """The pipeline's signature first: only what it signed may make anybody wait."""
        source = self._source
        found = open_dispatch(source.control, partition, value, self._clock())
        if isinstance(found, Problem):
            raise Unreadable(found.reason, found.detail)
        # INVARIANT: what the ledger knew of keys and agents is known here, too (tests/unit/test_verifier.py).
        _same(found)
        await self._known(found)
        problem = agents_word(source.control, found, self._clock())
        if problem is not None:
            raise Unreadable(problem.reason, problem.detail)
        return found


def _same(dispatch: Dispatch) -> None:
    problem = same_call(dispatch)
    if problem is not None:
        raise Unreadable(problem.reason, problem.detail)
