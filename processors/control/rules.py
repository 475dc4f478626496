"""A published release's `control.cedar` alone, for readers of control that need nothing else of it. Pure.

Next: `control/policy.py` (who asks it), `releases/release.py` (the whole of it).
"""

from __future__ import annotations

from sluicegate.processors.policy.cedar import PolicyBook
from sluicegate.processors.policy.files import read_policies
from sluicegate.processors.releases.file import CONTROL_CEDAR, digest_of
from sluicegate.processors.releases.release import CompiledRelease


def rules_alone(files: dict[str, str]) -> CompiledRelease | None:
    """A release that decides nothing but who may change control; None where it leaves that open."""
    if CONTROL_CEDAR not in files:
        return None
    rules, _ = read_policies({CONTROL_CEDAR: files[CONTROL_CEDAR]})
    return CompiledRelease(digest_of(files), "", "", {}, PolicyBook([]), control_book=PolicyBook(rules))
