"""For whom a session is: what a token must be, and that a bare name is none where the release wants proof."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from functools import cache

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.control.tokens import (
    LEEWAY_S,
    MAX_TOKEN_BYTES,
    Refused,
    Verified,
    public_keys,
    verify_token,
)
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.sessions.session import Session
from sluicegate.processors.state import session_key
from sluicegate.schemas import records as r

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_rederive import check

ISSUER, AUDIENCE = "https://login.example.com", "gate"


@cache
def private(algorithm: str) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


def jwk(algorithm: str, kid: str = "") -> dict[str, object]:
    kind = {"EdDSA": jwt.algorithms.OKPAlgorithm, "ES256": jwt.algorithms.ECAlgorithm, "RS256": jwt.algorithms.RSAAlgorithm}  # fmt: skip
    found: dict[str, object] = kind[algorithm].to_jwk(private(algorithm).public_key(), as_dict=True)  # type: ignore[arg-type, assignment]
    return {**found, **({"kid": kid} if kid else {}), "use": "sig", "alg": algorithm}


def driver(*algorithms: str, required: bool = False, prefix: str = "") -> Driver:
    d = Driver()
    if required:
        files = dict(release_files())
        files["release.yaml"] += "require_verified_user: true\n"
        d.deploy(compile_release(files), now=True)
    jwks = {"keys": [jwk(a, f"k-{a}") for a in algorithms or ("EdDSA", "ES256", "RS256")]}
    d.control_event("issuer.added", issuer=ISSUER, audience=AUDIENCE, keys=public_keys(jwks), prefix=prefix)
    return d


def token(d: Driver, algorithm: str = "EdDSA", *, key: object = None, headers: dict[str, object] | None = None, **claims: object) -> str:  # fmt: skip
    now = d.now // 1_000_000
    said: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "person-7",
        "iat": now,
        "exp": now + 300,
    }
    said = {k: v for k, v in {**said, **claims}.items() if v is not None}
    return jwt.encode(said, key or private(algorithm), algorithm, headers or {"kid": f"k-{algorithm}"})  # type: ignore[arg-type]


def opened(d: Driver, on_behalf_token: str, name: str = "", session: str = SESSION) -> Decision:
    message = r.Message(
        d.new_id("m"), AGENT, session, "session.open", d.now, "go", name, on_behalf_token=on_behalf_token
    )
    return d.feed("messages", message)


def session_of(d: Driver) -> Session:
    return d.state.sessions[session_key(AGENT, SESSION)]


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_token_names_the_user(algorithm: str) -> None:
    d = driver()
    outcome = opened(d, token(d, algorithm)).outcomes[0]
    assert (outcome.status, outcome.origin.subject) == ("opened", "person-7")
    session = session_of(d)
    assert (session.on_behalf_of, session.verified) == ("person-7", 1)
    found = check(d)
    assert found.different == 0


def test_a_prefix_keeps_issuers_apart() -> None:
    d = driver(prefix="acme:")
    opened(d, token(d))
    assert session_of(d).on_behalf_of == "acme:person-7"


def test_audiences_may_be_several_and_a_token_need_not_name_its_key() -> None:
    d = driver()
    opened(d, token(d, aud=["other", AUDIENCE], headers={}))
    assert session_of(d).verified


def test_the_name_beside_a_token_is_its_subject_or_none() -> None:
    d = driver()
    assert opened(d, token(d), "person-7", "s-1").outcomes[0].status == "opened"
    assert opened(d, token(d), "person-8", "s-2").outcomes[0].reason == "bad_token"


def unsigned(d: Driver) -> str:
    _, body, _ = token(d).split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{none}.{body}."


def by_public_key(d: Driver) -> str:
    """The public key as a shared secret: the classic confusion of algorithms."""
    public = private("RS256").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _, body, _ = token(d).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k-RS256"}').rstrip(b"=").decode()
    mac = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def altered(d: Driver) -> str:
    head, _, signature = token(d).split(".")
    body = token(d, sub="person-1").split(".")[1]
    return f"{head}.{body}.{signature}"


US = 1_000_000
WRONG: dict[str, tuple[Callable[[Driver], str], str]] = {
    "no token": (lambda d: "not.a.token", "no JWT"),
    "too long": (lambda d: "x" * (MAX_TOKEN_BYTES + 1), "more than"),
    "not signed": (unsigned, "no key"),
    "public key as a secret": (by_public_key, "no key"),
    "another key": (lambda d: token(d, key=Ed25519PrivateKey.from_private_bytes(bytes(32))), "no key"),
    "another algorithm of the same key": (lambda d: token(d, "RS512", key=private("RS256"), headers={"kid": "k-RS256"}), "no key"),
    "another key's name": (lambda d: token(d, headers={"kid": "k-RS256"}), "no key"),
    "claims of another token": (altered, "no key"),
    "another issuer": (lambda d: token(d, iss="https://evil.example.com"), "not registered"),
    "no issuer": (lambda d: token(d, iss=None), "not registered"),
    "another audience": (lambda d: token(d, aud="shop"), "audience"),
    "no audience": (lambda d: token(d, aud=None), "audience"),
    "expired": (lambda d: token(d, exp=d.now // US - LEEWAY_S - 2), "expired"),
    "for ever": (lambda d: token(d, exp=None), "exp"),
    "not yet": (lambda d: token(d, nbf=d.now // US + LEEWAY_S + 2), "not valid yet"),
    "time as text": (lambda d: token(d, nbf="soon"), "whole number"),
    "nobody": (lambda d: token(d, sub=None), "sub"),
    "an empty name": (lambda d: token(d, sub=""), "sub"),
    "a name with a line break": (lambda d: token(d, sub="a\nb"), "printable"),
    "a long name": (lambda d: token(d, sub="x" * 257), "256"),
    "a number": (lambda d: jwt.api_jws.encode(json.dumps({"iss": ISSUER, "aud": AUDIENCE, "sub": 7, "exp": d.now // US + 300}).encode(), private("EdDSA"), "EdDSA"), "sub"),
    "no claims": (lambda d: jwt.api_jws.encode(b"[1]", private("EdDSA"), "EdDSA"), "no JWT"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    """Refused where nobody asked for a token either: who shows one means it. The token is in no message."""
    d = driver()
    make, why = WRONG[name]
    text = make(d)
    outcome = opened(d, text).outcomes[0]
    assert (outcome.status, outcome.reason) == ("session_refused", "bad_token")
    found = verify_token(d.control, text, d.now)
    assert isinstance(found, Refused)
    assert why in found.detail
    assert text not in found.detail
    assert not d.state.sessions


def test_time_is_the_decisions() -> None:
    """The same token, later: no clock but `now` counts."""
    d = driver()
    text = token(d)
    assert isinstance(verify_token(d.control, text, d.now), Verified)
    assert isinstance(verify_token(d.control, text, d.now + (300 + LEEWAY_S) * US), Verified)
    assert isinstance(verify_token(d.control, text, d.now + (301 + LEEWAY_S) * US), Refused)


def test_an_issuer_that_was_removed_names_nobody() -> None:
    d = driver()
    text = token(d)
    d.control_event("issuer.removed", issuer=ISSUER)
    assert opened(d, text).outcomes[0].reason == "bad_token"


def test_keys_are_rotated_by_adding_the_issuer_again() -> None:
    d = driver("RS256")
    assert opened(d, token(d)).outcomes[0].reason == "bad_token"
    d.control_event(
        "issuer.added",
        issuer=ISSUER,
        audience=AUDIENCE,
        keys=public_keys({"keys": [jwk("EdDSA", "k-EdDSA")]}),
    )
    assert opened(d, token(d)).outcomes[0].status == "opened"
    assert opened(d, token(d, "RS256"), session="s-2").outcomes[0].reason == "bad_token"


# -- where proof is required ---------------------------------------------------------------------------------------


def test_bare_names() -> None:
    """They open nothing; and a session that was opened by one before the release wanted proof calls nothing."""
    d = driver()
    opened(d, "", "person-7", "before")
    d.control_event("agents.registered", agents=[])
    strict = driver(required=True)
    assert opened(strict, "", "person-7").outcomes[0].reason == "unverified_user"
    assert opened(strict, token(strict)).outcomes[0].status == "opened"
    assert strict.call().dispatches
    assert opened(strict, "", "", "nobody").outcomes[0].status == "opened", "nobody is no name"
    d.deploy(strict.control.release, now=True)  # type: ignore[arg-type]
    assert d.call(session="before").outcomes[-1].reason == "unverified_user"


def test_a_held_call_of_a_bare_name_is_not_approved_any_more() -> None:
    d = driver()
    opened(d, "", "person-7")
    held = d.call("desk.ask")
    d.deploy(driver(required=True).control.release, now=True)  # type: ignore[arg-type]
    assert "dispatched" not in [o.status for o in d.review(held).outcomes]


# -- keys ----------------------------------------------------------------------------------------------------------


def test_only_public_parts_are_kept() -> None:
    whole = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(private("EdDSA")))  # type: ignore[arg-type]
    assert "d" in whole
    [kept] = public_keys({"keys": [whole, {"kty": "oct", "k": "AAAA"}, {"kty": "OKP", "crv": "X25519"}]})
    assert set(json.loads(kept)) == {"kty", "crv", "x"}


@pytest.mark.parametrize("jwks", [{}, [], {"keys": []}, {"keys": [{"kty": "oct", "k": "AAAA"}]}, {"keys": [{"kty": "RSA"}]}, {"keys": [7]}])  # fmt: skip
def test_what_is_no_jwks(jwks: object) -> None:
    with pytest.raises(ValueError, match="key"):
        public_keys(jwks)


@given(st.text(max_size=300))
def test_any_text_is_judged(text: str) -> None:
    assert isinstance(verify_token(DRIVER.control, text, DRIVER.now), Refused)


@given(st.data())
def test_no_changed_character_is_believed(data: st.DataObject) -> None:
    """Any change of a token names nobody, or is the same token (the last character of base64 has unused bits)."""
    at = data.draw(st.integers(0, len(TOKEN) - 2))
    char = data.draw(st.sampled_from("abcXYZ019-_."))
    changed = TOKEN[:at] + char + TOKEN[at + 1 :]
    if changed != TOKEN:
        assert isinstance(verify_token(DRIVER.control, changed, DRIVER.now), Refused)


DRIVER = driver("EdDSA")
TOKEN = token(DRIVER)
