"""A vault for tests of `executors/secret_plugins.py`: functions that an operator would name."""

from __future__ import annotations

import threading

CANARY = "canary-from-the-vault-91c2"
asked: list[str] = []
hang = threading.Event()


def vault(place: str) -> object:
    """A vault that knows one secret."""
    asked.append(place)
    if place == "hangs":
        hang.wait(20)
    return CANARY if place == "payments/key" else ""


def odd(place: str) -> object:
    """Says no text, or what it read in its exception."""
    if place == "raises":
        raise ValueError(CANARY)
    return 7
