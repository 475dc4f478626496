"""Alarms of the sentinel, as control folds them: what is open, who is under review, and how much was done by itself.

    alarm.raised    {id, rule, stream, action, agent_id, tool, release, cool_down_s, …evidence}
    reproduce.sampled  {partition, counts, …}  a sample was decided again; changes nothing (`replay/reproduce_alarm.py`)
    alarm.acked     {id}                      a person has seen it: what it spent of the bounds comes back
    alarms.bounded  {unacknowledged, per_day}
    review.begun    {agent_id, why, alarm?}   every call of that agent needs a person
    review.ended    {agent_id}

Whoever has the role `sentinel`, or is the process of that name, may raise alarms and, citing one, do the one thing that it
asks for: `release.rolled_back`, `canary.aborted`, `agent.rolled_back`, `quarantine.added`, `review.begun`. How often is
bounded here, so that neither two sentinels nor one that went mad can do more. One that people gave the role `issuers`, too, may give an
issuer that is asked for its keys newer ones (`renews`). People are bound by none of this.
Pure. Next: `control/control.py` (who folds), `drift/rules.py` (what asks for an action), `authorize.py` (reviews).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sluicegate.processors.control.deployments import good_before, judged

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

RAISED: Final = "alarm.raised"
SAMPLED: Final = "reproduce.sampled"
ACKED: Final = "alarm.acked"
BOUNDED: Final = "alarms.bounded"
REVIEW_BEGUN: Final = "review.begun"
REVIEW_ENDED: Final = "review.ended"

SENTINEL: Final = "sentinel"
"""The name the process signs with, and the role of a registered person that makes anybody one."""

KEEPER: Final = "issuers"
"""The role of a registered person that lets a sentinel of a signed environment renew issuers' keys, too."""

NOTIFY, REVIEW, ROLLBACK_AGENT, ROLLBACK, QUARANTINE = (
    "notify", "review", "rollback_agent", "rollback", "quarantine",
)  # fmt: skip
ACTIONS = (NOTIFY, REVIEW, ROLLBACK_AGENT, ROLLBACK, QUARANTINE)
DOES: Final = {
    "release.rolled_back": ROLLBACK,
    "canary.aborted": ROLLBACK,
    "agent.rolled_back": ROLLBACK_AGENT,
    "quarantine.added": QUARANTINE,
    REVIEW_BEGUN: REVIEW,
}
"""Kind of event -> the action it carries out."""

MAX_ALARMS = 1_000
"""Remembered by control, about 600 bytes each: those that were acknowledged are forgotten first. ClickHouse keeps all."""
MAX_REVIEWS = 10_000
"""Agents under review at a time, about 200 bytes each."""
WHY_CHARS = 500
DAY_US = 86_400_000_000
LEAST_COOL_DOWN_US = 60_000_000
"""Between two alarms of one rule on one stream, whatever a rule says."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be done without a person, by all sentinels together.

    Attributes:
        unacknowledged: actions whose alarm nobody has acknowledged. This one needs no clock.
        per_day: actions within 24 h of decided time.
    """

    unacknowledged: int = 3
    per_day: int = 10


@dataclass(frozen=True, slots=True)
class Alarm:
    """What control knows of one alarm; its evidence stands in the event's body.

    Attributes:
        raised: control event that raised it, `at` its time.
        until: end of the data that it is about: the stream's detector begins anew there.
        began: about when the change came; an agent goes back to no other moment.
        acted: control event that did what it asks for, or -1.
        acked_by: the person who has seen it, or empty.
        held_back: why nothing was done although a rule asks for it.
    """

    alarm_id: str
    rule: str
    stream: str
    action: str
    agent_id: str
    tool: str
    release: str
    raised: int
    at: int
    until: int
    began: int = 0
    acted: int = -1
    acked_by: str = ""
    held_back: str = ""

    @property
    def open(self) -> bool:
        """Whether nobody has acknowledged it."""
        return not self.acked_by

    @property
    def target(self) -> tuple[str, str]:
        """(scope, id) that a quarantine stops: the agent that the stream is about, else its tool, else its release."""
        if self.agent_id:
            return "agent", self.agent_id
        return ("tool", self.tool) if self.tool else ("release", self.release)


def is_sentinel(control: Control, who: str) -> bool:
    """Whether an event of this author is bound by what follows."""
    person = control.people.get(who)
    return who == SENTINEL or (person is not None and SENTINEL in person.roles)


def may_act(control: Control, who: str, kind: str, body: Mapping[str, object]) -> str:
    """Empty when the event counts, else the reason in words. Anybody but a sentinel may do what operators may.

    INVARIANT: no number of sentinels does more than the bounds (tests/unit/test_alarm_events.py).
    """
    if not is_sentinel(control, who) or kind in (RAISED, SAMPLED) or judged(control, kind, body):
        return ""
    if renews(control, who, kind, body):
        return ""
    action = DOES.get(kind)
    alarm = control.alarms.get(str(body.get("alarm", "")))
    if action is None:
        return f"a sentinel raises alarms and acts on them, `{kind[:40]}` is for people"
    if alarm is None:
        return "it cites no alarm that control knows"
    if alarm.acted >= 0:
        return f"alarm `{alarm.alarm_id}` was acted on already, by control event {alarm.acted}"
    if alarm.action != action:
        return f"alarm `{alarm.alarm_id}` asks for `{alarm.action}`"
    return _misses(control, alarm, kind, body) or exhausted(control)


def renews(control: Control, who: str, kind: str, body: Mapping[str, object]) -> bool:
    """Whether it gives an issuer newer keys and changes nothing else of it, by who may.

    Whoever may do this can say for whom sessions are: in a signed environment it takes a role of its own, which only people give.
    """
    old = control.issuers.get(str(body.get("issuer", ""))) if kind == "issuer.added" else None
    # INVARIANT: nothing that acts by itself adds an issuer, or keys of one that people gave by a file (tests/unit/test_issuer_watch.py).
    if old is None or not old.discover:
        return False
    same = (body.get("audience"), body.get("prefix", ""), body.get("discover")) == (
        old.audience,
        old.prefix,
        True,
    )
    person = control.people.get(who)
    return same and (control.signing != "signed" or (person is not None and KEEPER in person.roles))


def exhausted(control: Control) -> str:
    """Which bound leaves no room for one more automatic action, in words; empty when there is room."""
    bounds = control.bounds
    waiting = sum(1 for a in control.alarms.values() if a.acted >= 0 and a.open)
    if waiting >= bounds.unacknowledged:
        return f"{waiting} automatic actions wait to be acknowledged, the bound is {bounds.unacknowledged}"
    recent = sum(1 for at in control.acts if at > control.at - DAY_US)
    if recent >= bounds.per_day:
        return f"{recent} automatic actions within a day, the bound is {bounds.per_day}"
    return ""


def cooling(control: Control, rule: str, stream: str, cool_down_us: int, now: int) -> bool:
    """Whether this rule spoke of this stream a moment ago."""
    wait = max(cool_down_us, LEAST_COOL_DOWN_US)
    return any(a.rule == rule and a.stream == stream and now - a.at < wait for a in control.alarms.values())


def _misses(control: Control, alarm: Alarm, kind: str, body: Mapping[str, object]) -> str:
    """Why the event is not about what the alarm is about."""
    if kind == "release.rolled_back":
        if alarm.release != control.deployed:
            return f"release `{alarm.release[:20]}` is not deployed any more"
        good = good_before(control)
        if not good or body.get("to") != good:
            return "it does not go back to a last known good release"
    elif kind == "canary.aborted":
        if control.canary is None or control.canary.digest != alarm.release:
            return f"release `{alarm.release[:20]}` is no running canary"
    elif kind == "quarantine.added":
        if (body.get("scope"), body.get("value")) != alarm.target:
            return f"the alarm is about {alarm.target[0]} `{alarm.target[1][:80]}`"
    elif not alarm.agent_id or body.get("agent_id") != alarm.agent_id:
        return f"the alarm is about agent `{alarm.agent_id[:80]}`"
    elif kind == "agent.rolled_back" and (body.get("at") != alarm.began or alarm.began <= 0):
        return f"the change began at {alarm.began}, and the agent would go back to {body.get('at')}"
    return ""


# -- steps of the fold: each changes the new `Control` ---------------------------------------------------------------


def raised(new: Control, body: Body, who: str) -> None:
    """One more alarm. The same id again, or the same rule and stream before it cooled down, changes nothing."""
    ident, action = str(body.get("id", "")), str(body.get("action", NOTIFY))
    rule, stream = str(body.get("rule", "")), str(body.get("stream", ""))
    # INVARIANT: two sentinels raise one alarm once (tests/unit/test_alarm_events.py::test_two_sentinels_raise_it_once).
    if not ident or ident in new.alarms or action not in ACTIONS:
        return
    if cooling(new, rule, stream, _number(body, "cool_down_s") * 1_000_000, new.at):
        return
    alarm = Alarm(
        ident, rule, stream, action, str(body.get("agent_id", "")), str(body.get("tool", "")),
        str(body.get("release", "")), new.head, new.at, _number(body, "until"), _number(body, "began"),
        held_back=str(body.get("held_back", ""))[:WHY_CHARS],
    )  # fmt: skip
    kept = {**new.alarms, ident: alarm}
    while len(kept) > MAX_ALARMS:
        kept.pop(_forgettable(kept))
    new.alarms = kept


def acked(new: Control, body: Body, who: str) -> None:
    """A person has seen it."""
    alarm = new.alarms.get(str(body.get("id", "")))
    if alarm is not None and alarm.open:
        new.alarms = {**new.alarms, alarm.alarm_id: replace(alarm, acked_by=who or "unknown")}


def bounded(new: Control, body: Body, who: str) -> None:
    """Other bounds. Nought is allowed: then nothing is done by itself."""
    old = new.bounds
    new.bounds = Bounds(
        max(0, _number(body, "unacknowledged", old.unacknowledged)), max(0, _number(body, "per_day", old.per_day))
    )  # fmt: skip


def review_begun(new: Control, body: Body, who: str) -> None:
    """From now on every call of the agent needs a person."""
    agent = str(body.get("agent_id", ""))
    if agent and (agent in new.reviews or len(new.reviews) < MAX_REVIEWS):
        new.reviews = {**new.reviews, agent: str(body.get("why", ""))[:WHY_CHARS]}


def review_ended(new: Control, body: Body, who: str) -> None:
    """What was held meanwhile stays held."""
    new.reviews = {k: v for k, v in new.reviews.items() if k != str(body.get("agent_id", ""))}


def acted(new: Control, who: str, kind: str, body: Mapping[str, object]) -> None:
    """After the step of an event that `may_act` let pass: what it spent."""
    alarm = new.alarms.get(str(body.get("alarm", "")))
    if alarm is None or kind not in DOES or alarm.acted >= 0:
        return
    new.alarms = {**new.alarms, alarm.alarm_id: replace(alarm, acted=new.head)}
    if is_sentinel(new, who):
        new.acts = tuple(at for at in (*new.acts, new.at) if at > new.at - DAY_US)


STEPS = {
    RAISED: raised, ACKED: acked, BOUNDED: bounded, REVIEW_BEGUN: review_begun, REVIEW_ENDED: review_ended,
}  # fmt: skip


def _forgettable(alarms: Mapping[str, Alarm]) -> str:
    """The oldest that was acknowledged, else that nothing was done about; what spent the bounds is forgotten last."""
    ranked = sorted(alarms.values(), key=lambda a: (a.open, a.acted >= 0, a.raised))
    return ranked[0].alarm_id


def _number(body: Mapping[str, object], name: str, default: int = 0) -> int:
    value = body.get(name, default)
    return int(value) if isinstance(value, int | float) and abs(value) < 2**53 else default
