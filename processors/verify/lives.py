"""The lives of intents as the ledger tells them: the table, claims, and the count of what came in and went out.

Memory is bounded as the ledger's own is: an ended intent is forgotten when its id leaves the duplicates window, by
the same rule as `state.py`'s, written again here on purpose. Never folds anything else. Next: `lifecycle.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.processors import lifecycle
from sluicegate.processors.control.control import Control
from sluicegate.processors.state import ACCEPT_WINDOW_US, HOUR_US
from sluicegate.processors.verify import reading, reading_facts
from sluicegate.processors.verify.reading import Rest
from sluicegate.processors.verify.reading_facts import Agreed
from sluicegate.schemas import codec

_OTHER = {
    "session": ("opened", "delegated", "heard", "closed", "resumed", "session_refused", lifecycle.ATTACHED),
    "intake": ("unreadable",),
    "transfer": (lifecycle.ATTACHED,),
    "rollback": ("restored",),
    "score": ("scored", lifecycle.ATTACHED),
    "budget": (lifecycle.ATTACHED,),
    "cache": (lifecycle.ATTACHED,),
    "memory": (lifecycle.ATTACHED,),
    "seam": ("sealed", "imported"),
}
"""What stages that are no step of an intent's life may say."""

_ENDS_OF_A_CALL = ("released", "withheld", "failed")
_BEFORE_AN_OFFER = ("validated", "waiting")
"""What ends there was answered by the cache."""
_KNOWN = {*lifecycle.TABLE, *lifecycle.TERMINAL}


@dataclass(slots=True)
class Life:
    """One intent as far as the ledger went."""

    state: str
    release: str
    tool_class: str = ""
    attempt: int = 0
    claims: int = 0
    quorum: int = 0
    reviewers: tuple[str, ...] = ()
    agreed: tuple[str, ...] = ()


class Lives:
    """All intents of one partition. `bad(invariant, sentence)` is told of violations."""

    def __init__(self, bad: Callable[[str, str], None]) -> None:
        self._bad = bad
        self._lives: dict[str, Life] = {}
        self._buckets: dict[int, list[str]] = {}
        self._hour = 0
        self._key = ""
        self._life: Life | None = None
        self.control: Control | None = None
        """As of the current input; None where its head is not there, which is told already."""
        self.began = 0
        self.ended: Counter[str] = Counter()
        self.not_remembered = 0
        self.other: Counter[str] = Counter()

    def begin(self, rest: Rest) -> None:
        """The next records belong to this input."""
        hour = rest.decided_at // HOUR_US
        if hour > self._hour:
            self._forget(hour)
        self._key = f"{rest.tenant}\0{rest.agent_id}\0{rest.intent_id}"
        self._life = self._lives.get(self._key)

    def release_now(self) -> str:
        """The release the current input's intent was routed by, or an empty string."""
        return self._life.release if self._life else ""

    def step(self, stage: str, status: str, rest: Rest, facts: bytes) -> None:
        """One outcome. Raises `Unreadable` for damaged facts."""
        allowed = _OTHER.get(stage)
        if allowed is not None or status == lifecycle.ATTACHED:
            self.other[status] += 1
            if allowed is not None and status not in allowed:
                self._bad("lifecycle", f"stage `{stage}` cannot answer `{status}`")
            return
        if facts[: codec.PREFIX_BYTES] in reading.INTENTS:
            self._start(rest, status, facts)
            return
        life = self._life
        state = life.state if life else lifecycle.START
        if lifecycle.follow(state, status) is None:
            self._bad(
                "lifecycle", f"intent `{rest.intent_id}` went from `{state or 'nothing'}` to `{status}`"
            )
        if life is None or status not in _KNOWN:
            return
        self._offer_and_claim(life, rest, status, facts)
        if status in lifecycle.TERMINAL and life.state not in lifecycle.TERMINAL:
            self.ended[status] += 1
        life.state = status

    def _start(self, rest: Rest, status: str, facts: bytes) -> None:
        issued_at, remembered = reading_facts.intent_facts(facts)
        if not remembered:
            # Refused before its id could mean anything: no step in the life of an intent that bears the same id.
            self.not_remembered += 1
            if status != "refused":
                self._bad("lifecycle", f"intent `{rest.intent_id}` was not remembered, but `{status}`")
            return
        life = self._life
        state = life.state if life else lifecycle.START
        if lifecycle.follow(state, status) is None:
            self._bad(
                "lifecycle", f"intent `{rest.intent_id}` went from `{state or 'nothing'}` to `{status}`"
            )
        if life is not None:
            return
        self.began += 1
        self._life = self._lives[self._key] = Life(status, rest.release)
        self._buckets.setdefault((issued_at + ACCEPT_WINDOW_US) // HOUR_US + 1, []).append(self._key)
        if status in lifecycle.TERMINAL:
            self.ended[status] += 1

    def _offer_and_claim(self, life: Life, rest: Rest, status: str, facts: bytes) -> None:
        kind = facts[: codec.PREFIX_BYTES]
        if status == "held":
            self._ask(life, rest, facts, kind)
        elif status == "permitted" and life.state == "held" and len(set(life.agreed)) < life.quorum:
            self._bad(
                "approval",
                f"intent `{rest.intent_id}` went on after {len(set(life.agreed))} agreed, {life.quorum} were asked for",
            )
        elif status == "dispatched":
            if kind not in reading.PLANS:
                self._bad("readable", f"`{status}` of intent `{rest.intent_id}` has no plan in its facts")
                return
            life.tool_class, life.attempt = reading_facts.plan_facts(facts)
            if life.state == "parked" and life.tool_class != "queryable":
                self._bad(
                    "duplicates",
                    f"{life.tool_class} intent `{rest.intent_id}` was offered again from `parked`",
                )
        elif status == "claimed":
            attempt = reading_facts.first_long(facts) if kind == reading.CLAIM else -1
            life.claims += 1
            if attempt != life.attempt:
                self._bad(
                    "claim",
                    f"intent `{rest.intent_id}`: attempt {attempt} was claimed, {life.attempt} was offered",
                )
            if life.claims > 1 and life.tool_class == "irreversible":
                self._bad(
                    "duplicates", f"irreversible intent `{rest.intent_id}` was claimed {life.claims} times"
                )
        elif status == "in_doubt" and not life.claims:
            self._bad("claim", f"intent `{rest.intent_id}` is in doubt and was never claimed")
        elif status == "parked" and kind != reading.JOB:
            self._bad("readable", f"`{status}` of intent `{rest.intent_id}` has no job in its facts")
        elif status in _ENDS_OF_A_CALL and life.state in _BEFORE_AN_OFFER:
            if kind != reading.CACHE:
                self._bad("claim", f"intent `{rest.intent_id}` ended `{status}`, but was never offered")
        elif status in (*_ENDS_OF_A_CALL, "parked") and not life.claims and life.tool_class != "read_only":
            self._bad(
                "claim", f"{life.tool_class} intent `{rest.intent_id}` ended `{status}` without a claim"
            )

    def _ask(self, life: Life, rest: Rest, facts: bytes, kind: bytes) -> None:
        """People are asked, or one of them agreed."""
        if kind in reading.HOLDS:
            life.tool_class, life.quorum, roles = reading_facts.hold_facts(facts)
            life.reviewers, life.agreed = tuple(roles), ()
        elif kind == reading.REVIEW:
            said = reading_facts.review_facts(facts)
            if wrong := self._not_counted(life, rest, said):
                self._bad("approval", f"intent `{rest.intent_id}`: {wrong}")
            life.quorum, life.reviewers, life.agreed = (
                said.quorum,
                tuple(said.reviewers),
                tuple(said.approvals),
            )
        elif kind in reading.PLANS:  # written before holds had facts of their own
            life.tool_class, life.attempt = reading_facts.plan_facts(facts)
        else:
            self._bad("readable", f"`held` of intent `{rest.intent_id}` says nothing of people in its facts")

    def _not_counted(self, life: Life, rest: Rest, said: Agreed) -> str:
        """Why a word for a held call cannot have counted, or an empty string. Whose key signed it is `verify/contents.py`'s."""
        *before, last = said.approvals or [""]
        asked = set(said.reviewers)
        if rest.topic != "reviews" or last != said.reviewer:
            return f"`{last[:80]}` counts as having agreed, and no review of theirs says so"
        # INVARIANT: nobody agrees who is not registered, or has not the role (tests/unit/test_mutations.py).
        person = self.control.people.get(last) if self.control is not None else None
        if self.control is not None and (person is None or last in self.control.agents):
            return f"`{last[:80]}` agreed, and is no registered person"
        if person is not None and asked and asked.isdisjoint(person.roles):
            return f"`{last[:80]}` agreed, and has none of the roles that were asked for"
        if said.edited:
            return "approvals of other arguments count after an edit" if before else ""
        if not set(before) <= set(life.agreed):
            return f"{len(before)} had agreed before `{last[:80]}`, and no review of theirs says so"
        if life.quorum and (said.quorum, asked) != (life.quorum, set(life.reviewers)):
            return f"{life.quorum} people were asked for, and {said.quorum} when `{last[:80]}` agreed"
        return ""

    def _forget(self, hour: int) -> None:
        self._hour = hour
        for bucket in sorted(b for b in self._buckets if b <= hour):
            for key in self._buckets.pop(bucket):
                if self._lives[key].state in lifecycle.TERMINAL:
                    del self._lives[key]
                else:
                    self._buckets.setdefault(hour + 1, []).append(key)

    def ended_one(self, key: str) -> bool:
        """Whether an intent ended, by tenant, agent and id with zero bytes between."""
        life = self._lives.get(key)
        return life is not None and life.state in lifecycle.TERMINAL

    def counts(self) -> dict[str, object]:
        """What came in, how it ended, and what is open, for the check that nothing was left out."""
        still = Counter(life.state for life in self._lives.values() if life.state not in lifecycle.TERMINAL)
        ended = {
            status: self.ended[status]
            for status in (*lifecycle.DECIDED_TERMINAL, *lifecycle.EXECUTED_TERMINAL)
        }
        ended["refused"] += self.not_remembered
        return {
            "in": self.began + self.not_remembered,
            "accounted": sum(ended.values()) + still.total(),
            **ended,
            "open": dict(still),
            "other": dict(self.other),
        }
