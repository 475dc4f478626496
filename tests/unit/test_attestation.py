"""Attestations: only what ran elsewhere, by a key that is registered for it, counts as attested here."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.control import attestation
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.attestation import PAYLOAD_TYPE, check, envelope, read, statement
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import stands
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.verify import reading
from sluicegate.schemas import records as r
from sluicegate.schemas import signing
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control.attest import Ran, first_used, predicate_of
from sluicegate.streams.control.changes import proposals
from sluicegate.streams.control.deployments import deploy

from tests.driver import Driver, release, release_files

SECRET, EVE = bytes(range(32)), bytes(range(1, 33))
TWO = release(edition="two")
Body = dict[str, object]
PREDICATE: Body = {"environment": "staging", "log_id": "ab" * 16, "sessions": 12, "intents": 90}
ONLY_PROMOTED = """
@id("leads") permit (principal in Role::"lead", action in [Action::"release.deployed", Action::"release.pinned"], resource);
@id("promoted-only")
forbid (principal, action in [Action::"release.deployed", Action::"release.pinned"], resource) unless { context.attested };
"""


@pytest.fixture
def start() -> Control:
    """`prod`: deploys are by promotion only, and staging's key is known."""
    d = Driver()
    d.control_event("people.registered", people=[{"person_id": "lea", "roles": ["lead"]}])
    for kid, role, secret in (("st-1", "attestor", SECRET), ("op-1", "operator", EVE)):
        public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
        d.control_event("key.added", kid=kid, principal="staging", role=role, alg="Ed25519", public=public, not_before=0, not_after=2**53 - 1)  # fmt: skip
    d.deploy(compile_release({**release_files(), "control.cedar": ONLY_PROMOTED}))
    d.publish(TWO)
    return d.control


def event(control: Control, kind: str, body: Body, who: str = "lea") -> Control:
    facts = r.ControlFacts(kind, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
    return control_fold.fold(control, control.head + 1, facts, control.at + 1)


def signed(
    predicate: Body = PREDICATE,
    digest: str = TWO.digest,
    kid: str = "st-1",
    secret: bytes = SECRET,
    **more: object,
) -> Body:
    payload = json.dumps({**statement(digest, "two", predicate), **more}).encode()
    sig = signing.sign_dsse(PAYLOAD_TYPE, payload, secret)
    return {
        "payload": base64.b64encode(payload).decode(),
        "kid": kid,
        "signature": base64.b64encode(sig).decode(),
    }


def attested(control: Control, body: Body) -> bool:
    return TWO.digest in event(control, attestation.KIND, body).attested


def test_what_ran_in_staging_may_be_deployed_here(start: Control) -> None:
    deployed: Body = {"digest": TWO.digest}
    assert event(start, "release.deployed", deployed).deployed == start.deployed, "it never ran anywhere"
    after = event(start, attestation.KIND, signed())
    one = after.attested[TWO.digest]
    assert (one.env, one.sessions, one.intents, one.kid) == ("staging", 12, 90, "st-1")
    assert "ran in staging" in stands(after, TWO.digest)
    assert event(after, "release.deployed", deployed).deployed == TWO.digest


def test_in_one_transaction(start: Control) -> None:
    """`promote` is asked about its deployment on control as its own attestation leaves it."""
    events, _ = deploy([(attestation.KIND, signed())], TWO.digest, now=False)(start)
    written, waits = proposals(start, events, "lea", start.at + 1)
    assert ([kind for kind, _ in written], waits) == ([attestation.KIND, "release.deployed"], 0)
    with pytest.raises(Terminal, match="promoted-only"):
        proposals(start, deploy([], TWO.digest, now=False)(start)[0], "lea", start.at + 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (signed({**PREDICATE, "intents": 0}), "never ran in `staging`"),
        (signed({**PREDICATE, "sessions": 0}), "never ran in `staging`"),
        (signed({**PREDICATE, "environment": "test"}), "of this environment"),
        (signed({**PREDICATE, "log_id": bytes(range(16)).hex()}), "of this environment"),
        (signed(kid="op-1", secret=EVE), "none of an attestor"),
        (signed(kid="nobody"), "none of an attestor"),
        (signed(secret=EVE), "does not verify"),
        (signed({"environment": "staging"}), "another form"),
        (signed({**PREDICATE, "intents": "many"}), "another form"),
        (signed(digest="sha256:short"), "something else"),
        (signed(predicateType="https://example.com/other"), "something else"),
        ({**signed(), "payload": signed({**PREDICATE, "intents": 91})["payload"]}, "does not verify"),
        ({**signed(), "payload": "%%%"}, "no attestation"),
        ({"kid": "st-1"}, "no attestation"),
    ],
)  # fmt: skip
def test_what_is_not_taken(start: Control, body: Body, said: str) -> None:
    found = check(start, body)
    assert isinstance(found, str) and said in found
    assert not attested(start, body)


def test_a_revoked_or_ended_key_attests_nothing_any_more(start: Control) -> None:
    revoked = event(start, "key.revoked", {"kid": "st-1"})
    assert not attested(revoked, signed())
    key = replace(start.keys["st-1"], not_after=start.at)
    assert not attested(replace(start, keys={**start.keys, "st-1": key}), signed())
    after = event(start, attestation.KIND, signed())
    assert TWO.digest in event(after, "key.revoked", {"kid": "st-1"}).attested, "what it said before stands"


def test_another_release_than_that_one_is_not_attested(start: Control) -> None:
    other = release(edition="three").digest
    after = event(start, attestation.KIND, signed(digest=other))
    assert not after.attested, "it is not even published"


def test_another_kind_of_signature_by_the_same_key_does_not_fit(start: Control) -> None:
    body = signed()
    payload = base64.b64decode(str(body["payload"]))
    bare = Ed25519PrivateKey.from_private_bytes(SECRET).sign(payload)
    assert not attested(start, {**body, "signature": base64.b64encode(bare).decode()})


def test_the_newest_are_kept(start: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "MAX_ATTESTED", 1)
    first = event(start, attestation.KIND, signed(digest=start.deployed))
    assert [*event(first, attestation.KIND, signed()).attested] == [TWO.digest]


def test_the_file(start: Control) -> None:
    payload = json.dumps(statement(TWO.digest, "two", PREDICATE)).encode()
    body, data = read(json.dumps(envelope(payload, "st-1", SECRET, b"bytes")))
    assert data == b"bytes" and attested(start, dict(body))
    for text in ("[]", "{}", '{"payloadType":"x"}', "no"):
        with pytest.raises((ValueError, KeyError)):
            read(text)


def test_what_ran_is_counted(start: Control) -> None:
    found = Ran()
    d = Driver()
    d.open_session()
    d.finish(d.call("desk.read").dispatches[0], b"{}")
    d.call("desk.never")
    for record in d.records[1:]:
        head = reading.head(reading.split(record.value).header)
        found.note(head, reading.rest(head.rest))
    said = predicate_of(d.control, found)
    assert (said["sessions"], said["intents"], said["refused"], said["released"]) == (1, 2, 1, 1)
    assert str(said["ran_from"]) <= str(said["ran_to"])


def test_a_release_that_was_never_used_has_no_time(start: Control) -> None:
    assert first_used([start], start.deployed) == start.at
    with pytest.raises(Terminal, match="never ran in `test`"):
        first_used([start], TWO.digest)
