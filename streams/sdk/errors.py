"""What a call of an agent can raise: there is no released result, and this says why.

    SluicegateError                 schemas/errors.py
    └── NotReleased                 carries stage, reason, policies, for_model, for_developer, intent_id, status
        ├── Refused                 it is not allowed, or cannot be asked now
        │   ├── Expired             nobody ran it or agreed to it in time
        │   ├── Withheld            the tool ran, but its result may not be seen
        │   └── Unanswered          published, and no answer came in time: `agent.result(intent_id)` asks again
        │       └── Parked          the tool works on it
        ├── Failed                  the tool was called and failed
        └── InDoubt                 nobody knows whether the call happened: do not repeat it

`for_model` is written for the language model, `for_developer` for you. Never raised inside the pipeline: there a
refusal is an outcome. Read next: `schemas/reasons.py` (every reason), `sdk/replies.py` (who raises these).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.reasons import REASONS

CLIENT_STAGE = "client"
"""The stage of what was decided here and never reached the pipeline."""


class NotReleased(SluicegateError):
    """A call without a released result.

    Attributes:
        reason: stable code, see `schemas/reasons.py`.
        intent_id: the intent, as `explain` and `agent.result` take it.
        status: the reply's status (`refused`, `failed`, ...); `unanswered` when there was none.
        stage: who decided: `route`, `conform`, `authorize`, ..., or `client` when it was decided in this process.
        policies: ids of the policies that decided.
        for_model: one sentence a model can act on.
        for_developer: what to change so that it would pass.
        published: whether the intent may have reached the log. False is proof that nothing will happen.
    """

    default_status: ClassVar[str] = "refused"
    _says: ClassVar[str] = "{0} has no result"

    def __init__(
        self,
        reason: str,
        *,
        intent_id: str = "",
        status: str = "",
        stage: str = CLIENT_STAGE,
        policies: Sequence[str] = (),
        for_model: str = "",
        for_developer: str = "",
        published: bool = True,
    ) -> None:
        super().__init__(reason)
        known = REASONS.get(reason)
        self.reason = reason
        self.intent_id = intent_id
        self.status = status or self.default_status
        self.stage = stage
        self.policies = tuple(policies)
        self.for_model = for_model or (known.for_model if known else "")
        self.for_developer = for_developer or (known.remedy if known else "")
        self.published = published

    def __str__(self) -> str:
        says = self._says.format(f"intent `{self.intent_id}`" if self.intent_id else "the request")
        return f"{says} at {self.stage} (`{self.reason}`): {self.for_developer or self.for_model}"


class Refused(NotReleased):
    """The gate said no, or could not be asked (`unavailable`, `overloaded`); only `Withheld` means that it ran."""

    _says = "{0} was refused"


class Expired(Refused):
    """Nobody ran it, or nobody agreed to it, in time. It did not happen and will not."""

    default_status = "expired"
    _says = "{0} expired"


class Withheld(Refused):
    """The tool ran, its result was kept back. What it did is done: do not repeat it."""

    default_status = "withheld"
    _says = "the result of {0} was withheld"


class Unanswered(Refused):
    """The intent was handed to Kafka (`published`) and no answer came in time. It may still happen.

    Its deadline has passed too, so the pipeline refuses it from now on; what had begun goes on. Ask
    `agent.result(intent_id)` before anything is done again.
    """

    default_status = "unanswered"
    _says = "{0} was not answered"


class Parked(Unanswered):
    """The tool took it up and works on: the contract's `completion` says that this may take long.

    `agent.result(intent_id)` tells how it ended, also after a restart of the agent.
    """

    default_status = "parked"
    _says = "{0} goes on at the tool"


class Failed(NotReleased):
    """The tool was called and failed; `reason` says how, `for_developer` has the tool's own words."""

    default_status = "failed"
    _says = "the tool failed for {0}"


class InDoubt(NotReleased):
    """The call may or may not have happened. A person has to look; `agent.result` tells when the truth is known."""

    default_status = "in_doubt"
    _says = "it is not known whether {0} happened,"
