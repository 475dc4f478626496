"""What tells a duplicate from a conflict, where an id is used again. Pure. Next: `processors/pipeline.py` (who compares)."""

from __future__ import annotations

import hashlib

REQUEST_BYTES = 16


def request_digest(payload: bytes, request: str) -> bytes:
    """Digest of a record; where the client says what it asks for, of that instead: the record has the time it was made at, too."""
    told = b"request\0" + request.encode("utf-8", "replace") if request else payload
    return hashlib.sha256(told).digest()[:REQUEST_BYTES]
