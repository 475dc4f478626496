"""Held calls are read as seldom as may be, and found by whoever was told of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from sluicegate.gateway import held_calls
from sluicegate.gateway.held_calls import FRESH_S, HeldCalls
from sluicegate.streams.settings import Settings


class Ledger(HeldCalls):
    """One that shows these calls, one reading after the other; the last of them from then on. Whoever looks at the clock takes time."""

    def __init__(self, *shown: Sequence[str]) -> None:
        super().__init__(Settings(home=Path("nowhere")), self._tick)
        self.now, self.reads, self._shown = 0.0, 0, shown

    def _tick(self) -> float:
        self.now += 0.1
        return self.now

    async def _all(self) -> list[held_calls.Waiting]:
        names = self._shown[min(self.reads, len(self._shown) - 1)]
        self.reads += 1
        return [(SimpleNamespace(intent_id=name), "why") for name in names]  # type: ignore[misc]

    def names(self, intent_id: str) -> list[str]:
        """Those that are found by this id."""
        return [entry.intent_id for entry, _ in asyncio.run(self.named(intent_id))]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_calls, "VISIBLE_S", 0.0)


def test_who_was_told_of_a_call_finds_it_a_moment_before_the_ledger_shows_it() -> None:
    ledger = Ledger([], ["held"])
    assert (ledger.names("held"), ledger.reads) == (["held"], 2)


def test_what_is_known_is_not_read_again() -> None:
    ledger = Ledger(["held"])
    assert [ledger.names("held") for _ in range(2)] == [["held"], ["held"]]
    assert ledger.reads == 1
    ledger.now += FRESH_S
    assert ledger.names("held") == ["held"] and ledger.reads == 2


def test_what_nobody_holds_is_looked_for_twice_more_and_then_given_up() -> None:
    ledger = Ledger(["held"])
    ledger.names("held")
    assert (ledger.names("another"), ledger.reads) == ([], 3)
