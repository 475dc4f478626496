"""Secrets of the MAC keys that our own processes share: `<home>/keys/mac.json`, `{kid: hex}`.

Control says which kid is whose and for how long; the secret never leaves this file (`processors/intake.py` compares).
Never writes it: whoever deploys puts it there, readable by its owner only. Next: `control/log.py`, `schemas/signing.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from sluicegate.schemas.errors import Terminal

MIN_SECRET_BYTES = 32
"""As long as HMAC-SHA256's output (RFC 2104); a shorter secret is weaker than the MAC."""


def load(home: Path) -> dict[str, bytes]:
    """Secrets by kid; none without the file. Raises `Terminal` when the file is not of this form."""
    path = home / "keys" / "mac.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        secrets = {str(kid): bytes.fromhex(text) for kid, text in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Terminal(f"`{path}` cannot be read as {{kid: hex}}, correct it") from error
    if short := [kid for kid, secret in secrets.items() if len(secret) < MIN_SECRET_BYTES]:
        raise Terminal(f"the secret of `{short[0]}` in `{path}` is shorter than {MIN_SECRET_BYTES} bytes")
    return secrets
