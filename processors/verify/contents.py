"""Sealed contents, opened with the key store: whose they are, who signed them, and whether the header names their author.

    sealed       the content opens with its subject's key as that event's: swapped or moved ciphertexts do not
    signature    what was taken in was signed by who it says, under a key that control had at the header's head
    attribution  agent, intent, session, person and time of the header are the input's own

Only an input's first outcome carries the input; other contents are opened and no more. What was erased cannot be looked
at, and is counted. An HS256 key whose secret is not at hand cannot be checked, and is counted, too. What follows from an
input is not decided again: that is `replay/rederive.py`'s. Pure. Next: `verify/partition.py` (who feeds this), `intake.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sluicegate.processors.control.control import Control
from sluicegate.processors.intake import Problem, take
from sluicegate.processors.verify import reading, reading_facts
from sluicegate.processors.verify.chain import Linked
from sluicegate.processors.verify.reading import Rest
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Unreadable
from sluicegate.schemas.topics import MAX_INTENT_BYTES, TICK

Opener = Callable[[str, bytes, bytes], bytes | None]
"""(subject, event_id, sealed) -> content, or None when it was erased."""

_NOT_TAKEN = frozenset(("unreadable", "session_refused"))


class Contents:
    """Those of one partition. `bad(invariant, sentence)` is told of violations.

    Attributes:
        counts: opened, erased, signed (checked), unsigned, without_secret.
    """

    def __init__(self, controls: Sequence[Control], opener: Opener, bad: Callable[[str, str], None]) -> None:
        self._controls, self._open, self._bad = controls, opener, bad
        self.counts: Counter[str] = Counter()

    def step(self, head: Linked, rest: Rest, sealed: bytes, first: bool) -> None:
        """One outcome that has content."""
        try:
            value = self._open(rest.subject, head.event_id, sealed)
        except SluicegateError:
            self._bad("sealed", f"the content of seq {head.seq} does not open as that of this event")
            return
        self.counts["erased" if value is None else "opened"] += 1
        if (
            first
            and value is not None
            and rest.topic != TICK
            and 0 <= rest.control_head < len(self._controls)
        ):
            self._input(self._controls[rest.control_head], head, rest, value)

    def _input(self, control: Control, head: Linked, rest: Rest, value: bytes) -> None:
        if len(value) >= MAX_INTENT_BYTES:
            return  # only its beginning was kept
        envelope = _envelope(value)
        if envelope is not None and self._secret_absent(control, envelope):
            self.counts["without_secret"] += 1
            return
        taken = take(control, rest.topic, value, rest.decided_at)
        if isinstance(taken, Problem):
            if head.status not in _NOT_TAKEN or head.reason != taken.reason:
                # INVARIANT: nothing is done on the word of whoever cannot have said it (tests/unit/test_mutations.py).
                self._bad(
                    "signature", f"the input of seq {head.seq} should not have been taken: {taken.detail}"
                )
            return
        self.counts["signed" if taken.authenticated else "unsigned"] += 1
        if wrong := _misattributed(taken.record, head, rest):
            self._bad("attribution", f"seq {head.seq} says {wrong}")

    def _secret_absent(self, control: Control, envelope: r.Envelope) -> bool:
        key = control.keys.get(envelope.kid)
        return key is not None and key.alg == "HS256" and envelope.kid not in control.mac_keys


def _envelope(value: bytes) -> r.Envelope | None:
    try:
        record = codec.decode(value)
    except Unreadable:
        return None
    return record if isinstance(record, r.Envelope) else None


def _misattributed(record: object, head: Linked, rest: Rest) -> str:
    """What the header or the facts say otherwise than the input, in words."""
    if head.status == "unreadable":
        return ""  # nobody's: it names no intent
    if isinstance(record, r.Exchange | r.Transfer):
        return ""  # written by another partition of this log
    for name, ours, theirs in _names(record, rest):
        if ours and ours != theirs:
            return f"{name} `{ours[:80]}`, and its input `{theirs[:80]}`"
    if isinstance(record, r.Review) and head.facts[: codec.PREFIX_BYTES] == reading.REVIEW:
        said = reading_facts.review_facts(head.facts)
        if said.reviewer != record.reviewer:
            return f"reviewer `{said.reviewer[:80]}`, and its input `{record.reviewer[:80]}`"
        if record.verdict != "approve" and head.status == "held":
            return f"that somebody agreed, and its input `{record.verdict[:20]}`"
    return ""


def _names(record: object, rest: Rest) -> list[tuple[str, str, str]]:
    """(what, what the header says, what the input says); an empty header says nothing."""
    found = [("agent", rest.agent_id, str(getattr(record, "agent_id", "")))]
    if isinstance(record, r.Intent):
        found += [
            ("intent", rest.intent_id, record.intent_id),
            ("session", rest.session_id, record.session_id),
        ]
    elif isinstance(record, r.Receipt | r.Review | r.Resolution):
        found.append(("intent", rest.intent_id, record.intent_id))
    elif isinstance(record, r.Message):
        found.append(("session", rest.session_id, record.session_id))
    return found
