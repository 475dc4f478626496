"""Failpoints: places where a test may stop the process, named as in the docs.

`SLUICEGATE_FAILPOINT=ledger.4.appended:3` kills this process (SIGKILL, as the kernel would) the third time it
passes that point; `...:3:stop` sends SIGSTOP instead. Unset, a point costs one comparison. Used by `tests/crash`.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable

LEDGER_POINTS = (
    "ledger.1.fetched",
    "ledger.2.loaded",
    "ledger.3.decided",
    "ledger.4.appended",
    "ledger.5.committed",
)
"""After each step of the commit protocol; 4 is acknowledged by the broker but not committed."""

CLAIM_POINTS = (
    "claim.1.fetched",
    "claim.2.sent",
    "claim.3.committed",
    "claim.4.called",
    "claim.5.reported",
)
"""After each step of an executor's claim; 4 is after the effect and before the receipt."""

TRANSFER_POINTS = (
    "transfer.1.appended",
    "transfer.2.committed",
    "transfer.3.fetched",
    "transfer.4.appended",
    "transfer.5.committed",
)
"""A record between partitions: 1 and 2 are the sender's steps 4 and 5 of a transaction that sends one, 3 to 5 the
receiver's steps 1, 4 and 5 of a transaction that decides one."""

SINK_POINTS = (
    "sink.1.frozen",
    "sink.2.fenced",
    "sink.3.inserted",
    "sink.4.listed",
    "sink.5.committed",
)
"""After each step of the projector; 3 is after the rows and before the manifest."""

CHECKPOINT_POINTS = (
    "checkpoint.1.tiles",
    "checkpoint.2.signed",
    "checkpoint.3.kept",
)
"""After each step of a signed head that is not shown yet (`transparency/log_tree.py`)."""

REPARTITION_POINTS = (
    "repartition.1.begun",
    "repartition.3.sealed",
    "repartition.5.imported",
    "repartition.6.started",
)
"""After steps of a repartition; 3 and 5 are passed once a partition (`repartition/repartition.py`)."""

_name, _, _rest = os.environ.get("SLUICEGATE_FAILPOINT", "").partition(":")
_count_text, _, _how = _rest.partition(":")
_at = int(_count_text or "1")
_passes = itertools.count(1)


def hit(name: str) -> None:
    """Pass a failpoint."""
    if name == _name:
        _pass()


def hit_if(name: str, there: Callable[[], bool]) -> None:
    """Pass a failpoint that is only there when `there` says so; it is asked only where the point is set."""
    if name == _name and there():
        _pass()


def _pass() -> None:
    if next(_passes) == _at:
        os.kill(os.getpid(), signal.SIGSTOP if _how == "stop" else signal.SIGKILL)
