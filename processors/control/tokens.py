"""For whom a session is, from a token that a registered issuer signed.

A channel may put a JWT into `session.open`. Its signature is checked against the issuer's keys in control, its times
against the decision's own `now`: the same token, control and time always give the same answer, so replay does too.
The algorithm is the key's, never the token's word alone; there is no `none` and no shared secret.
Library: PyJWT (docs/decisions/0009-tokens.md). Never fetches keys (`streams/keys/oidc.py` does). Next: `sessions/sessions.py` (who asks).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import jwt

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control
    from sluicegate.processors.control.registry import Issuer

ALGORITHMS = {"Ed25519": "EdDSA", "P-256": "ES256", "RSA": "RS256"}
"""Curve or type of a key -> the one algorithm it is used with."""

MAX_TOKEN_BYTES = 8 * 1024
LEEWAY_S = 60
"""Clocks of issuer and ledger may differ by this much."""
MAX_ID_CHARS = 256
MAX_SCOPES = 100
MAX_PARSED = 256
"""Keys of issuers that are kept ready, about 2 kB each: 0.5 MB."""

Claims = dict[str, object]


@dataclass(frozen=True, slots=True)
class Verified:
    """Whom the token names, and what it is for: the words of `scope` (RFC 8693) or `scp`."""

    on_behalf_of: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it names nobody: one sentence, without the token.

    Attributes:
        issuer: of whose keys none verifies it; empty where it is another reason.
    """

    detail: str
    issuer: str = ""


def verify_token(control: Control, token: str, now_us: int) -> Verified | Refused:
    """Check a token by the keys in control. Never raises."""
    return verify_by(control.issuers, token, now_us)


def verify_by(issuers: Mapping[str, Issuer], token: str, now_us: int) -> Verified | Refused:
    """Check a token by the keys of these issuers. Never raises."""
    if len(token) > MAX_TOKEN_BYTES:
        return Refused(f"the token has more than {MAX_TOKEN_BYTES} bytes")
    try:
        header = jwt.get_unverified_header(token)
        # Read to find the issuer; believed only after the signature was checked below.
        said = cast(Claims, jwt.decode(token, options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return Refused("it is no JWT")
    issuer = issuers.get(str(said.get("iss", "")))
    if issuer is None:
        return Refused(f"issuer `{str(said.get('iss', ''))[:80]}` is not registered")
    claims = _signed(issuer, token, header.get("kid"), str(header.get("alg", "")))
    if claims is None:
        return Refused(f"no key of issuer `{issuer.issuer}` verifies it", issuer.issuer)
    return _judged(issuer, claims, now_us // 1_000_000)


def issuer_of(token: str) -> str:
    """Whose token it says it is, unverified: to look for the keys that may verify it. Never raises."""
    try:
        said = cast(Claims, jwt.decode(token[: MAX_TOKEN_BYTES + 1], options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return ""
    return str(said.get("iss", ""))


def _signed(issuer: Issuer, token: str, kid: object, algorithm: str) -> Claims | None:
    """The claims, when one of the issuer's keys signed them by the algorithm that belongs to it."""
    for text in issuer.keys:
        key = cast(Claims, json.loads(text))
        # INVARIANT: the algorithm is bound to the key (tests/unit/test_tokens.py::test_wrong).
        if algorithm_of(key) != algorithm or kid not in (None, key.get("kid", kid)):
            continue
        try:
            return cast(
                Claims,
                jwt.decode(
                    token, _parsed(text, algorithm).key, algorithms=[algorithm],
                    options={
                        "verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                        "verify_aud": False, "verify_iss": False, "verify_sub": False, "verify_jti": False,
                    },
                ),
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
    return None


def _judged(issuer: Issuer, claims: Claims, now_s: int) -> Verified | Refused:
    """Audience, times and subject, by the time of the decision."""
    audience = claims.get("aud")
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        return Refused(f"its audience is not `{issuer.audience}`")
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if type(expires) is not int or type(begins) is not int:
        return Refused("it has no `exp`, or a time that is no whole number")
    if now_s > expires + LEEWAY_S:
        return Refused("it has expired")
    if now_s < begins - LEEWAY_S:
        return Refused("it is not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        return Refused("it has no `sub`")
    name = issuer.prefix + subject
    if len(name) > MAX_ID_CHARS or not name.isprintable():
        return Refused("its `sub` is not 1 to 256 printable characters")
    return Verified(name, _scopes(claims))


def _scopes(claims: Claims) -> tuple[str, ...]:
    found = claims.get("scope", claims.get("scp", ""))
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(word for word in words if isinstance(word, str))[:MAX_SCOPES]


@lru_cache(maxsize=MAX_PARSED)
def _parsed(key: str, algorithm: str) -> jwt.PyJWK:
    """A key ready for use: reading one takes longer than checking a signature with it."""
    return jwt.PyJWK(cast(Claims, json.loads(key)), algorithm)


def algorithm_of(key: Claims) -> str:
    """The algorithm of a public JWK, or an empty string for a key that is not used."""
    kind = key.get("kty")
    return ALGORITHMS.get(str(key.get("crv") if kind in ("OKP", "EC") else kind), "")


def public_keys(jwks: object) -> list[str]:
    """The keys of a JWKS that can be used, each as canonical JSON without private parts. Raises `ValueError`."""
    found = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(found, list):
        raise ValueError("it has no list `keys`")
    usable = []
    for key in found:
        algorithm = algorithm_of(key) if isinstance(key, dict) else ""
        if not algorithm or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
            continue
        public = {name: key[name] for name in ("kty", "crv", "x", "y", "n", "e", "kid") if name in key}
        try:
            jwt.PyJWK(public, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise ValueError(f"key `{str(key.get('kid', ''))[:40]}` is not a public key") from error
        usable.append(json.dumps(public, sort_keys=True, separators=(",", ":")))
    if not usable:
        raise ValueError("none of its keys is Ed25519, P-256 or RSA")
    return usable
