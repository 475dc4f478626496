"""API keys: what a client without a Kafka credential shows to a gateway, bound to one agent of one environment.

    sg_dev_7f3a9c21_pDq...          environment, id, secret

Control keeps the sha256 of the secret, which has 256 random bits: nothing to guess, and nothing to steal from the ledger.
Tenant, team and roles are those that control has for the agent, at the time of each request. Pure; never makes a key.
Next: `streams/control/api_keys.py` (makes them), `gateway/access.py` (asks for them).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

ADDED_KIND, REVOKED_KIND = "api_key.added", "api_key.revoked"
PREFIX = "sg"
AGENT, CHANNEL, PERSON = "agent", "channel", "person"
SCOPES = (AGENT, CHANNEL, PERSON)
"""`agent`: asks for calls. `channel`: says for whom a session is and what the user said. `person`: sees held calls and speaks
for the person a token names. An untrusted agent gets the first one only."""
MAX_API_KEYS = 100_000
"""In one control ledger: about 400 bytes each, 40 MB."""
MAX_TOKEN_CHARS = 200
DEFAULT_RATE_PER_S = 100
"""Requests of one key in a second; twice as many at once."""
MAX_RATE_PER_S = 100_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One API key.

    Attributes:
        sha256: of the secret, hex.
        scopes: some of `SCOPES`.
        not_after: microseconds; 0 once it is revoked.
    """

    key_id: str
    sha256: str
    agent_id: str
    scopes: tuple[str, ...]
    rate_per_s: int
    not_after: int


@dataclass(frozen=True, slots=True)
class NoKey:
    """Why a token opens nothing: one sentence, without the token."""

    detail: str


def token_of(env: str, key_id: str, secret: str) -> str:
    """The token a client shows."""
    return f"{PREFIX}_{env}_{key_id}_{secret}"


def digest_of(secret: str) -> str:
    """What control keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def opened(control: Control, token: str, now: int) -> ApiKey | NoKey:
    """The key that a token is, or why it is none. Never raises."""
    parts = token.split("_", 3) if len(token) <= MAX_TOKEN_CHARS else []
    if len(parts) != 4 or parts[0] != PREFIX:
        return NoKey("this is no API key: make one with `sluicegate keys create AGENT`")
    _, env, key_id, secret = parts
    if env != control.env:
        return NoKey(f"the key is of environment `{env[:40]}`, and this is `{control.env}`")
    key = control.api_keys.get(key_id)
    # Compared for an unknown id, too: an answer takes as long whether the id exists or not.
    same = hmac.compare_digest(digest_of(secret), key.sha256 if key is not None else digest_of(""))
    if key is None or not same:
        return NoKey("the key is not known here")
    if now >= key.not_after:
        return NoKey("the key has ended: make another with `sluicegate keys create AGENT`")
    return key


# -- steps of control's fold -----------------------------------------------------------------------------------------


def added(new: Control, body: Body, who: str) -> None:
    """`api_key.added` {key_id, sha256, agent_id, scopes, rate_per_s, not_after}. An id never comes to mean another key."""
    key = ApiKey(
        str(body["key_id"]), str(body["sha256"]), str(body["agent_id"]),
        tuple(s for s in SCOPES if s in cast("list[object]", body["scopes"])),
        max(1, min(MAX_RATE_PER_S, cast(int, body["rate_per_s"]))), cast(int, body["not_after"]),
    )  # fmt: skip
    # INVARIANT: a key is never replaced (tests/unit/test_api_keys.py::test_an_id_is_never_reused).
    if key.key_id and key.key_id not in new.api_keys and len(new.api_keys) < MAX_API_KEYS:
        new.api_keys = {**new.api_keys, key.key_id: key}


def revoked(new: Control, body: Body, who: str) -> None:
    """`api_key.revoked` {key_id}: from this event on it opens nothing."""
    key = new.api_keys.get(str(body["key_id"]))
    if key is not None:
        new.api_keys = {**new.api_keys, key.key_id: replace(key, not_after=0)}
