"""An issuer's keys, asked of a real server: bounds, rotation, and what nobody's token makes us do."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
import pytest
from aiohttp import web
from sluicegate.gateway.people import REVIEW, person_in
from sluicegate.processors.control.tokens import public_keys
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.streams.keys import oidc
from sluicegate.streams.keys.oidc import (
    AGAIN_S,
    LIFETIME_S,
    MAX_DOCUMENT_BYTES,
    MAX_KEYS,
    WELL_KNOWN,
    IssuerKeys,
    fetch,
)

from tests.driver import PERSON, Driver
from tests.unit.test_tokens import AUDIENCE, jwk, private


@dataclass
class Issuer:
    """A login's server.

    Attributes:
        about, keys: what its two documents say; `about` empty for the right one.
        asked: how many times its keys were read.
    """

    url: str = ""
    about: dict[str, object] = field(default_factory=dict)
    keys: object = field(default_factory=lambda: {"keys": [jwk("EdDSA", "k-EdDSA")]})
    asked: int = 0
    answer: Callable[[web.Request], Awaitable[web.Response]] | None = None

    async def discovery(self, request: web.Request) -> web.Response:
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.about})

    async def jwks(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(self.keys)


@asynccontextmanager
async def serving() -> AsyncIterator[Issuer]:
    issuer, app = Issuer(), web.Application()
    app.add_routes([web.get(WELL_KNOWN, issuer.discovery), web.get("/keys", issuer.jwks)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        await runner.cleanup()


def read(**changes: object) -> list[str]:
    """What is read of an issuer that is like this."""

    async def main() -> list[str]:
        async with serving() as issuer:
            for name, value in changes.items():
                setattr(issuer, name, value)
            return await fetch(issuer.url, {})

    return asyncio.run(main())


def test_what_it_publishes() -> None:
    assert read() == public_keys({"keys": [jwk("EdDSA", "k-EdDSA")]})
    both = [
        jwk("RS256", "a"),
        jwk("ES256", "b"),
        {"kty": "oct", "k": "AAAA"},
        {"kty": "OKP", "crv": "X25519"},
    ]
    assert len(read(keys={"keys": both})) == 2, "no shared secret is taken for a key"


async def _moved(request: web.Request) -> web.Response:
    raise web.HTTPFound("/keys")


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=b"{" + b" " * MAX_DOCUMENT_BYTES + b"}")


async def _text(request: web.Request) -> web.Response:
    return web.Response(body=b"hello")


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "another issuer's document": ({"about": {"issuer": "https://login.example.com"}}, "says that it is"),
    "no place for keys": ({"about": {"jwks_uri": 7}}, "jwks_uri"),
    "keys from a file": ({"about": {"jwks_uri": "file:///etc/passwd"}}, "is no address|not https"),
    "keys without tls": ({"about": {"jwks_uri": "http://login.example.com/keys"}}, "not https"),
    "keys behind a password": (
        {"about": {"jwks_uri": "https://a:b@login.example.com/keys"}},
        "is no address",
    ),
    "keys of a metadata service": ({"about": {"jwks_uri": "https://169.254.169.254/keys"}}, "inside address"),
    "no keys": ({"keys": {"keys": []}}, "no JWKS"),
    "private keys only": ({"keys": {"keys": [{"kty": "oct", "k": "AAAA"}]}}, "no JWKS"),
    "too many keys": ({"keys": {"keys": [jwk("EdDSA", str(n)) for n in range(MAX_KEYS + 1)]}}, "at most 20"),
    "a list": ({"keys": [1]}, "no JSON object"),
    "a redirect": ({"answer": _moved}, "answers 302"),
    "too large": ({"answer": _large}, "more than 65536 bytes"),
    "no json": ({"answer": _text}, "no JSON object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_issuer(name: str) -> None:
    changes, why = WRONG[name]
    with pytest.raises(SluicegateError, match=why):
        read(**changes)


def test_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(oidc, "TIMEOUT_S", 0.05)
    with pytest.raises(Retryable, match="did not answer"):
        read(answer=never)


@pytest.mark.parametrize(
    ("issuer", "why"),
    [
        ("http://login.example.com", "not https"), ("https://login.example.com?a=1", "query"), ("login", "is no address"),
        ("https://u:p@login.example.com", "is no address"), ("https://[", "is no address"), ("file:///etc", "is no address"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_asked(issuer: str, why: str) -> None:
    with pytest.raises(Terminal, match=why):
        asyncio.run(fetch(issuer, {}))


@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.7", "127.0.0.1", "::1", "64:ff9b::a00:7"])
def test_a_name_that_leads_inside(address: str) -> None:
    """Refused, whatever the name; but for a login that is inside, where the operator lists exactly it."""

    async def lookup(host: str, port: int) -> list[str]:
        return [address]

    with pytest.raises(Terminal, match="inside address"):
        asyncio.run(fetch("https://login.example.com", {}, lookup))
    with pytest.raises(Terminal, match="inside address"):  # a name alone is no such word
        asyncio.run(fetch("https://login.example.com", {"SLUICEGATE_EGRESS": "login.example.com"}, lookup))
    if address == "127.0.0.1":  # nobody speaks TLS there: it was asked
        listed = {"SLUICEGATE_EGRESS": "login.example.com:1"}
        with pytest.raises(Retryable, match="cannot be"):
            asyncio.run(fetch("https://login.example.com:1", listed, lookup))


# -- people at a gateway -----------------------------------------------------------------------------------------------


class Desk:
    """A gateway's control, which lets an issuer be asked, and a clock."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer, self.at = issuer, 0.0
        self.driver = Driver()
        self.driver.control_event(
            "people.registered", people=[{"person_id": PERSON, "name": "Ana", "roles": ["desk"]}]
        )
        keys = public_keys({"keys": [jwk("EdDSA", "k-EdDSA")]})
        self.driver.control_event(
            "issuer.added", issuer=issuer.url, audience=AUDIENCE, keys=keys, discover=True
        )
        self.newest = IssuerKeys(lambda: self.at, {})

    def token(self, algorithm: str = "EdDSA", kid: str = "", **claims: object) -> str:
        now = self.driver.now // 1_000_000
        said = {
            "iss": self.issuer.url,
            "aud": AUDIENCE,
            "sub": PERSON,
            "exp": now + 300,
            "scope": REVIEW,
            **claims,
        }
        return jwt.encode(said, private(algorithm), algorithm, {"kid": kid or f"k-{algorithm}"})  # type: ignore[arg-type]

    async def knows(self, token: str) -> bool:
        try:
            found = await person_in(self.driver.control, token, self.driver.now, self.newest)
        except web.HTTPUnauthorized:
            return False
        return found.person_id == PERSON


def at_a_desk(scenario: Callable[[Desk, Issuer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as issuer:
            await scenario(Desk(issuer), issuer)

    asyncio.run(main())


def test_a_rotation_is_followed_without_an_operator() -> None:
    async def scenario(desk: Desk, issuer: Issuer) -> None:
        old, new = desk.token(), desk.token("RS256")
        assert await desk.knows(old) and issuer.asked == 1
        issuer.keys = {"keys": [jwk("EdDSA", "k-EdDSA"), jwk("RS256", "k-RS256")]}
        assert not await desk.knows(new) and issuer.asked == 1, "it was asked a moment ago"
        desk.at += AGAIN_S + 1
        assert await desk.knows(new) and await desk.knows(old) and issuer.asked == 2
        issuer.keys = {"keys": [jwk("RS256", "k-RS256")]}
        assert await desk.knows(old), "kept for a while"
        desk.at += LIFETIME_S + 1
        assert await desk.knows(new)
        # Control has that key still: what the issuer took back counts for more.
        assert not await desk.knows(old)

    at_a_desk(scenario)


def test_tokens_of_unknown_keys_cost_an_issuer_one_question_a_minute() -> None:
    async def scenario(desk: Desk, issuer: Issuer) -> None:
        for minute in range(3):
            known = await asyncio.gather(
                *(desk.knows(desk.token("ES256", f"made-up-{n}")) for n in range(50))
            )
            assert not any(known) and issuer.asked == 1 + minute
            desk.at += AGAIN_S + 1

    at_a_desk(scenario)


def test_an_issuer_that_is_away_leaves_the_keys_in_control() -> None:
    async def scenario(desk: Desk, issuer: Issuer) -> None:
        issuer.answer = _text
        assert await desk.knows(desk.token()) and not await desk.knows(desk.token("RS256"))
        issuer.answer = None
        assert await desk.knows(desk.token()) and not issuer.asked, "asked a moment ago"
        desk.at += AGAIN_S + 1
        assert await desk.knows(desk.token()) and issuer.asked == 1
        issuer.answer = _text
        desk.at += LIFETIME_S + 1
        assert await desk.knows(desk.token()), "control's again"

    at_a_desk(scenario)


def test_no_token_that_is_wrong_gets_in_by_fetched_keys() -> None:
    async def scenario(desk: Desk, issuer: Issuer) -> None:
        issuer.keys = {"keys": [jwk("EdDSA", "k-EdDSA"), jwk("RS256", "k-RS256")]}
        good = desk.token()
        head, body, signature = good.split(".")

        def part(value: dict[str, str]) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        hs = part({"alg": "HS256", "kid": "k-RS256", "typ": "JWT"})
        secrets = [json.dumps(key).encode() for key in issuer.keys["keys"]]  # type: ignore[index]
        secrets += [key.encode() for key in public_keys(issuer.keys)]
        confused = [
            f"{hs}.{body}.{base64.urlsafe_b64encode(hmac.digest(s, f'{hs}.{body}'.encode(), 'sha256')).rstrip(b'=').decode()}"
            for s in secrets
        ]
        wrong = [
            f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.", f"{head}.{body}.", f"{head}.{body}.AAAA", *confused,
            desk.token(aud="else"), desk.token(iss="https://login.example.com"), desk.token("RS256", "k-EdDSA"),
            desk.token("ES256"), desk.token(exp=1), f"{part({'alg': 'RS256', 'kid': 'k-EdDSA'})}.{body}.{signature}", "a.b.c", "",
        ]  # fmt: skip
        assert await desk.knows(good)
        for token in wrong:
            assert not await desk.knows(token), token
        assert issuer.asked <= 2

    at_a_desk(scenario)


def test_an_issuer_that_was_added_by_a_file_is_never_asked() -> None:
    async def scenario(desk: Desk, issuer: Issuer) -> None:
        keys = public_keys({"keys": [jwk("EdDSA", "k-EdDSA")]})
        desk.driver.control_event("issuer.added", issuer=issuer.url, audience=AUDIENCE, keys=keys)
        issuer.keys = {"keys": [jwk("RS256", "k-RS256")]}
        assert await desk.knows(desk.token()) and not await desk.knows(desk.token("RS256"))
        desk.driver.control_event("issuer.removed", issuer=issuer.url)
        assert not await desk.knows(desk.token()) and not issuer.asked

    at_a_desk(scenario)
