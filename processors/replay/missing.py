"""Why the bytes that a decision asks for are not here when it is made again: erased, gone, or in another generation.

Raised by who decides again, and counted there. Next: `replay/rederive.py`.
"""

from __future__ import annotations


class ErasedError(Exception):
    """Bytes that a decision asks for were erased: those of this subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject


class GoneError(ErasedError):
    """What an intent refers to is not in the artifact store any more: the artifact of this digest."""


class BeforeSeamError(ErasedError):
    """The bytes stand in a partition of another generation, which is not read here."""
