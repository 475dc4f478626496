"""The operator at the keyboard: who it is, and in signed environments the key that signs what they do to control.

The key is the file that `SLUICEGATE_OPERATOR_KEY` names, else `<home>/keys/operator.jwk`. Never makes one
(`control/identities.py` does) and never sends its private half anywhere. Next: `control/log.py`.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.policy import OPERATOR
from sluicegate.processors.drift.alarm_events import SENTINEL, is_sentinel
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.files import PrivateKey
from sluicegate.streams.settings import Settings

SENTINEL_KEY = "SLUICEGATE_SENTINEL_KEY"


def operator() -> str:
    """Who is at the keyboard, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def default_path(home: Path) -> Path:
    """Where the key of this home's operator is."""
    return home / "keys" / "operator.jwk"


def key_for(
    settings: Settings, control: Control, environ: Mapping[str, str] = os.environ
) -> PrivateKey | None:
    """The key that signs a control event now; None where none is asked for.

    Raises `Terminal` when one is asked for and there is none here, or it is not an operator's.
    """
    if control.signing != "signed" or not control.operated:
        return None
    named = environ.get("SLUICEGATE_OPERATOR_KEY", "").strip()
    path = Path(named).expanduser() if named else default_path(settings.home)
    if not path.is_file():
        raise Terminal(
            f"environment `{control.env}` takes control events that an operator signed, and `{path}` is no key: set "
            "SLUICEGATE_OPERATOR_KEY to the file that `sluicegate keys new NAME --role operator` made"
        )
    key = key_files.load(path)
    known = control.keys.get(key.kid)
    if known is None or known.role != OPERATOR or known.not_after == 0 or known.public != key.public:
        raise Terminal(f"key `{key.kid}` in `{path}` is no valid operator's key, see `sluicegate keys list`")
    return key


def sentinel_key(settings: Settings, control: Control) -> PrivateKey | None:
    """The key of what acts by itself, sentinel and canary watcher; None where control takes unsigned events.

    Raises `Terminal` for one nothing would bound.
    """
    path = os.environ.get(SENTINEL_KEY, "").strip() or str(settings.home / "keys" / "sentinel.jwk")
    key = key_for(settings, control, {"SLUICEGATE_OPERATOR_KEY": path})
    # INVARIANT: in a signed environment only a bounded key acts by itself (tests/unit/test_sentinel_service.py).
    if key is not None and not is_sentinel(control, control.keys[key.kid].principal):
        raise Terminal(
            f"key `{key.kid}` is not a sentinel's: register its person with --role {SENTINEL}, or nothing would bound it"
        )
    return key


def who(settings: Settings, control: Control) -> str:
    """Who an event that is written now will be said to come from."""
    key = key_for(settings, control)
    return operator() if key is None else control.keys[key.kid].principal
