"""A ledger record taken apart by position: what checking millions of them needs, and no more.

The Avro library takes five times as long. Only the ledger's own encoding is read (arrays in one block); anything
else is `Unreadable`. A property test holds this to `schemas/codec.py`. Never checks what the values mean.
Next: `verify.py` (who uses it).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from sluicegate.schemas import codec, positions
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.positions import varint

_START = codec.PREFIX_BYTES
_OUTCOME = codec.schema_of(r.Outcome).prefix
_HEADER = codec.schema_of(r.Header).prefix
INTENT = codec.schema_of(r.IntentFacts).prefix
PLAN = codec.schema_of(r.PlanFacts).prefix
INTENTS = {INTENT, *(s.prefix for name, s in codec.OLD.items() if name.startswith("intent_facts."))}
PLANS = {
    PLAN,
    codec.schema_of(r.AttemptFacts).prefix,
    codec.schema_of(r.StreamFacts).prefix,
    *(s.prefix for name, s in codec.OLD.items() if name.startswith("plan_facts.")),
}
HOLDS = {
    codec.schema_of(r.HoldFacts).prefix,
    *(s.prefix for name, s in codec.OLD.items() if name.startswith("hold_facts.")),
}
REVIEW = codec.schema_of(r.ReviewFacts).prefix
CLAIM = codec.schema_of(r.ClaimFacts).prefix
JOB = codec.schema_of(r.JobFacts).prefix
CACHE = codec.schema_of(r.CacheFacts).prefix
RESULT = codec.schema_of(r.ResultFacts).prefix


class Parts(NamedTuple):
    """A record's three parts, as bytes."""

    header: bytes
    facts: bytes
    content: bytes | None


class Head(NamedTuple):
    """The header's first part; `policies`, `caused_by` and `labels` are passed over. `rest` is the second part."""

    log_id: bytes
    partition: int
    seq: int
    event_id: bytes
    stage: str
    status: str
    reason: str
    facts_hash: bytes
    content_commitment: bytes | None
    prev_hash: bytes
    rest: bytes


class Rest(NamedTuple):
    """The header's second part, which all outcomes of one input share."""

    intent_id: str
    tenant: str
    agent_id: str
    session_id: str
    subject: str
    decided_at: int
    topic: str
    partition: int
    offset: int
    control_head: int
    release: str
    engine: str


def _long(b: bytes, p: int) -> tuple[int, int]:
    byte = b[p]
    p += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), p
    z, p = varint(b, p - 1)
    return (z >> 1) ^ -(z & 1), p


def _text(b: bytes, p: int) -> tuple[str, int]:
    n = b[p]
    if n < 0x80 and not n & 1:  # most are short
        q = p + 1 + (n >> 1)
        return b[p + 1 : q].decode(), q
    n, p = _long(b, p)
    if n < 0:
        raise ValueError("a negative length")
    return b[p : p + n].decode(), p + n


def _skip_texts(b: bytes, p: int, count: int) -> int:
    for _ in range(count):
        n, p = _long(b, p)
        if n < 0:
            raise ValueError("a negative length")
        p += n
    return p


def _skip_array(b: bytes, p: int, size: int) -> int:
    """Pass over an array of texts (`size` 0) or of fixed bytes."""
    if b[p] == 0:
        return p + 1
    count, p = _long(b, p)
    if not 0 < count <= len(b):
        raise ValueError("an array that is not in one block")
    p = p + count * size if size else _skip_texts(b, p, count)
    if b[p] != 0:
        raise ValueError("an array that is not in one block")
    return p + 1


def _texts(b: bytes, p: int) -> tuple[list[str], int]:
    """An array of texts."""
    end = _skip_array(b, p, 0)
    found: list[str] = []
    if b[p]:
        count, q = _long(b, p)
        for _ in range(count):
            text, q = _text(b, q)
            found.append(text)
    return found, end


def split(value: bytes) -> Parts:
    """Header, facts and content of a ledger record. Raises `Unreadable`."""
    try:
        if value[:_START] != _OUTCOME:
            raise ValueError("no outcome record")
        n, p = _long(value, _START)
        q = p + n
        m, s = _long(value, q)
        t = s + m
        if n < 0 or m < 0:
            raise ValueError("a negative length")
        if value[t] == 0:
            end, content = t + 1, None
        else:
            k, u = _long(value, t + 1)
            end = u + k
            content = value[u:end]
            if value[t] != 2 or k < 0:
                raise ValueError("no optional content")
        if end != len(value):
            raise ValueError("another length than it says")
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the record is damaged ({error})") from error
    return Parts(value[p:q], value[s:t], content)


def header_of(value: bytes) -> bytes:
    """The header of a ledger record, nothing else of it looked at. Raises `Unreadable`."""
    try:
        if value[:_START] != _OUTCOME:
            raise ValueError("no outcome record")
        low, high = value[_START], value[_START + 1]
        if low & 0x81 == 0x80 and high < 0x80:  # two bytes, as nearly all have
            n, p = (low & 0x7F | high << 7) >> 1, _START + 2
        else:
            n, p = _long(value, _START)
        if not 0 <= n <= len(value) - p:
            raise ValueError("another length than it says")
        return value[p : p + n]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the record is damaged ({error})") from error


def split_two(value: bytes) -> tuple[bytes, bytes]:
    """Header and facts of a ledger record; the content is passed over, not looked at. Raises `Unreadable`."""
    try:
        if value[:_START] != _OUTCOME:
            raise ValueError("no outcome record")
        low, high = value[_START], value[_START + 1]
        if low & 0x81 == 0x80 and high < 0x80:  # two bytes, as nearly all have
            n, p = (low & 0x7F | high << 7) >> 1, _START + 2
        else:
            n, p = _long(value, _START)
        q = p + n
        m = value[q]
        if m < 0x80 and not m & 1:
            m, s = m >> 1, q + 1
        else:
            m, s = _long(value, q)
        t = s + m
        if n < 0 or m < 0 or value[t] not in (0, 2):
            raise ValueError("another length than it says")
        return value[p:q], value[s:t]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the record is damaged ({error})") from error


# The header's two parts are read by functions made of these lines: a call for each field would cost half of the time.
_TEXT_LINES = """\
    n = b[p]
    if n < 0x80 and not n & 1:
        q = p + 1 + (n >> 1)
        {0} = b[p + 1 : q].decode()
        p = q
    else: {0}, p = _text(b, p)
"""
_LONG_LINES = textwrap.indent(positions.lines("long", "{0}", {}), "    ")
_SKIP_LINES = """\
    n = b[p]
    if n < 0x80 and not n & 1: p += 1 + (n >> 1)
    else: p = _skip_texts(b, p, 1)
"""
_FIXED_LINES = "    {0} = b[p : p + {1}]\n    p += {1}\n"
_ARRAY_LINES = "    if b[p]: p = _skip_array(b, p, {1})\n    else: p += 1\n"
_COMMITMENT_LINES = """\
    p += 1
    {0} = None
    if b[p - 1] == 2:
        {0} = b[p : p + 32]
        p += 32
    elif b[p - 1]: raise ValueError("no optional commitment")
"""
_END_LINES = "    if p != len(b): raise ValueError('another length than it says')\n"
_REST_LINES = "    {0} = b[p:]\n"
_T, _L, _F, _A, _S = _TEXT_LINES, _LONG_LINES, _FIXED_LINES, _ARRAY_LINES, _SKIP_LINES


def _compile(
    start: int, result: type, fields: list[tuple[str, ...]], end: str, names: str = ""
) -> Callable[[bytes], Any]:
    lines = "".join(field[0].format(*field[1:]) for field in fields)
    names = names or ", ".join(result.__annotations__)
    scope: dict[str, Any] = {
        "_text": _text, "long": varint, "_skip_array": _skip_array, "_skip_texts": _skip_texts, "result": result,
        "from_bytes": positions.from_bytes,
    }  # fmt: skip
    made = "" if result is tuple else "result"
    exec(
        f"def read(b):\n    p = {start}\n{lines}{end}    return {made}({names})\n", scope
    )  # of the lines above only
    return cast("Callable[[bytes], Any]", scope["read"])


_read_head = _compile(
    _START,
    Head,
    [(_L, "v"), (_F, "log_id", "16"), (_L, "partition"), (_L, "seq"), (_F, "event_id", "16"), (_T, "stage"),
     (_T, "status"), (_T, "reason"), (_A, "", "0"), (_A, "", "16"), (_A, "", "0"), (_F, "facts_hash", "32"),
     (_COMMITMENT_LINES, "content_commitment"), (_F, "prev_hash", "32"), (_REST_LINES, "rest")],
    "",
)  # fmt: skip
_read_rest = _compile(
    0,
    Rest,
    [(_T, "intent_id"), (_T, "tenant"), (_T, "agent_id"), (_T, "session_id"), (_T, "subject"), (_L, "decided_at"),
     (_T, "topic"), (_L, "partition"), (_L, "offset"), (_L, "control_head"), (_T, "release"), (_T, "engine")],
    _END_LINES,
)  # fmt: skip


def head(b: bytes) -> Head:
    """The header's first part. Raises `Unreadable`."""
    try:
        if b[:_START] != _HEADER:
            raise ValueError("no header of this version")
        return cast(Head, _read_head(b))
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the header is damaged ({error})") from error


def rest(b: bytes) -> Rest:
    """The header's second part. Raises `Unreadable`."""
    try:
        return cast(Rest, _read_rest(b))
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the header is damaged ({error})") from error


# Facts: only the fields that the invariants are about. Raise `Unreadable`.


class Planned(NamedTuple):
    """What an offer says of the call."""

    tool_class: str
    attempt: int


_read_began = _compile(
    _START, tuple, [(_S,)] * 5 + [(_L, "issued_at"), (_L, "deadline_at")], "", "issued_at, p"
)
_read_planned = _compile(_START, Planned, [(_S,), (_T, "tool_class"), (_S,), (_L, "attempt")], "")


def intent_facts(b: bytes) -> tuple[int, bool]:
    """`issued_at` and `remembered` of `IntentFacts`."""
    try:
        issued_at, p = _read_began(b)
        remembered = b[p + 2] == 1
        # Ledgers from before repeated calls could be limited have no digest of the call.
        if (_skip_texts(b, p + 3, 1) if b[: codec.PREFIX_BYTES] == INTENT else p + 3) != len(b):
            raise ValueError("another length than it says")
        return issued_at, remembered
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def plan_facts(b: bytes) -> Planned:
    """`tool_class` and `attempt` of `PlanFacts`."""
    try:
        return cast(Planned, _read_planned(b))
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def hold_facts(b: bytes) -> tuple[str, int, list[str]]:
    """`tool_class`, `quorum` and `reviewers` of `HoldFacts`."""
    try:
        tool_class, p = _text(b, _skip_texts(b, _START, 1))
        _, p = _long(b, _skip_texts(b, p, 1))
        _, p = _long(b, p)
        quorum, p = _long(b, p)
        return tool_class, quorum, _texts(b, p)[0]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


class Agreed(NamedTuple):
    """What the facts of a review say of who agreed."""

    reviewer: str
    approvals: list[str]
    quorum: int
    reviewers: list[str]
    edited: bool


def review_facts(b: bytes) -> Agreed:
    """Of `ReviewFacts`."""
    try:
        reviewer, p = _text(b, _skip_texts(b, _START, 1))
        approvals, p = _texts(b, _skip_texts(b, p, 1))
        quorum, p = _long(b, p)
        reviewers, p = _texts(b, p)
        return Agreed(reviewer, approvals, quorum, reviewers, b[p] == 1)
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def first_long(b: bytes) -> int:
    """`attempt` of `ClaimFacts` or `ResultFacts`."""
    try:
        return _long(b, _START)[0]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error
