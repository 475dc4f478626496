"""A published release's `control.cedar` alone, for readers of control that need nothing else of it. Pure.

Next: `control_policy.py` (who asks it), `release.py` (the whole of it).
"""

from __future__ import annotations

from sluicegate.processors.cedar import PolicyBook
from sluicegate.processors.policy_files import read_policies
from sluicegate.processors.release import CompiledRelease
from sluicegate.processors.release_file import CONTROL_CEDAR, digest_of


def rules_alone(files: dict[str, str]) -> CompiledRelease | None:
    """A release that decides nothing but who may change control; None where it leaves that open."""
    if CONTROL_CEDAR not in files:
        return None
    rules, _ = read_policies({CONTROL_CEDAR: files[CONTROL_CEDAR]})
    return CompiledRelease(digest_of(files), "", "", {}, PolicyBook([]), control_book=PolicyBook(rules))
