"""Failpoints: which pass of which point strikes, and how."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator

import pytest
from sluicegate.streams import failpoints


@pytest.fixture
def struck(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that this process would have got."""
    found: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append(number))
    yield found
    monkeypatch.undo()
    importlib.reload(failpoints)


@pytest.mark.parametrize(
    ("setting", "signals"),
    [
        ("", []),
        ("claim.2.sent", [signal.SIGKILL]),
        ("claim.2.sent:3", [signal.SIGKILL]),
        ("claim.2.sent:3:stop", [signal.SIGSTOP]),
        ("claim.2.sent:5", []),
        ("claim.3.committed", []),
    ],
)
def test_the_pass_that_was_asked_for(
    setting: str, signals: list[int], struck: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICEGATE_FAILPOINT", setting)
    importlib.reload(failpoints)
    for _ in range(4):
        failpoints.hit("claim.2.sent")
    assert struck == signals


def test_a_conditional_point_is_passed_only_when_it_is_there(
    struck: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICEGATE_FAILPOINT", "transfer.3.fetched:2")
    importlib.reload(failpoints)
    asked: list[str] = []

    def there(name: str, answer: bool) -> bool:
        asked.append(name)
        return answer

    for answer in (True, False, False, True):
        assert struck == []
        failpoints.hit_if("transfer.3.fetched", lambda answer=answer: there("3", answer))
        failpoints.hit_if("transfer.4.appended", lambda: there("4", True))
    assert struck == [signal.SIGKILL]
    assert asked == ["3"] * 4  # a point that is not set asks nothing
