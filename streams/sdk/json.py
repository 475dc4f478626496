"""JSON for the agent SDK: what goes out is exact or refused, never quietly changed.

Never canonicalises: the pipeline does (`processors/conform.py`). Read next: `client.py`.
"""

from __future__ import annotations

import math
from typing import TypeAlias, cast

import orjson

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""Any JSON value."""


def dumps(value: object) -> bytes:
    """UTF-8 JSON. Raises `ValueError` for what JSON cannot hold exactly, NaN and infinities too."""
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # a TypeError
        raise ValueError(str(error)) from error
    # orjson writes NaN as null, and a null that nobody wrote would be decided on.
    if b"null" in data and not _finite(value):
        raise ValueError("NaN and infinities are not JSON")
    return data


def loads(data: bytes) -> Json:
    """The value of JSON bytes. Raises `ValueError`."""
    return cast(Json, orjson.loads(data))


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True
