"""What operators do about API keys: each is one control event; the secret is shown once and kept nowhere.

Never decides what a key opens: `processors/control/api_keys.py` does. Next: `commands/keys.py`, `control/log.py`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sluicegate.processors.control.api_keys import (
    ADDED_KIND,
    MAX_API_KEYS,
    MAX_RATE_PER_S,
    REVOKED_KIND,
    SCOPES,
    digest_of,
    token_of,
)
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.streams.control import changes
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.identities import FOREVER_US
from sluicegate.streams.control.operators import operator
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

SECRET_BYTES = 32
ID_BYTES = 6


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that was made, or with `waits` proposed to: so many people it takes. `token` is shown once."""

    key_id: str
    token: str
    head: int
    waits: int = 0


async def create(
    settings: Settings, keys: Keys, agent: str, scopes: Sequence[str], why: str, *, rate_per_s: int, valid_us: int = 0
) -> MadeKey:  # fmt: skip
    """A key for a registered agent. Raises `Terminal` for an unknown agent, scope or rate."""
    control = await changes.look(settings)
    if agent not in control.agents:
        raise Terminal(
            f"agent `{agent[:80]}` is not registered: sluicegate agents register AGENT --role ROLE"
        )
    wrong = [s for s in scopes if s not in SCOPES]
    if wrong or not scopes:
        raise WrongUsage(
            f"scope `{wrong[0][:40] if wrong else ''}` does not exist, choose from {', '.join(SCOPES)}"
        )
    if not 0 < rate_per_s <= MAX_RATE_PER_S:
        raise WrongUsage(f"the rate `{rate_per_s}` is not 1 to {MAX_RATE_PER_S} requests a second")
    if len(control.api_keys) >= MAX_API_KEYS:
        raise Terminal(f"there are {MAX_API_KEYS} API keys, the most that one environment keeps")
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    ends = time.time_ns() // 1000 + valid_us if valid_us else FOREVER_US
    body: dict[str, object] = {
        "key_id": key_id, "sha256": digest_of(secret), "agent_id": agent, "scopes": list(scopes), "rate_per_s": rate_per_s,
        "not_after": ends,
    }  # fmt: skip
    head, waits = await changes.write(settings, keys, control, [(ADDED_KIND, body)], why)
    return MadeKey(key_id, token_of(control.env, key_id, secret), head, waits)


async def revoke(settings: Settings, keys: Keys, key_id: str, why: str) -> int:
    """End a key; the control head. Raises `Terminal` for one that is unknown or has ended."""
    control = (await control_log.read(settings)).control
    key = control.api_keys.get(key_id)
    if key is None or not key.not_after:
        state = "is not known" if key is None else "has ended already"
        raise Terminal(f"API key `{key_id[:40]}` {state}, see `sluicegate keys list`")
    return await control_log.append(
        settings, keys, [(REVOKED_KIND, {"key_id": key_id})], who=operator(), why=why, expected_head=control.head
    )  # fmt: skip
