"""A ledger record taken apart by position: what checking millions of them needs, and no more.

The Avro library takes five times as long. Only the ledger's own encoding is read (arrays in one block); anything
else is `Unreadable`. A property test holds this to `schemas/codec.py`. Never checks what the values mean.
Next: `verify/reading_facts.py` (facts), `verify/partition.py` (who uses it).
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
_from_bytes = int.from_bytes
_tuple: Any = tuple.__new__
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


MAX_KNOWN = 16_384
"""Sessions' names, and ends of headers, that are known by their bytes: about 500 bytes each, 8 MB each."""
_names: dict[bytes, tuple[str, str, str, str]] = {}
_ends: dict[bytes, tuple[int, str, str]] = {}
_topics: dict[bytes, str] = {}


def rest(b: bytes) -> Rest:
    """The header's second part. Raises `Unreadable`."""
    # INVARIANT: known bytes read as unknown ones do (tests/unit/test_verify.py::test_reading_agrees_with_the_avro_library).
    try:
        p = 1 + (b[0] >> 1)
        q = p + 1 + (b[p] >> 1)
        q += 1 + (b[q] >> 1)
        q += 1 + (b[q] >> 1)
        q += 1 + (b[q] >> 1)
        names = _names.get(b[p:q])
        if names is not None and not b[0] & 0x81:
            x = _from_bytes(b[q : q + 8], "little")
            if x & 0x8080808080808080 == 0x0080808080808080:  # a time, as in `positions.varint`
                x &= 0x7F7F7F7F7F7F7F7F
                x = x & 0x007F007F007F007F | (x & 0x7F007F007F007F00) >> 1
                x = x & 0x00003FFF00003FFF | (x & 0x3FFF00003FFF0000) >> 2
                x = x & 0x0FFFFFFF | (x & 0x0FFFFFFF00000000) >> 4
                q += 8
                r = q + 1 + (b[q] >> 1)
                topic = _topics.get(b[q:r])
                if topic is not None and not b[r] & 0x81:
                    n, m, o = b[r + 1 : r + 4]
                    if n < 0x80:
                        q = r + 2
                    elif m < 0x80:
                        n, q = n + (m << 7) - 0x80, r + 3
                    elif o < 0x80:
                        n, q = n + (m << 7) + (o << 14) - 0x4080, r + 4
                    else:
                        n, q = varint(b, r + 1)
                    end = _ends.get(b[q:])
                    if end is not None and not (n | x) & 1:
                        return cast(
                            Rest,
                            _tuple(Rest, (b[1:p].decode(), *names, x >> 1, topic, b[r] >> 1, n >> 1, *end)),
                        )
    except (
        IndexError
    ):  # a text of 64 bytes and more, whose length takes two, leads past the end; or it is damaged
        pass
    except ValueError as error:
        raise Unreadable("malformed_record", f"the header is damaged ({error})") from error
    try:
        return _unknown_rest(b)
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the header is damaged ({error})") from error


def _unknown_rest(b: bytes) -> Rest:
    """Read it field by field, and know its names and its end from now on."""
    found = cast(Rest, _read_rest(b))
    names = b"".join(codec.encode_string(x) for x in found[1:5])
    start = len(codec.encode_string(found.intent_id))
    topic = codec.encode_string(found.topic)
    end = (
        codec.encode_long(found.control_head)
        + codec.encode_string(found.release)
        + codec.encode_string(found.engine)
    )
    # Only what is written as the ledger writes it is known: its bytes are then the only ones that mean this.
    if b[start:].startswith(names) and b.endswith(end):
        if max(len(_names), len(_ends), len(_topics)) >= MAX_KNOWN:
            _names.clear()
            _ends.clear()
            _topics.clear()
        _names[names] = (found.tenant, found.agent_id, found.session_id, found.subject)
        _ends[end] = (found.control_head, found.release, found.engine)
        _topics[topic] = found.topic
    return found
