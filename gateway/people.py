"""Which person asks: an OIDC token of an issuer that control knows, for somebody whom control knows.

    Authorization: Bearer JWT                             a person alone
    x-sluicegate-person: JWT, beside an API key           a person behind a program, whose key has the scope `person`

The token is checked as those of `on_behalf_of` are (`processors/control/tokens.py`): algorithm by key, audience, times; by the keys in control, or for an issuer that control
lets be asked by those it publishes (`streams/keys/oidc.py`). It needs the scope `sluicegate:review`, too. INVARIANT: a token that says for whom an agent works approves nothing, whoever holds it
(tests/unit/test_gateway_people.py). Never keeps a token. Next: `approvals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiohttp import web
from sluicegate.gateway.access import BEARER, caller_of, rated
from sluicegate.gateway.context import confirmed, counted, gate_of
from sluicegate.gateway.problems import problem
from sluicegate.processors.control.api_keys import PERSON, PREFIX
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Person
from sluicegate.processors.control.tokens import Refused, Verified, issuer_of, verify_by, verify_token
from sluicegate.streams.keys.oidc import IssuerKeys

TOKEN = "x-sluicegate-person"
REVIEW = "sluicegate:review"
"""What a token must be for."""
PERSON_RATE_PER_S = 5
"""Requests of one person in a second: each may read the ledger."""
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="sluicegate", scope="sluicegate:review"'}


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person who asks.

    Attributes:
        tenant: of the key they come by; empty for a person alone.
    """

    person: Person
    tenant: str = ""

    def sees(self, tenant: str, reviewers: tuple[str, ...]) -> bool:
        """Whether a held call is theirs to look at: of the tenant, and for one of their roles."""
        mine = not reviewers or bool(set(reviewers) & set(self.person.roles))
        return mine and self.tenant in ("", tenant)


async def reviewer_of(request: web.Request) -> Reviewer:
    """Who asks. Raises a problem."""
    gate = gate_of(request)
    await confirmed(gate)
    named = request.headers.getall(TOKEN, [])
    tenant = ""
    if named:
        caller = caller_of(request, gate.control, gate.clock(), gate.rates)
        caller.needs(PERSON)
        tenant, token = caller.agent.tenant, named[0]
    else:
        token = _alone(request)
    if len(named) > 1:
        raise problem(401, "unauthorized", f"send `{TOKEN}` once", CHALLENGE)
    person = await person_in(gate.control, token, gate.clock(), gate.issuer_keys)
    if named:
        counted(request, caller.key.key_id)
    else:
        counted(request, f"person {person.person_id}")
    rated(gate.rates, f"person {person.person_id}", PERSON_RATE_PER_S)
    return Reviewer(person, tenant)


async def person_in(control: Control, token: str, now: int, newest: IssuerKeys) -> Person:
    """The registered person whom a token names for reviews. Raises a problem."""
    found = await _verified(control, token, now, newest)
    if isinstance(found, Refused):
        raise problem(401, "bad_token", found.detail, CHALLENGE)
    if REVIEW not in found.scopes:
        raise problem(
            403,
            "scope_missing",
            f"the token is not for reviews: have the issuer put `{REVIEW}` into its `scope`",
        )
    person = control.people.get(found.on_behalf_of)
    if person is None:
        raise problem(403, "unknown_person", f"`{found.on_behalf_of[:80]}` is not registered: sluicegate people register PERSON --role ROLE")  # fmt: skip
    return person


async def _verified(control: Control, token: str, now: int, newest: IssuerKeys) -> Verified | Refused:
    """By the keys that the issuer publishes, where control lets it be asked and it answers; else by those in control."""
    named = control.issuers.get(issuer_of(token))
    if named is None or not named.discover:
        return verify_token(control, token, now)
    for newer in (False, True):
        keys = await newest.of(named.issuer, newer=newer)
        if not keys:
            return verify_token(control, token, now)
        found = verify_by({named.issuer: replace(named, keys=keys)}, token, now)
        if isinstance(found, Verified) or not found.issuer:
            break
    return found


def _alone(request: web.Request) -> str:
    found = request.headers.getall("Authorization", [])
    text = found[0].strip() if len(found) == 1 else ""
    token = text[len(BEARER) :].strip() if text.lower().startswith(BEARER) else ""
    if token.startswith(f"{PREFIX}_") or "x-api-key" in request.headers:
        raise problem(
            401, "unauthorized", f"an API key is no person: send their token as `{TOKEN}`", CHALLENGE
        )
    if not token:
        raise problem(
            401, "unauthorized", "send a person's token once: `Authorization: Bearer JWT`", CHALLENGE
        )
    return token
