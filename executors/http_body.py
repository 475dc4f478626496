"""What a request of the kind `http` carries where the contract says more than "all arguments as JSON".

    "body": {"refund": {"amount": "{amount}", "note": "asked for by {who}"}}
    "encoding": "form"                                   # application/x-www-form-urlencoded instead of JSON

A text that is one `{argument}` and nothing else becomes that argument's value, whatever its type; in a longer text it
stands as text. What names an argument that the call does not have is left out, so optional ones need no second contract.
Without `body` it is all arguments. Never holds a secret: those stand in headers only. Pure. Next: `http_template.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlencode

import orjson

ENCODINGS = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
MAX_BODY_BYTES = 8 * 2**20
"""Arguments have 4 MB at most, and a contract may name one twice."""
MAX_LEVELS = 64
"""As deep as arguments may be."""

_ARGUMENT = re.compile(r"\{([^{}]+)\}")


class BadBody(ValueError):
    """A `body` that means nothing, or arguments it makes no body of."""


class _Missing:
    """An argument that the call does not have."""


_MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Body:
    """A compiled body. `shape`: what the contract says, or None for all arguments."""

    shape: object
    form: bool

    def filled(self, arguments: Mapping[str, object]) -> bytes:
        """The bytes of one call. Raises `BadBody`."""
        value = dict(arguments) if self.shape is None else _fill(self.shape, arguments)
        if isinstance(value, _Missing):
            raise BadBody(f"the body needs the argument {self.shape}, which the call does not have")
        body = _form(value) if self.form else orjson.dumps(value)
        if len(body) > MAX_BODY_BYTES:
            raise BadBody(f"the body has {len(body)} bytes, more than {MAX_BODY_BYTES}")
        return body


def compile_body(executor: Mapping[str, object]) -> tuple[Body | None, str]:
    """The body of an executor object, None where it is all arguments as JSON; and its media type. Raises `BadBody`."""
    encoding = executor.get("encoding", "json")
    if not isinstance(encoding, str) or encoding not in ENCODINGS:
        raise BadBody(f"`encoding` is one of {', '.join(ENCODINGS)}")
    shape, form = executor.get("body"), encoding == "form"
    if form and not isinstance(shape, dict | None):
        raise BadBody("a form's `body` is an object of its fields")
    _check(shape, 1)
    return (Body(shape, form) if form or shape is not None else None), ENCODINGS[encoding]


def _check(value: object, level: int) -> None:
    if level > MAX_LEVELS:
        raise BadBody(f"`body` has more than {MAX_LEVELS} levels")
    if isinstance(value, str) and "${" in value:  # else a secret that was meant would go out as its name
        raise BadBody("`body` holds `${`: names and secrets stand in the url and in headers only")
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in below:
        _check(part, level + 1)


def _fill(shape: object, arguments: Mapping[str, object]) -> object:
    if isinstance(shape, dict):
        pairs = ((k, _fill(v, arguments)) for k, v in cast("dict[str, object]", shape).items())
        return {k: v for k, v in pairs if not isinstance(v, _Missing)}
    if isinstance(shape, list):
        parts = (_fill(v, arguments) for v in shape)
        return [v for v in parts if not isinstance(v, _Missing)]
    return _text(shape, arguments) if isinstance(shape, str) else shape


def _text(text: str, arguments: Mapping[str, object]) -> object:
    names = _ARGUMENT.findall(text)
    if any(name not in arguments for name in names):
        return _MISSING
    # INVARIANT: an argument is a value and never read as a template (tests/unit/test_http_body.py::test_an_argument_is_a_value_and_never_a_template).
    if len(names) == 1 and text == "{" + names[0] + "}":
        return arguments[names[0]]
    return _ARGUMENT.sub(lambda match: _plain(arguments[match[1]]), text) if names else text


def _plain(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _form(value: object) -> bytes:
    fields: list[tuple[str, str]] = []
    for name, one in cast("dict[str, object]", value).items():
        many = one if isinstance(one, list) else [] if one is None else [one]
        fields += [(name, _plain(part)) for part in many]
    return urlencode(fields, quote_via=quote).encode()
