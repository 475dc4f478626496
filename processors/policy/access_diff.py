"""Who may ask for what, in two releases: per role or agent and tool, who gains and who loses.

Two questions of each: may it be called at all, perhaps after people agreed; and may it be called without asking anybody.
Of both releases' policies that speak of the tool and the role, one answer is wider when each of its permits covers one of
the other's and none of its forbids is more. That is proved, never tried out: where it cannot be proved the answer is "may".
An agent of several roles has what any of them has. Pure. Next: `policy/logic.py` (what follows from conditions),
`releases/diff.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sluicegate.processors.approval.holds import HOLD, hold_of
from sluicegate.processors.policy.cedar import OBSERVE, Json, Policy, names_action
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.policy.logic import implies, impossible, reach_of
from sluicegate.processors.releases.release import CompiledRelease

ANYBODY = ("all", "")
NOBODY = ("none", "")
Subject = tuple[str, str]
"""("role" | "agent", id); `ANYBODY`: every agent; `NOBODY`: an agent without any role or name that a policy has."""

GAINS, LOSES, MAY = "gains", "loses", "may"
"""What a release does for somebody: more, less, or more and less, or what nobody can prove."""


@dataclass(frozen=True, slots=True)
class Access:
    """One difference: for whom, which tool, `gains`, `loses` or `may`, and in words."""

    subject: Subject
    tool: str
    change: str
    said: str


@dataclass(frozen=True, slots=True)
class _Rules:
    """The policies that speak of one subject and one tool."""

    permits: tuple[Policy, ...]
    forbids: tuple[Policy, ...]

    def freely(self) -> _Rules:
        """As it is while nobody agreed to anything."""
        return _Rules(tuple(p for p in self.permits if HOLD not in p.annotations), self.forbids)

    def at_all(self) -> _Rules:
        """As it is once everybody who is asked agreed."""
        return _Rules(self.permits, tuple(p for p in self.forbids if HOLD not in p.annotations))

    def nothing(self) -> bool:
        """Whether nothing is permitted: no permit, or each one forbidden again."""
        return all(any(_covers(f, p) for f in self.forbids) for p in self.permits)

    def boundless(self) -> bool:
        """Whether everything is permitted."""
        return not self.forbids and any(_unconditional(p) for p in self.permits)

    def within(self, other: _Rules) -> bool:
        """Whether the other permits all that this one permits."""
        live = [p for p in self.permits if not any(_covers(f, p) for f in self.forbids)]
        return all(any(_covers(wide, p) for wide in other.permits) for p in live) and all(
            any(_covers(mine, f) for mine in self.forbids) for f in other.forbids
        )


class _Side:
    """One release's policies, asked about subjects and tools."""

    def __init__(self, release: CompiledRelease) -> None:
        book = release.book
        live = [p for p in book.policies if p.annotations.get("mode") != OBSERVE and not impossible(p)]
        self.tools = set(release.tools) | (
            {HANDOFF} if any(names_action(p, HANDOFF) for p in live) else set()
        )
        self._reach = [
            (
                p,
                reach_of(
                    p, [*release.tools, HANDOFF] if names_action(p, HANDOFF) else release.tools, book.ways
                ),
            )
            for p in live
        ]
        self.subjects: set[Subject] = {reach.principal for _, reach in self._reach}
        self.subjects |= {("role", role) for role in release.roles}

    def rules(self, subject: Subject, tool: str) -> _Rules:
        mine = [
            p for p, reach in self._reach if tool in reach.tools and reach.principal in (ANYBODY, subject)
        ]
        return _Rules(
            tuple(p for p in mine if p.effect == "permit"), tuple(p for p in mine if p.effect == "forbid")
        )


def access(old: CompiledRelease, new: CompiledRelease) -> list[Access]:
    """Every difference, by subject and tool. What is the same for every role and agent is said once, of `ANYBODY`."""
    before, after = _Side(old), _Side(new)
    subjects = sorted((before.subjects | after.subjects) - {ANYBODY})
    found: list[Access] = []
    for tool in sorted(before.tools | after.tools):
        answers = {
            one: _compare(before.rules(one, tool), after.rules(one, tool)) for one in (ANYBODY, *subjects)
        }
        general = answers[ANYBODY]
        if all(answer == general for answer in answers.values()):
            answers = {ANYBODY: general}
        elif general is not None:
            answers = {(NOBODY if one == ANYBODY else one): answer for one, answer in answers.items()}
        found += [Access(one, tool, *answer) for one, answer in answers.items() if answer is not None]
    return sorted(found, key=lambda a: (a.subject, a.tool))


def _compare(old: _Rules, new: _Rules) -> tuple[str, str] | None:
    """(gains | loses | may, in words), or None when nothing changed."""
    was, now = old.at_all(), new.at_all()
    if was.nothing() and now.nothing():
        return None
    if was.nothing():
        return GAINS, f"could not call it, now may{_how(new)}"
    if now.nothing():
        return LOSES, f"could call it{_how(old)}, now cannot"
    wider, narrower = was.within(now), now.within(was)
    if not (wider and narrower):
        changed = _named(old, new)
        if was.boundless() and narrower:
            return LOSES, f"could call it whatever the arguments, now{_how(new)}"
        if now.boundless() and wider:
            return GAINS, f"could call it{_how(old)}, now whatever the arguments"
        if wider:
            return GAINS, f"may call it in more cases, in none fewer{changed}"
        if narrower:
            return LOSES, f"may call it in fewer cases, in none more{changed}"
        return MAY, f"may gain some cases and may lose others{changed}"
    return _asking(old, new)


def _asking(old: _Rules, new: _Rules) -> tuple[str, str] | None:
    """The same calls as before: whether people are asked about more or fewer of them, or others are."""
    was, now = old.freely(), new.freely()
    wider, narrower = was.within(now), now.within(was)
    if not narrower and wider:
        what = "no person is asked any more" if not _asks(new) else "people are asked in fewer cases"
        return GAINS, what + _named(old, new)
    if not wider and narrower:
        what = "people are asked now, who were not" if not _asks(old) else "people are asked in more cases"
        return LOSES, what + _named(old, new)
    if not wider:
        return MAY, f"people may be asked in other cases than before{_named(old, new)}"
    before, after = _people(old), _people(new)
    return None if before == after else (MAY, f"who has to agree changed: {before}, now {after}")


def _asks(rules: _Rules) -> bool:
    return any(HOLD in p.annotations for p in (*rules.permits, *rules.forbids))


def _people(rules: _Rules) -> str:
    hold = hold_of([*rules.permits, *rules.forbids])
    if hold is None:
        return "nobody"
    whom = f"of {' or '.join(hold.reviewers)}" if hold.reviewers else "of anybody registered"
    return f"{hold.quorum} {whom} within {hold.expires_us // 1_000_000} s"


def _how(rules: _Rules) -> str:
    """Under which conditions, as far as one sentence says it."""
    free = rules.freely()
    if free.boundless():
        return " whatever the arguments"
    text = ""
    if not free.permits:
        text = f" after {_people(rules)} agreed"
    conditional = [p for p in rules.permits if not _unconditional(p)]
    if len(rules.permits) == 1 and conditional:
        text += f" {condition_of(conditional[0])}"
    elif conditional and len(conditional) == len(rules.permits):
        text += f" by any of {_ids(conditional)}"
    hard = [f for f in rules.forbids if HOLD not in f.annotations]
    if hard:
        text += f", but for what {_ids(hard)} forbids,"
    return text or " in some cases"


def _named(old: _Rules, new: _Rules) -> str:
    """` (by ...)`: the policies that differ."""
    before = {p.policy_id: p.text for p in (*old.permits, *old.forbids)}
    after = {p.policy_id: p.text for p in (*new.permits, *new.forbids)}
    differ = sorted(i for i in before.keys() | after.keys() if before.get(i) != after.get(i))
    return f" (by {', '.join(f'`{i}`' for i in differ)})" if differ else ""


def _ids(policies: Iterable[Policy]) -> str:
    return ", ".join(f"`{p.policy_id}`" for p in policies)


def condition_of(policy: Policy) -> str:
    """The policy's conditions as its author wrote them, in one line."""
    words = " ".join(policy.source.text.rstrip().removesuffix(";").split())
    starts = [at for at in (words.find(" when {"), words.find(" unless {")) if at >= 0]
    return words[min(starts) + 1 :].strip() if starts else ""


def _unconditional(policy: Policy) -> bool:
    return not policy.est.get("conditions") and _resource(policy) is None


def _covers(wide: Policy, narrow: Policy) -> bool:
    """Whether `wide` speaks of every call that `narrow` does; both speak of the tool and the subject already, and a
    policy for everybody is wider than one for a role only when their conditions say so."""
    return _resource(wide) in (None, _resource(narrow)) and implies(narrow, wide)


def _resource(policy: Policy) -> Mapping[str, Json] | None:
    """The one resource that the scope names, which is a candidate where the action is an alias of models; None for any."""
    part = cast("dict[str, Json]", policy.est["resource"])
    entity = cast("dict[str, str]", part.get("entity") or {})
    actions = _actions(policy)
    own = part["op"] == "==" and actions and all(entity.get("id") == name for name in actions)
    return None if part["op"] == "All" or own else part


def _actions(policy: Policy) -> Sequence[str]:
    scope = cast("dict[str, Json]", policy.est["action"])
    named = [scope.get("entity"), *cast("list[Json]", scope.get("entities") or [])]
    return [cast("dict[str, str]", e)["id"] for e in named if e]
