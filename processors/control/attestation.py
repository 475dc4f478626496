"""Attestations: one environment's signed word to another that a release ran there.

An in-toto statement in a DSSE envelope, signed with Ed25519: the digest, which environment and log, from when to when, how many
sessions and intents, how many were refused, the head of control and where each ledger partition stood. The environment that
takes it knows the signer's key by the role `attestor`; control's fold checks it, so every worker and `ledger verify` do.
What it says is the signer's word: nobody here can see the other ledger. Pure. Next: `control/control.py` (who folds it),
`streams/control/attest.py` (who makes it).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sluicegate.processors.releases.file import DIGEST
from sluicegate.schemas import signing

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

KIND = "release.attested"
ROLE = "attestor"
"""Of the keys of other environments whose word counts here."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://sluicegate.dev/attestations/release-ran/v1"
MAX_PAYLOAD_CHARS = 64 * 1024
"""Of one statement; with 1,000 partitions it has 120 kB less its spaces, and nobody has so many."""
MAX_ATTESTED = 1_000
"""Releases that were attested here, the newest: about 300 bytes each."""


@dataclass(frozen=True, slots=True)
class Attested:
    """What is kept of one: where it ran, which log that was, whose key said so, and the control event that brought it."""

    env: str
    log_id: str
    kid: str
    sessions: int
    intents: int
    head: int


def statement(digest: str, name: str, predicate: Mapping[str, object]) -> dict[str, object]:
    """The statement about one release."""
    subject = [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}]
    return {
        "_type": STATEMENT_TYPE,
        "subject": subject,
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(predicate),
    }


def check(control: Control, body: Mapping[str, object]) -> tuple[str, Attested] | str:
    """(digest, what is kept) of `release.attested` {payload, kid, signature}; or why it is not taken, in words."""
    try:
        payload = base64.b64decode(str(body["payload"]), validate=True)
        signature = base64.b64decode(str(body["signature"]), validate=True)
        kid = str(body["kid"])
    except (KeyError, binascii.Error):
        return "it is no attestation, make one with `sluicegate release attest`"
    key = control.keys.get(kid)
    # INVARIANT: only a key that this environment registered for it attests (tests/unit/test_attestation.py).
    if key is None or key.role != ROLE:
        return f"key `{kid[:80]}` is none of an attestor here, register it: sluicegate keys add {kid[:80]} NAME --role attestor --public FILE"
    if not key.not_before <= control.at < key.not_after:
        return f"key `{kid[:80]}` is revoked or not valid now"
    if len(payload) > MAX_PAYLOAD_CHARS or not signing.verify_dsse(
        PAYLOAD_TYPE, payload, signature, key.public
    ):
        return f"its signature does not verify under key `{kid[:80]}`"
    return _said(control, payload, kid)


def _said(control: Control, payload: bytes, kid: str) -> tuple[str, Attested] | str:
    """What a verified statement says."""
    try:
        found = json.loads(payload)
        predicate = found["predicate"]
        digest = f"sha256:{found['subject'][0]['digest']['sha256']}"
        kept = Attested(
            str(predicate["environment"]), str(predicate["log_id"]), kid, int(predicate["sessions"]),
            int(predicate["intents"]), control.head,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, IndexError):
        return "its statement has another form"
    types = (found.get("_type"), found.get("predicateType"))
    if (
        types != (STATEMENT_TYPE, PREDICATE_TYPE)
        or len(found["subject"]) != 1
        or not DIGEST.fullmatch(digest)
    ):
        return "its statement is about something else"
    if kept.log_id == control.log_id.hex() or kept.env == control.env:
        return f"it is of this environment, `{control.env}`: a release is promoted from another one"
    # INVARIANT: nothing is promoted that never ran (tests/unit/test_attestation.py).
    if kept.sessions < 1 or kept.intents < 1:
        return f"{digest} never ran in `{kept.env}`: no intent was decided under it there"
    return digest, kept


def attest(new: Control, body: Body, who: str) -> None:
    """`release.attested`: from now on the release counts as one that ran elsewhere, `context.attested` in `control.cedar`."""
    found = check(new, body)
    if isinstance(found, str) or found[0] not in new.published:
        return
    kept = {d: a for d, a in new.attested.items() if d != found[0]}
    room = max(0, len(kept) - MAX_ATTESTED + 1)
    new.attested = {**dict(list(kept.items())[room:]), found[0]: found[1]}


def read(text: str) -> tuple[dict[str, str], bytes | None]:
    """The body of the event, and the release's bytes where the file brings them. Raises `ValueError` for another file."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("payloadType") != PAYLOAD_TYPE:
        raise ValueError("no DSSE envelope of an in-toto statement")
    [one] = cast("list[dict[str, str]]", found["signatures"])
    data = found.get("release")
    body = {"payload": str(found["payload"]), "kid": str(one["keyid"]), "signature": str(one["sig"])}
    return body, None if data is None else base64.b64decode(str(data), validate=True)


def envelope(payload: bytes, kid: str, secret: bytes, release: bytes) -> dict[str, object]:
    """The signed file. The release's bytes come along and need no signature: their digest is what is signed."""
    sig = base64.b64encode(signing.sign_dsse(PAYLOAD_TYPE, payload, secret)).decode()
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": kid, "sig": sig}],
        "release": base64.b64encode(release).decode(),
    }
