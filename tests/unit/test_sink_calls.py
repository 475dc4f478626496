"""Which call an outcome is about, and how much is remembered of that."""

from __future__ import annotations

import pytest
from sluicegate.sinks import calls
from sluicegate.sinks.calls import Calls
from sluicegate.sinks.rows import Record, Reject, row

from tests.ledger_records import AGENTS, Ledger


def seen(memory: Calls, written: list[Record]) -> list[tuple[bytes, bytes]]:
    items = [item for item in map(row, written) if not isinstance(item, Reject)]
    assert len(items) == len(written)
    tools, before = memory.see(items)
    return list(zip(tools, before, strict=True))


def test_the_tool_is_on_every_outcome_and_the_one_before_on_the_first() -> None:
    ledger, memory = Ledger(), Calls()
    step = 4 * AGENTS  # the same session again
    written = [
        ledger.genesis(),
        *ledger.intent(1),
        *ledger.intent(1 + step),
        *ledger.execution(1),
        ledger.noted(1),
    ]
    assert seen(memory, written) == [
        (b"", b""),
        *[(b"tool-1", b"")] * 4,
        (b"tool-4", b"tool-1"),
        *[(b"tool-4", b"")] * 3,
        *[(b"tool-1", b"")] * 3,
    ]
    assert seen(memory, [ledger.heard(1), ledger.noted(9)]) == [(b"", b"")] * 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN_MAX", "ENDED_MAX", "SESSIONS_MAX"):
        monkeypatch.setattr(calls, name, 10)
    ledger, memory = Ledger(), Calls()
    for number in range(100):
        seen(memory, ledger.intent(number))
        seen(memory, ledger.execution(number))
        seen(memory, ledger.intent(1_000 + number))
    kept = (memory._open, memory._ended, memory._before, memory._last, memory._older)
    assert all(len(one) <= 11 for one in kept)
    assert seen(memory, [ledger.noted(99), ledger.noted(5), ledger.noted(1_099), ledger.noted(1_005)]) == [
        (b"tool-1", b""),
        (b"", b""),
        (b"tool-0", b""),
        (b"", b""),
    ]
