"""Which person asks at the gateway: tokens are checked as everywhere, are for reviews, and name somebody who is registered."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from pathlib import Path

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway.context import GATE
from sluicegate.gateway.people import PERSON_RATE_PER_S, REVIEW, Reviewer, person_in, reviewer_of
from sluicegate.processors.control.api_keys import digest_of, token_of
from sluicegate.processors.control.registry import Person
from sluicegate.streams.keys.oidc import IssuerKeys

from tests.driver import AGENT, PERSON, Driver
from tests.unit import test_tokens as tokens
from tests.unit.test_gateway_access import a_gate
from tests.unit.test_tokens import ISSUER

US = 1_000_000
KEY: dict[str, object] = {
    "key_id": "p",
    "sha256": digest_of("s"),
    "agent_id": AGENT,
    "scopes": ["person"],
    "rate_per_s": 100,
    "not_after": 2**53 - 1,
}
API_KEY = token_of("test", "p", "s")


def driver() -> Driver:
    d = tokens.driver()
    d.control_event("api_key.added", **KEY)
    d.control_event("api_key.added", **{**KEY, "key_id": "a", "scopes": ["agent", "channel"]})
    return d


def token(d: Driver, algorithm: str = "EdDSA", **claims: object) -> str:
    return tokens.token(d, algorithm, **{"sub": PERSON, "scope": f"openid {REVIEW}", **claims})  # type: ignore[arg-type]


def asked(d: Driver, home: Path, **headers: str) -> Reviewer:
    app = web.Application()
    app[GATE] = a_gate(d, home)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(reviewer_of(make_mocked_request("GET", "/v1/approvals", headers=given, app=app)))


def test_a_person_alone_and_behind_a_program(tmp_path: Path) -> None:
    d = driver()
    alone = asked(d, tmp_path, Authorization=f"Bearer {token(d)}")
    assert (alone.person.person_id, alone.tenant) == (PERSON, "")
    behind = asked(
        d,
        tmp_path,
        Authorization=f"Bearer {API_KEY}",
        x_sluicegate_person=token(d, "RS256", scope=None, scp=[REVIEW]),
    )
    assert behind.person.person_id == PERSON and behind.tenant == d.control.agents[AGENT].tenant


def test_what_says_for_whom_an_agent_works_approves_nothing(tmp_path: Path) -> None:
    d = driver()
    for scope in (None, "", "openid profile", f"x{REVIEW}", [7], {"a": 1}):
        with pytest.raises(web.HTTPForbidden) as refused:
            asked(d, tmp_path, Authorization=f"Bearer {token(d, scope=scope)}")
        assert "scope_missing" in str(refused.value.text)


def forged(d: Driver) -> dict[str, str]:
    """Tokens that nobody may believe."""
    claims = jwt.decode(token(d), options={"verify_signature": False})
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    public = json.loads(d.control.issuers[ISSUER].keys[2])
    hs = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k-RS256","typ":"JWT"}').rstrip(b"=").decode()
    mac = hmac.digest(json.dumps(public).encode(), f"{hs}.{body}".encode(), "sha256")
    confused = f"{hs}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    head, _, tail = token(d).rpartition(".")
    return {
        "none": f"{none}.{body}.", "a secret that is public": confused, "changed": f"{head[:-4]}AAAA.{tail}", "no token": "a.b.c",
        "another audience": token(d, aud="else"), "another issuer": token(d, iss="https://evil.example"),
        "expired": token(d, exp=d.now // US - 120), "not yet": token(d, nbf=d.now // US + 600), "no end": token(d, exp=None),
        "a key of the agent": API_KEY,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(forged(driver())))
def test_tokens_that_name_nobody(name: str, tmp_path: Path) -> None:
    d = driver()
    with pytest.raises(web.HTTPUnauthorized) as refused:
        asked(d, tmp_path, Authorization=f"Bearer {forged(d)[name]}")
    assert "WWW-Authenticate" in refused.value.headers and forged(d)[name][:40] not in str(refused.value.text)


def test_skewed_clocks_are_forgiven_a_little() -> None:
    d = driver()
    assert (
        asyncio.run(
            person_in(d.control, token(d, exp=d.now // US - 30, nbf=d.now // US - 100), d.now, IssuerKeys())
        ).person_id
        == PERSON
    )


def test_somebody_who_is_not_registered_or_was_removed(tmp_path: Path) -> None:
    d = driver()
    with pytest.raises(web.HTTPForbidden) as refused:
        asked(d, tmp_path, Authorization=f"Bearer {token(d, sub='nobody')}")
    assert "unknown_person" in str(refused.value.text)


def test_keys_that_are_no_persons(tmp_path: Path) -> None:
    d = driver()
    agents = token_of("test", "a", "s")
    with pytest.raises(web.HTTPForbidden):
        asked(d, tmp_path, Authorization=f"Bearer {agents}", x_sluicegate_person=token(d))
    for headers in (
        {"Authorization": f"Bearer {agents}"},
        {"x_api_key": API_KEY},
        {},
        {"Authorization": "Basic x"},
    ):
        with pytest.raises(web.HTTPUnauthorized):
            asked(d, tmp_path, **headers)


def test_a_person_asks_no_faster_than_people_do(tmp_path: Path) -> None:
    d = driver()
    app = web.Application()
    app[GATE] = a_gate(d, tmp_path)
    request = make_mocked_request(
        "GET", "/v1/approvals", headers={"Authorization": f"Bearer {token(d)}"}, app=app
    )
    with pytest.raises(web.HTTPTooManyRequests):
        for _ in range(20 * PERSON_RATE_PER_S):
            asyncio.run(reviewer_of(request))


def test_what_a_reviewer_sees() -> None:
    person = Person("ana", "Ana", ("desk",))
    assert Reviewer(person).sees("north", ()) and Reviewer(person).sees("north", ("desk", "treasury"))
    assert not Reviewer(person).sees("north", ("treasury",))
    assert Reviewer(person, "north").sees("north", ("desk",)) and not Reviewer(person, "south").sees(
        "north", ("desk",)
    )
