"""An issuer's keys, from the issuer: OpenID Connect discovery, with bounds.

    ISSUER/.well-known/openid-configuration ▸ `issuer` is that one? ▸ `jwks_uri` ▸ public keys

https only, but for an issuer on this machine's loopback. Each name is resolved once and the very address is checked: an address inside
is refused unless `SLUICEGATE_EGRESS` lists exactly that `host:port`. No redirect, no proxy, bounded in bytes, keys and time.
Never verifies a token and never writes control. Next: `control/identities.py` (commands that register keys), `gateway/people.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import orjson
from sluicegate.executors.adapter import Failed
from sluicegate.executors.egress import Egress, Lookup, system_lookup
from sluicegate.executors.wire import Target, Wire
from sluicegate.processors.control.control import MAX_ISSUERS
from sluicegate.processors.control.tokens import public_keys
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from yarl import URL

WELL_KNOWN = "/.well-known/openid-configuration"
MAX_DOCUMENT_BYTES = 65_536
"""Of each of the two documents; large issuers' have 2 to 8 kB."""
MAX_KEYS = 20
"""Of one issuer, as many as control keeps: each one that fits a token costs a verification."""
TIMEOUT_S = 5.0
"""For each of the two requests."""
LIFETIME_S = 3_600.0
"""A key that the issuer took back is believed for this long at the most, while the issuer can be reached."""
AGAIN_S = 60.0
"""Between two looks at one issuer, whatever tokens come: a token with an unknown key costs its issuer nothing."""

log = logging.getLogger("sluicegate.oidc")


async def fetch(
    issuer: str, environ: Mapping[str, str] = os.environ, lookup: Lookup = system_lookup
) -> list[str]:
    """The public keys that an issuer publishes now. Raises `Terminal` for what is none, `Retryable` for one that is away."""
    if "?" in issuer or "#" in issuer:
        raise Terminal(f"issuer `{issuer[:80]}` has a query or a fragment: name it as its tokens' `iss` does")
    about = await _document(issuer.rstrip("/") + WELL_KNOWN, issuer, environ, lookup)
    # INVARIANT: a document of another issuer gives nobody keys (tests/unit/test_oidc.py).
    if about.get("issuer") != issuer:
        raise Terminal(
            f"`{issuer[:80]}` says that it is `{str(about.get('issuer'))[:80]}`: add the issuer by that name"
        )
    place = about.get("jwks_uri")
    if not isinstance(place, str):
        raise Terminal(f"`{issuer[:80]}` names no `jwks_uri`: give its keys as a file, --jwks")
    try:
        keys = public_keys(await _document(place, issuer, environ, lookup))
    except ValueError as error:
        raise Terminal(f"`{place[:200]}` is no JWKS with public keys: {str(error)[:200]}") from error
    if len(keys) > MAX_KEYS:
        raise Terminal(f"`{place[:200]}` has {len(keys)} keys, at most {MAX_KEYS} are kept")
    return keys


async def _document(place: str, issuer: str, environ: Mapping[str, str], lookup: Lookup) -> dict[str, object]:
    url = _checked(place, issuer)
    host, port = str(url.host), int(url.port or 0)
    # The name itself is allowed; an address inside only where the list has exactly this host and port, or the issuer is one of loopback.
    own = f"[{host}]" if ":" in host else host
    rules = [own, environ.get("SLUICEGATE_EGRESS", "")] + ([f"{own}:{port}"] if _loopback(url) else [])
    wire = Wire(Egress(",".join(rules)), lookup)
    try:
        answer = await wire.exchange(
            Target("GET", url, host, port),
            {"Accept": "application/json"},
            None,
            limit=MAX_DOCUMENT_BYTES,
            timeout_s=TIMEOUT_S,
        )
    finally:
        await wire.close()
    if isinstance(answer, Failed):
        kind = Terminal if answer.error_class == "egress_denied" else Retryable
        raise kind(f"`{place[:200]}` cannot be read: {answer.error}")
    if answer.status != 200 or not answer.whole:
        said = (
            f"answers {answer.status}"
            if answer.status != 200
            else f"has more than {MAX_DOCUMENT_BYTES} bytes"
        )
        raise Retryable(f"`{place[:200]}` {said}: give the keys as a file, --jwks")
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Terminal(f"`{place[:200]}` is no JSON object: give the keys as a file, --jwks")
    return cast("dict[str, object]", found)


def _checked(place: str, issuer: str) -> URL:
    """An address that may be asked. Raises `Terminal`."""
    try:
        url, base = URL(place), URL(issuer)
    except ValueError:
        url = base = URL()
    if not url.host or url.user is not None or url.fragment:
        raise Terminal(f"`{place[:200]}` is no address of an issuer: write https://HOST/...")
    # INVARIANT: keys come over TLS, or from this machine for an issuer on this machine (tests/unit/test_oidc.py).
    if url.scheme != "https" and not (url.scheme == "http" and _loopback(url) and _loopback(base)):
        raise Terminal(f"`{place[:200]}` is not https: keys that anybody on the way may replace are nobody's")
    return url


def _loopback(url: URL) -> bool:
    try:
        return ipaddress.ip_address(str(url.host)).is_loopback
    except ValueError:
        return url.host == "localhost"


@dataclass(slots=True)
class _Known:
    """What is known of one issuer. `looked`: when it was last asked, `at`: when it last answered."""

    keys: tuple[str, ...] = ()
    at: float = float("-inf")
    looked: float = float("-inf")
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeys:
    """Keys of issuers, kept for `LIFETIME_S` and asked for anew at most every `AGAIN_S`. Belongs to one event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._clock, self._environ, self._lookup = clock, environ, lookup
        self._known: dict[str, _Known] = {}

    async def of(self, issuer: str, *, newer: bool = False) -> tuple[str, ...]:
        """Its keys; none while it cannot be asked. `newer`: those at hand do not verify a token, look again if that may be.

        Call it for registered issuers only: `MAX_ISSUERS` are remembered, about 40 kB each at the most, 4 MB.
        """
        known = self._known.get(issuer)
        if known is None:
            if len(self._known) >= MAX_ISSUERS:  # some were removed meanwhile
                del self._known[next(iter(self._known))]
            known = self._known[issuer] = _Known()
        if newer or self._clock() - known.at > LIFETIME_S:
            async with known.asking:  # who waited finds that somebody looked
                # INVARIANT: no token makes us ask more often (tests/unit/test_oidc.py).
                if self._clock() - known.looked > AGAIN_S:
                    await self._look(issuer, known)
        return known.keys if self._clock() - known.at <= LIFETIME_S else ()

    async def _look(self, issuer: str, known: _Known) -> None:
        known.looked = self._clock()
        try:
            known.keys, known.at = tuple(await fetch(issuer, self._environ, self._lookup)), known.looked
        except SluicegateError as error:
            log.warning("keys of issuer `%s` were not fetched: %s", issuer[:80], error)
