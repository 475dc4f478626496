"""Secrets: references in a contract's headers, fetched at the call and forgotten after it.

`${secret:env:NAME}`, `${secret:file:/absolute/path}`, and `${secret:KIND:...}` of `secret_plugins.py`. A release holds references only, so a secret is never on a
topic, in the ledger or in a log. What comes back from a tool is searched for the secrets of that call (`redact`).
Never caches: a rotated secret counts from the next call. Next: `http_template.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

from sluicegate.executors import secret_plugins

MIN_CHARS = 8
"""Shorter ones are refused: they could not be told from ordinary text when a tool echoes them."""
MAX_BYTES = 8_192
"""Longer ones fit no header."""
OWN_PREFIX, OWN_ALLOWED = "SLUICEGATE_", "SLUICEGATE_SECRET_"
"""Sluicegate's own variables (Kafka's password) are no tool's business, except those meant for tools."""
HIDDEN = "***"


class NoSecret(Exception):
    """A reference that gave no usable secret. The message names the reference, never what was found."""


async def fetch(reference: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret behind `env:NAME` or `file:PATH`. Raises `NoSecret`."""
    kind, _, place = reference.partition(":")
    if kind == "env" and place and not (place.startswith(OWN_PREFIX) and not place.startswith(OWN_ALLOWED)):
        secret = environ.get(place, "")
    elif kind == "file" and place.startswith("/"):
        secret = await asyncio.to_thread(_read, Path(place))
    elif place and kind not in ("env", "file"):
        try:
            secret = await secret_plugins.ask(kind, place, environ)
        except secret_plugins.NoPlugin as error:
            raise NoSecret(f"no secret for `{reference[:200]}`: {error}") from None
    else:
        raise NoSecret(
            f"`${{secret:{reference}}}` is no reference to a secret for tools, write `${{secret:env:NAME}}` or "
            "`${secret:file:/absolute/path}`"
        )
    if len(secret) < MIN_CHARS or not (secret.isascii() and secret.isprintable()):
        raise NoSecret(
            f"the secret `{reference}` is missing, shorter than {MIN_CHARS} characters or holds characters that no "
            "header may hold, set it where the executors run"
        )
    return secret


async def filled(
    headers: tuple[tuple[str, tuple[str, ...]], ...], environ: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Headers as `http_template.py` split them, with their secrets in place; and those secrets. Raises `NoSecret`."""
    found: dict[str, str] = {}
    secrets: list[str] = []
    for name, pieces in headers:
        value = list(pieces)
        for i in range(1, len(pieces), 2):
            value[i] = await fetch(pieces[i], environ)
            secrets.append(value[i])
        found[name.title()] = "".join(value)
    return found, secrets


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        # One trailing newline belongs to the file, not to the secret.
        text = data.decode("ascii").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(data) <= MAX_BYTES else ""


def forms(secret: str) -> set[str]:
    """A secret as it is and as JSON strings write it."""
    return {secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")}


def redact(data: bytes, secrets: list[str]) -> bytes:
    """`data` without the secrets, as they are and as JSON strings write them."""
    for secret in secrets:
        for form in forms(secret):
            data = data.replace(form.encode(), HIDDEN.encode())
    return data
