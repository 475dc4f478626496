"""For pytest: a local gate with a clock that a test moves.

    # conftest.py
    pytest_plugins = ["sluicegate.streams.testing"]

    # test_refunds.py
    def test_large_refund_waits_for_a_person(local_gate):
        gate = local_gate("release/")
        assert gate.check("support-7", "shop.refund", {"order": "7", "amount": 900}, roles=["support"]).status == "hold"

Imports pytest, so nothing of the product imports this. Next: `local.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from sluicegate.streams.local import FakeClock, Gate


class LocalGate(Protocol):
    """What the fixture `local_gate` is."""

    def __call__(self, release: Path | str, **options: object) -> Gate: ...


@pytest.fixture
def fake_clock() -> FakeClock:
    """The clock of every gate that `local_gate` makes in this test."""
    return FakeClock()


@pytest.fixture
def local_gate(fake_clock: FakeClock) -> LocalGate:
    """Makes gates in memory, as `Gate.local` does, with `fake_clock`: move time by `gate.advance(seconds)`."""
    make: Callable[..., Gate] = Gate.local

    def local(release: Path | str, **options: object) -> Gate:
        return make(release, **{"clock": fake_clock, **options})

    return local
