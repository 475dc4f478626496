"""The customer's token, of an issuer made for this example. Yours is your login's, and its private key is not here."""

from __future__ import annotations

import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER, AUDIENCE, CUSTOMER = "https://login.example", "team", "emma"
_KEY = Ed25519PrivateKey.generate()


def jwks() -> dict[str, object]:
    """The issuer's public key, as `sluicegate issuers add --jwks` takes it."""
    found = jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key(), as_dict=True)
    return {"keys": [{**found, "kid": "k1", "use": "sig", "alg": "EdDSA"}]}


def token() -> str:
    """A token of the customer, for ten minutes."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": CUSTOMER, "iat": now, "exp": now + 600}
    return jwt.encode(claims, _KEY, algorithm="EdDSA", headers={"kid": "k1"})
