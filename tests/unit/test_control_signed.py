"""Signed environments: once there is an operator's key, nobody else changes control."""

from __future__ import annotations

from dataclasses import replace

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.policy import not_signed
from sluicegate.schemas import records as r
from sluicegate.schemas import signing

OLGA, EVE, AGENT_KEY = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
LOG_ID = bytes(16)
FOREVER = 2**53 - 1
Body = dict[str, object]


def event(kind: str, body: Body, who: str = "olga") -> r.ControlFacts:
    return r.ControlFacts(kind, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]


def added(kid: str, principal: str, role: str, secret: bytes) -> r.ControlFacts:
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
    body: Body = {
        "kid": kid, "principal": principal, "role": role, "alg": "Ed25519", "public": public, "not_before": 0,
        "not_after": FOREVER,
    }  # fmt: skip
    return event("key.added", body)


def fold(control: Control, facts: r.ControlFacts, kid: str = "", secret: bytes = OLGA) -> Control:
    """After one event, signed where a kid is named."""
    seq = control.head + 1
    if kid:
        facts = signing.sign_control(facts, control.log_id, seq, kid, secret)
    return control_fold.fold(control, seq, facts)


def operated(mode: str = "signed") -> Control:
    """An environment that olga made, and an agent `a` with a key."""
    body: Body = {"log_id": LOG_ID.hex(), "env": "e", "partitions": 1, "signing": mode, "operator": "olga"}
    control = fold(Control(), event("genesis", body))
    control = fold(control, added("o", "olga", "operator", OLGA))
    control = fold(control, event("agents.registered", {"agents": [{"agent_id": "a"}]}), "o")
    return fold(control, added("a-1", "a", "agent", AGENT_KEY), "o")


SUSPEND: Body = {"agent_id": "a"}


def suspends(control: Control, facts: r.ControlFacts, kid: str = "", secret: bytes = OLGA) -> bool:
    after = fold(control, facts, kid, secret)
    assert after.head == control.head + 1, "it stands on the ledger in any case"
    return after.agents["a"].status == "suspended"


def test_an_operators_event_counts() -> None:
    assert suspends(operated(), event("agent.suspended", SUSPEND), "o")


def test_others_do_not() -> None:
    control = operated()
    facts = event("agent.suspended", SUSPEND)
    assert not suspends(control, facts), "not signed"
    assert not suspends(control, facts, "nobody")
    assert not suspends(control, facts, "a-1", AGENT_KEY), "an agent's key is no operator's"
    assert not suspends(control, facts, "o", EVE), "another secret under this name"
    assert not suspends(control, event("agent.suspended", SUSPEND, who="eve"), "o"), "olga signs as olga only"


def test_a_signature_fits_one_place() -> None:
    """An event cannot be written a second time, or into another log."""
    control = operated()
    signed = signing.sign_control(event("agent.suspended", SUSPEND), LOG_ID, control.head + 1, "o", OLGA)
    assert suspends(control, signed)
    later = fold(control, event("agent.resumed", SUSPEND), "o")
    assert not suspends(later, signed)
    other = bytes([1]) * 16
    elsewhere = replace(control, log_id=other, generations=(replace(control.generations[0], log_id=other),))
    assert not suspends(elsewhere, signed)


@pytest.mark.parametrize("change", [{"kind": "agent.retired"}, {"why": "no"}, {"body": b'{"agent_id":"b"}'}, {"who": "eve"}, {"signature": bytes(64)}, {"signature": b""}])  # fmt: skip
def test_what_was_changed_does_not_count(change: dict[str, object]) -> None:
    control = operated()
    signed = signing.sign_control(event("agent.suspended", SUSPEND), LOG_ID, control.head + 1, "o", OLGA)
    assert not_signed(control, control.head + 1, replace(signed, **change)) != ""  # type: ignore[arg-type]


def test_nobody_makes_themselves_an_operator() -> None:
    control = operated()
    after = fold(control, added("e", "eve", "operator", EVE))
    assert "e" not in after.keys
    assert not suspends(after, event("agent.suspended", SUSPEND, who="eve"), "e", EVE)


def test_an_operator_makes_another_and_is_revoked() -> None:
    control = fold(operated(), event("people.registered", {"people": [{"person_id": "otto", "roles": ["operator"]}]}), "o")  # fmt: skip
    control = fold(control, added("p", "otto", "operator", EVE), "o")
    control = fold(control, event("key.revoked", {"kid": "o"}, who="otto"), "p", EVE)
    assert not suspends(control, event("agent.suspended", SUSPEND), "o")
    assert suspends(control, event("agent.suspended", SUSPEND, who="otto"), "p", EVE)
    removed = fold(control, event("people.removed", {"people": ["otto"]}, who="otto"), "p", EVE)
    assert not suspends(removed, event("agent.suspended", SUSPEND, who="otto"), "p", EVE)


def test_no_agent_signature_is_a_control_event() -> None:
    """An envelope's signature by the same key does not fit, whatever it says."""
    control = operated()
    facts = event("agent.suspended", SUSPEND)
    envelope = signing.sign(facts.body, "o", "Ed25519", OLGA, "e/control", 0)
    assert not suspends(control, replace(facts, kid="o", signature=envelope[-64:]))


def test_before_there_is_an_operator_and_in_dev_events_count_unsigned() -> None:
    body: Body = {"log_id": LOG_ID.hex(), "env": "e", "partitions": 1, "signing": "signed"}
    control = fold(
        fold(Control(), event("genesis", body)), event("agents.registered", {"agents": [{"agent_id": "a"}]})
    )
    assert suspends(control, event("agent.suspended", SUSPEND))
    assert suspends(operated("dev"), event("agent.suspended", SUSPEND))


@given(st.binary(max_size=100))
def test_unsigned_bytes_are_not_even_read(body: bytes) -> None:
    """Who can write the topic cannot stop the readers by an event that is no JSON."""
    control = operated()
    after = control_fold.fold(control, control.head + 1, r.ControlFacts("agent.suspended", "olga", "", body))
    assert replace(after, head=control.head) == control
