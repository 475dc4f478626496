"""Artifacts: results that are too large for a ledger, kept beside it under their digest; what travels is a reference.

A contract says `max_result_bytes` up to 64 MB. What is larger than an inline result is validated where it is (in the executor,
by `validated`: output schema, redactions, guardrails, as of the release that the dispatch names), sealed under a key of its own and
stored. The receipt carries the reference, which holds that key: so the ledger seals the key under the subject's, and to destroy
that one is to lose the artifact. The pipeline sees the reference only: it joins *every* label of the contract, and grounds nothing of
what is inside. Pure. Next: `receipts.py` (who takes references), `executors/artifact_keeper.py`, docs/artifacts.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import orjson
from pydantic import BaseModel, Field
from sluicegate.processors.cache.rules import CacheRule
from sluicegate.processors.releases.contract_check import GOVERNANCE, line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.topics import (
    MAX_ARGUMENT_BYTES,
    MAX_ARTIFACT_BYTES,
    MAX_INTENT_BYTES,
    MAX_RESULT_BYTES,
)

STORED = "stored"
"""The kind of a receipt whose result is a reference."""

KINDS = ("http", "python", "sql", "mcp", "model")
"""Executor kinds whose adapters read more than an inline result."""

LARGE_ARGUMENT_KINDS = ("http", "python", "sql", "mcp", "model")
"""Executor kinds whose calls an executor process makes, so that it can fetch the arguments."""

SAID = ("confidence", "served_model", "usage")
"""Of a model's stored answer, what its receipt says beside the reference."""

LIMIT, ARGUMENT_LIMIT = "max_result_bytes", "max_argument_bytes"
KEY_BYTES = 32
_HASH = "sha256:"

Json = object


class Kept(BaseModel):
    """What a contract says of large results."""

    max_result_bytes: int = Field(MAX_RESULT_BYTES, ge=MAX_RESULT_BYTES, le=MAX_ARTIFACT_BYTES)
    """Of one result, as JSON. Above 64 kB it needs an artifact store."""
    max_argument_bytes: int = Field(MAX_INTENT_BYTES, ge=MAX_INTENT_BYTES, le=MAX_ARGUMENT_BYTES)
    """Of the arguments, as JSON. Above 256 kB they travel by reference (`large_arguments.py`), which needs one, too."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an artifact is, what it is, and how it is opened.

    Attributes:
        digest: sha256 of the content, `sha256:` and 64 hex digits.
        size: its bytes.
        stored: sha256 of what stands in the store: the name there.
        key: opens it, 32 bytes.
    """

    digest: str
    size: int
    stored: str
    key: bytes

    def as_json(self) -> bytes:
        """As it is released in place of the result."""
        told = {"digest": self.digest, "bytes": self.size, "stored": self.stored, "key": base64.b64encode(self.key).decode()}  # fmt: skip
        return orjson.dumps({"artifact": told}, option=orjson.OPT_SORT_KEYS)


def reference_of(value: Json) -> Reference | None:
    """The reference in a released result, or None."""
    told = value.get("artifact") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(told, Mapping) or told.keys() != {"digest", "bytes", "stored", "key"}:
        return None
    digest, size, stored, key = (told[name] for name in ("digest", "bytes", "stored", "key"))
    if not (_is_hash(digest) and _is_hash(stored) and type(size) is int and isinstance(key, str)):
        return None
    try:
        opened = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return None
    return Reference(digest, size, stored, opened) if len(opened) == KEY_BYTES else None


def _is_hash(text: object) -> bool:
    """`sha256:` and 64 hex digits."""
    if not isinstance(text, str) or not text.startswith(_HASH):
        return False
    hexes = text.removeprefix(_HASH)
    return len(hexes) == 64 and all(c in "0123456789abcdef" for c in hexes)


def digest_of(data: bytes) -> str:
    """`sha256:<hex>`."""
    return _HASH + hashlib.sha256(data).hexdigest()


def check_reference(result: bytes | None, most: int) -> str:
    """A reason not to take a receipt's reference, or an empty string. `most`: what the contract lets a result have."""
    if result is None or len(result) > MAX_RESULT_BYTES:
        return "malformed_result"
    try:
        found = reference_of(orjson.loads(result))
    except orjson.JSONDecodeError:
        return "malformed_result"
    if found is None:
        return "malformed_result"
    # INVARIANT: only what a contract lets be large is taken as a reference (tests/unit/test_artifacts.py).
    return "" if MAX_RESULT_BYTES < found.size <= most else "result_too_large"


@lru_cache(maxsize=1_024)
def limit_of(executor: bytes) -> int:
    """How many bytes a result may have, by the executor's object of its contract."""
    try:
        parsed = orjson.loads(executor)
    except orjson.JSONDecodeError:
        return MAX_RESULT_BYTES
    found = parsed.get(LIMIT) if isinstance(parsed, dict) else None
    return min(found, MAX_ARTIFACT_BYTES) if type(found) is int else MAX_RESULT_BYTES


def with_limit(
    executor: dict[str, Json], path: str, text: str, bounds: Kept, cache: CacheRule | None
) -> list[Finding]:
    """Say the bound of results in the executor's object; why a contract cannot have its bounds."""
    findings = _argument_limit(str(executor.get("kind", "")), path, text, bounds.max_argument_bytes)
    if bounds.max_result_bytes <= MAX_RESULT_BYTES:
        return findings
    executor[LIMIT] = bounds.max_result_bytes
    said = ""
    if executor.get("kind") not in KINDS:
        said = f"results above 64 kB are for the executor kinds `{'`, `'.join(KINDS)}`, leave `{LIMIT}` out"
    elif executor.get("stream", "buffered") != "buffered":
        said = f"an answer that is streamed has 64 kB at most, leave `{LIMIT}` or `stream` out"
    elif cache is not None:
        said = "a result above 64 kB is not cached, leave `cache` out"
    if said:
        findings.append(Finding(path, line_of(text, [GOVERNANCE, LIMIT]), "contract", "error", said))
    return findings


def _argument_limit(kind: str, path: str, text: str, most: int) -> list[Finding]:
    if most <= MAX_INTENT_BYTES or kind in LARGE_ARGUMENT_KINDS:
        return []
    said = f"arguments above 256 kB are for the executor kinds `{'`, `'.join(LARGE_ARGUMENT_KINDS)}`, leave `{ARGUMENT_LIMIT}` out"
    return [Finding(path, line_of(text, [GOVERNANCE, ARGUMENT_LIMIT]), "contract", "error", said)]
