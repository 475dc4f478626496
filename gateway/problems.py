"""What a door says when there is no result: one JSON shape for every error, and a status for every end of an intent.

    {"error": {"code": "forbidden", "message": "...", "stage": "authorize", "policies": [...], "intent_id": "..."}}

`message` is for the developer, `for_model` for a language model. Never a stack, never a secret. Next: `doors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import web
from sluicegate.streams.sdk.errors import (
    Expired,
    Failed,
    InDoubt,
    NotReleased,
    Parked,
    Unanswered,
    Withheld,
)

JSON = "application/json"
MAX_SHOWN_CHARS = 100
"""Of what somebody sent, in a message."""

_CLASSES: dict[int, type[web.HTTPException]] = {
    400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 403: web.HTTPForbidden, 404: web.HTTPNotFound,
    408: web.HTTPRequestTimeout, 409: web.HTTPConflict, 410: web.HTTPGone,
    415: web.HTTPUnsupportedMediaType, 422: web.HTTPUnprocessableEntity,
    429: web.HTTPTooManyRequests, 502: web.HTTPBadGateway, 503: web.HTTPServiceUnavailable, 504: web.HTTPGatewayTimeout,
}  # fmt: skip
BAD_INPUT = (
    "arguments_not_json", "arguments_too_deep", "schema_violation", "not_representable", "duplicate_key", "malformed_record",
    "bad_identifier", "too_large",
)  # fmt: skip
"""Reasons that say the request itself is wrong: 400."""
AWAY = ("unavailable", "overloaded", "control_stale")
"""Reasons that say nothing about the request: 503, and it may be sent again."""


def problem(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **more: object
) -> web.HTTPException:
    """An error answer, to be raised."""
    text = orjson.dumps({"error": {"code": code, "message": message, **more}}).decode()
    if status == 413:
        return web.HTTPRequestEntityTooLarge(0, 0, text=text, content_type=JSON, headers=headers)
    return _CLASSES[status](text=text, content_type=JSON, headers=headers)


def plain(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """The same as an answer that is not raised."""
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


def status_of(error: NotReleased) -> int:
    """The HTTP status of an intent without a result."""
    if isinstance(error, Parked):
        return 202
    if isinstance(error, Unanswered):
        return 504
    if isinstance(error, Expired):
        return 410
    if isinstance(error, InDoubt):
        return 409
    if isinstance(error, Failed | Withheld):
        return 502
    if error.reason in AWAY:
        return 503
    if error.reason == "id_conflict":
        return 409  # the id is of another request: `GET /v1/intents/{id}` tells how that one ended
    if error.reason in ("rate_limited", "limit_reached"):
        return 429
    return 400 if error.reason in BAD_INPUT else 403


def about(error: NotReleased) -> dict[str, object]:
    """What is said of an intent without a result."""
    return {
        "code": error.reason, "message": str(error), "status": error.status, "stage": error.stage,
        "policies": list(error.policies), "intent_id": error.intent_id, "for_model": error.for_model,
        "for_developer": error.for_developer,
    }  # fmt: skip


def no_result(error: NotReleased) -> web.Response:
    """The answer to a request whose intent has no result."""
    status = status_of(error)
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return web.Response(
        status=status, body=orjson.dumps({"error": about(error)}), content_type=JSON, headers=headers
    )
