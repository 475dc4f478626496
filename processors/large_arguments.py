"""Arguments that are too large for a record: stored beside the log before they are asked for, and named by a reference.

    agent: store ▸ intent {arguments_ref: digest, size, name, key} ▸ fetch ▸ decide on the bytes ▸ dispatch {arguments_ref} ▸ fetch ▸ call

`decide` sees the whole arguments, as of any call: it asks for them by `Decision.needs` (`PLACE`, offset of the intent), once a contract that
lets them be large was found, and believes nobody about them: what has not the digest of the reference, or is not at hand, is
refused `content_unavailable`. What is offered to executors is the same reference, or, where the call was changed on the
way (a prompt, a redaction), one made from it: the same bytes always give the same name and key, so an offer made again is the
same. The key stands in the intent, which the ledger seals under the subject's. Pure. Next: `artifacts.py` (references),
`authorize.py` (who asks), `plan.py` (who offers), `streams/lanes/content_store.py` (who fetches), docs/artifacts.md.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sluicegate.processors.artifacts import Reference, digest_of, reference_of
from sluicegate.processors.outcomes import Stored
from sluicegate.processors.work import Refusal, Work
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Dispatch, Envelope, Intent
from sluicegate.schemas.topics import MAX_INTENT_BYTES

PLACE = "arguments"
"""In `Decision.needs`: (`PLACE`, offset) asks for the arguments that the intent at this offset of `intents` refers to."""

REASON: Final = "content_unavailable"

NONCE = bytes(12)
"""Each key seals one artifact, so a fixed nonce is never used twice with it."""

_DERIVED = b"sluicegate arguments\0"


def reference_in(raw: bytes) -> Reference | None:
    """The reference of a reference's JSON, or None."""
    try:
        return reference_of(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None


def referred(value: bytes | None) -> Reference | None:
    """What the intent in an input's bytes refers to, or None."""
    try:
        record = codec.decode(value or b"")
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
    except Unreadable:
        return None
    return reference_in(record.arguments_ref) if isinstance(record, Intent) and record.arguments_ref else None


def same_arguments(intent: Intent) -> bytes:
    """What tells one call's arguments from another's: the bytes, or the digest of those it refers to."""
    if not intent.arguments_ref:
        return intent.arguments
    reference = reference_in(intent.arguments_ref)
    return reference.digest.encode() if reference is not None else intent.arguments_ref


def told_arguments(intent: Intent) -> bytes:
    """For people: the arguments, or which ones they are, without the key."""
    reference = reference_in(intent.arguments_ref) if intent.arguments_ref else None
    return intent.arguments if reference is None else _told(reference.digest, reference.size)


def bring(work: Work, offset: int) -> Refusal | None:
    """Put the arguments that the intent refers to in their place. `work.decision.needs` is set where they have to be fetched."""
    intent, tool = work.intent, work.tool
    assert intent is not None and tool is not None
    if not intent.arguments_ref or work.large is not None:
        return None
    reference = reference_in(intent.arguments_ref)
    if reference is None or intent.arguments:
        return Refusal(REASON, "`arguments_ref` is no reference, or stands beside `arguments`")
    most = tool.contract.governance.max_argument_bytes
    if not 0 < reference.size <= most or most <= MAX_INTENT_BYTES:
        # INVARIANT: nothing is fetched but what a contract lets be large (tests/unit/test_large_arguments.py).
        said = f"the arguments have {reference.size} bytes, `{tool.name}` takes {most}: say `max_argument_bytes` in its contract"
        return Refusal("too_large", said)
    place = (PLACE, offset)
    if place not in work.source.contents:
        work.decision.needs.append(place)
        return None
    content = work.source.contents[place]
    # INVARIANT: what is decided on is what the agent asked for, whoever fetched it (tests/unit/test_large_arguments.py).
    if content is None or len(content) != reference.size or digest_of(content) != reference.digest:
        return Refusal(REASON, f"the arguments `{reference.digest}` are not in the artifact store")
    work.large = reference
    work.intent = replace(intent, arguments=content)
    return None


def offered(work: Work, dispatch: Dispatch) -> Dispatch:
    """The offer as it travels: by reference where its arguments are what the agent's refers to, or too large for a record."""
    reference = work.large
    if reference is None:
        return dispatch
    if digest_of(dispatch.arguments) != reference.digest:
        if len(dispatch.arguments) <= MAX_INTENT_BYTES:
            return dispatch
        reference, sealed = seal(dispatch.arguments, _key(reference, dispatch.arguments))
        work.decision.stores.append(Stored(reference.stored, sealed))
    return replace(dispatch, arguments=b"", arguments_ref=reference.as_json())


def seal(content: bytes, key: bytes) -> tuple[Reference, bytes]:
    """A reference to this content, and what is stored. The same key and content give the same ones."""
    sealed = AESGCM(key).encrypt(NONCE, content, None)
    return Reference(digest_of(content), len(content), digest_of(sealed), key), sealed


def _key(reference: Reference, content: bytes) -> bytes:
    """Of what was made from a stored thing: nobody has it who has not that one's key."""
    return hmac.digest(reference.key, _DERIVED + hashlib.sha256(content).digest(), "sha256")


def shown(work: Work) -> bytes:
    """The arguments as a record about the call may hold them: whole, or which they are where they are too large for it."""
    assert work.conformed is not None
    canonical = work.conformed.canonical
    if work.large is None or len(canonical) <= MAX_INTENT_BYTES:
        return canonical
    # INVARIANT: no record of the ledger grows with what is stored beside it (tests/unit/test_large_arguments.py).
    return _told(digest_of(canonical), len(canonical))


def _told(digest: str, size: int) -> bytes:
    return orjson.dumps({"artifact": {"bytes": size, "digest": digest}}, option=orjson.OPT_SORT_KEYS)
