"""Every exception of Sluicegate.

    SluicegateError
    ├── Retryable(retry_after_s)   the machinery is away or busy: the same thing may work later
    └── Terminal                   it will not work until somebody changes something
        ├── WrongUsage             the words of a command are wrong, whatever stands where
        └── Unreadable(reason)     bytes that are no record of ours

A refusal is never an exception inside the pipeline: it is an outcome. Only the agent's SDK turns one into
`Refused`, because that is what a caller of `call_tool` expects (see `streams/client.py`).
Messages are one lower-case sentence, the user's value in backticks, what to do next.
"""

from __future__ import annotations


class SluicegateError(Exception):
    """Root of the tree."""


class Retryable(SluicegateError):
    """The machinery failed for now.

    Attributes:
        retry_after_s: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Terminal(SluicegateError):
    """The machinery failed until somebody changes something; the message says what."""


class WrongUsage(Terminal):
    """What was asked for could never be asked so: an option is missing, does not fit another, or is no value of its kind.

    What only a look at the environment tells (no such agent, no such file) is `Terminal`. A command ends with 2.
    """


class Unreadable(Terminal):
    """Bytes that are no record of ours.

    Attributes:
        reason: stable code, see `schemas/reasons.py`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
