"""Failpoints: places where a test may stop the process, named as in the docs.

`SLUICEGATE_FAILPOINT=ledger.4.appended:3` kills this process (SIGKILL, as the kernel would) the third time it
passes that point; `...:3:stop` sends SIGSTOP instead. Unset, a point costs one comparison. Used by `tests/crash`.
"""

from __future__ import annotations

import itertools
import os
import signal

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

SINK_POINTS = (
    "sink.1.frozen",
    "sink.2.fenced",
    "sink.3.inserted",
    "sink.4.listed",
    "sink.5.committed",
)
"""After each step of the projector; 3 is after the rows and before the manifest."""

_name, _, _rest = os.environ.get("SLUICEGATE_FAILPOINT", "").partition(":")
_count_text, _, _how = _rest.partition(":")
_at = int(_count_text or "1")
_passes = itertools.count(1)


def hit(name: str) -> None:
    """Pass a failpoint."""
    if name == _name and next(_passes) == _at:
        os.kill(os.getpid(), signal.SIGSTOP if _how == "stop" else signal.SIGKILL)
