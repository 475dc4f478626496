"""A contract's http executor object, compiled once: where a call goes and what it carries.

    {"kind": "http", "method": "POST", "url": "${TOOLS_URL}/x/{id}", "headers": {...}, "body": {...}, "result": "/data/0"}

`${NAME}` comes only from the names given to the adapter; `{argument}` is quoted, and stands in path or query only, so
an argument can neither choose the host nor climb out of its path segment. Headers may hold `${secret:...}`.
Never touches the network. Next: `http_body.py`, `http.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import quote, unquote, urlencode, urlsplit

import orjson
from sluicegate.executors.http_body import ENCODINGS, BadBody, Body, compile_body
from sluicegate.executors.retries import retries_of
from yarl import URL

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
WITH_BODY = ("POST", "PUT", "PATCH")

_NAME = re.compile(r"\$\{([^}]*)\}")
_ARGUMENT = re.compile(r"\{([^{}]+)\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KEPT = "/:@!$&'()*+,;=?~%"  # what a contract's author may have written on purpose
_OURS = (
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "idempotency-key",
    "traceparent",
    "callback-url",
)
_OUR_PREFIX = "x-sluicegate-"


class BadTemplate(Exception):
    """An executor object, or arguments, that make no request. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled executor object.

    Attributes:
        target: path and query, split at its arguments: text, argument, text, ...
        headers: name and value, split at its secret references: text, reference, text, ...
        pointer: RFC 6901, where in the answer the result is; None = the usual place.
        retries: how often the same request may be made again inside one attempt (`retries.py`).
        fixed: the address, where no call changes it.
        body: what a request carries, None where it is the call's arguments as they are.
        media_type: of that.
    """

    method: str
    host: str
    port: int
    base: str
    target: tuple[str, ...]
    headers: tuple[tuple[str, tuple[str, ...]], ...]
    pointer: tuple[str, ...] | None
    retries: int = 0
    fixed: URL | None = None
    body: Body | None = None
    media_type: str = ENCODINGS["json"]

    def carried(self, canonical: bytes, arguments: Mapping[str, object]) -> bytes | None:
        """The body of one call, whose arguments are `canonical`. Raises `BadTemplate`."""
        if self.method not in WITH_BODY:
            return None
        if self.body is None:
            return canonical
        try:
            return self.body.filled(arguments)
        except BadBody as error:
            raise BadTemplate(str(error)) from error

    def url(self, arguments: Mapping[str, object]) -> URL:
        """The address of one call. Raises `BadTemplate`."""
        if self.fixed is not None:
            return self.fixed
        used = self.target[1::2]
        parts = list(self.target)
        for i, name in enumerate(used):
            if name not in arguments:
                raise BadTemplate(f"the url needs the argument `{name}`, which the call does not have")
            parts[2 * i + 1] = quote(_text(arguments[name]), safe="")
        path, mark, query = "".join(parts).partition("?")
        # Dots need no quoting, but a segment of dots would be another path.
        if any(unquote(segment) in (".", "..") for segment in path.split("/")):
            raise BadTemplate("an argument makes `.` or `..` of a path segment, call with another value")
        if self.method not in WITH_BODY:
            rest = [(name, _text(value)) for name, value in arguments.items() if name not in used]
            query = "&".join(part for part in (query, urlencode(rest, quote_via=quote)) if part)
            mark = "?" if query else ""
        return URL(self.base + path + mark + query, encoded=True)


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def compile_template(executor: bytes, names: Mapping[str, str]) -> Template:
    """Compile an executor object; `names` are what `${NAME}` may be. Raises `BadTemplate`."""
    try:
        raw = orjson.loads(executor)
    except orjson.JSONDecodeError as error:
        raise BadTemplate("the contract's executor object is no json") from error
    if not isinstance(raw, dict):
        raise BadTemplate("the contract's executor is no object")
    method = str(raw.get("method", "POST")).upper()
    if method not in METHODS:
        raise BadTemplate(f"method `{method[:20]}` is not one of {', '.join(METHODS)}")
    url = _named(str(raw.get("url", "")), names)
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise BadTemplate(f"the url `{url}` has no usable port") from error
    # INVARIANT: no argument can choose the host (tests/unit/test_http_adapter.py).
    plain = parts.netloc.isascii() and not set(parts.netloc) & set("{}@ \\")
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or parts.fragment:
        raise BadTemplate(f"the url `{url}` must be http(s)://host/path, with arguments after the host only")
    pieces = _ARGUMENT.split(url[len(parts.scheme) + 3 + len(parts.netloc) :])
    target = tuple(p if i % 2 else quote(p, safe=_KEPT) for i, p in enumerate(pieces))
    if not target[0].startswith("/"):
        target = ("/" + target[0], *target[1:])
    base = f"{parts.scheme}://{parts.netloc}"
    body, media_type = _body(raw, method)
    template = Template(
        method,
        parts.hostname,
        port,
        base,
        target,
        _headers(raw.get("headers"), names),
        pointer(raw.get("result")),
        retries_of(raw),
        body=body,
        media_type=media_type,
    )
    if len(target) > 1 or method not in WITH_BODY:
        return template
    return replace(template, fixed=template.url({}))


def _body(raw: dict[str, object], method: str) -> tuple[Body | None, str]:
    if method not in WITH_BODY and ("body" in raw or "encoding" in raw):
        raise BadTemplate(f"`{method}` carries no body, leave `body` and `encoding` out")
    try:
        return compile_body(raw)
    except BadBody as error:
        raise BadTemplate(str(error)) from error


def _named(text: str, names: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in names:
            raise BadTemplate(
                f"`${{{name[:60]}}}` is not set: set SLUICEGATE_TOOL_{name[:60]} where the executors run"
            )
        return names[name]

    return _NAME.sub(value, text)


def _headers(raw: object, names: Mapping[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, dict):
        raise BadTemplate("the headers of the contract are no object of texts")
    headers = []
    for name, value in cast("dict[str, object]", raw).items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS or name.lower().startswith(_OUR_PREFIX):
            raise BadTemplate(f"header `{name[:60]}` cannot be set by a contract")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise BadTemplate(f"header `{name}` has a value that no header may hold")
        pieces = re.split(r"\$\{secret:([^}]*)\}", value)
        headers.append((name, tuple(p if i % 2 else _named(p, names) for i, p in enumerate(pieces))))
    return tuple(headers)


def pointer(raw: object) -> tuple[str, ...] | None:
    """A JSON pointer's parts; None when there is none. Raises `BadTemplate`."""
    if raw is None:
        return None
    if not isinstance(raw, str) or (raw and not raw.startswith("/")):
        raise BadTemplate("`result` is no JSON pointer, write for example `/data/0`")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in raw.split("/")[1:])


def point(value: object, pointer: tuple[str, ...]) -> object:
    """What a JSON pointer names. Raises `LookupError`."""
    for part in pointer:
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, list) and part.isdecimal():
            value = value[int(part)]
        else:
            raise LookupError(part)
    return value
