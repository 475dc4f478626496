"""What a contract says about its cache, and which calls are the same call.

    "cache": {"scope": "agent" | "tenant" | "shared:<name>", "ttl_s": 3600}

Two calls are the same when environment, tenant, owner of the scope, tool, version, the executor's own object and the
canonical arguments as they would be executed are the same, byte for byte: what was redacted is redacted in the key, too.
The release is not part of it, so a deployment that leaves a contract alone keeps its results (docs/decisions). Pure.
Next: `cache/cache.py`.
"""

from __future__ import annotations

import hashlib
import re

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sluicegate.processors.labels import CONFIDENTIALITY_RANK
from sluicegate.processors.releases.contract_check import GOVERNANCE, line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.topics import partition_of

AGENT, TENANT, SHARED = "agent", "tenant", "shared:"
MAX_TTL_S = 7 * 24 * 3600
"""A week: results stand on input topics, which are kept for 30 days."""
_SHARED = re.compile(r"shared:[a-z0-9][a-z0-9_.-]{0,63}")
_NOT_HERE = ("in_process", "memory")


class CacheRule(BaseModel):
    """`cache` of a contract."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    scope: str
    ttl_s: int = Field(gt=0, le=MAX_TTL_S)

    @field_validator("scope")
    @classmethod
    def _known(cls, scope: str) -> str:
        if scope not in (AGENT, TENANT) and not _SHARED.fullmatch(scope):
            raise ValueError(f"`{scope[:80]}` is no scope, write `agent`, `tenant` or `shared:<name>`")
        return scope


def check_cache(path: str, text: str, rule: CacheRule | None, tool_class: str, kind: str) -> list[Finding]:
    """Why a contract cannot have this cache."""
    said = ""
    if rule is not None and tool_class != "read_only":
        said = f"a call of class `{tool_class}` is never answered from a cache, leave `cache` out"
    elif rule is not None and kind in _NOT_HERE:
        said = f"what runs as `{kind}` has no result to keep, leave `cache` out"
    line = line_of(text, [GOVERNANCE, "cache"]) if said else 0
    return [Finding(path, line, "contract", "error", said)] if said else []


def entry_key(
    rule: CacheRule,
    env: str,
    tenant: str,
    agent_id: str,
    confidentiality: int,
    tool: tuple[str, str, bytes, bytes],
) -> bytes:
    """The identity of a call, 16 bytes. `tool`: name, version, the executor's object, canonical arguments.

    INVARIANT: nothing crosses environment, tenant, scope or the line around `secret` (tests/unit/test_cache.py). What
    sessions up to `internal` asked may be known inside their tenant, and no scope is wider; what a session asked that
    saw a secret may not.
    """
    name, version, executor, canonical = tool
    owner = agent_id if rule.scope == AGENT else ""
    secret = confidentiality >= CONFIDENTIALITY_RANK["secret"]
    parts = [env, tenant, rule.scope, owner, secret, name, version]
    digests = hashlib.sha256(executor).digest() + hashlib.sha256(canonical).digest()
    return hashlib.sha256(orjson.dumps(parts) + digests).digest()[:16]


def home_of(rule: CacheRule, key: bytes, me: int, partitions: int) -> int:
    """The partition that decides who runs it: an agent's own, else the one its key falls on."""
    return me if rule.scope == AGENT else partition_of(f"cache:{key.hex()}", partitions)
