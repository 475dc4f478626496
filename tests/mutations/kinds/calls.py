"""What calls are said to have done: executions, claims, budgets, values that came back."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.schemas import records as r

from tests.driver import Event
from tests.forging import where, with_facts, with_header
from tests.mutations import scenes
from tests.mutations.registry import REPLAY, kind
from tests.mutations.scenes import Scene


def paid(events: list[Event]) -> int:
    """The claim of an irreversible call."""
    return next(
        i + 1 for i, e in enumerate(events[:-1])
        if isinstance(e.facts, r.PlanFacts) and e.facts.tool_class == "irreversible" and events[i + 1].header.status == "claimed"
    )  # fmt: skip


def as_review(scene: Scene, event: Event, before: Event) -> Event:
    """The event, as if it followed from one more review that stands on the topic."""
    offset = max(scene.inputs["reviews"]) + 1
    scene.inputs["reviews"] = {**scene.inputs["reviews"], offset: b"made up"}
    h = before.header
    return with_header(
        event, input_topic="reviews", input_offset=offset, decided_at=h.decided_at, release=h.release,
        control_head=h.control_head,
    )  # fmt: skip


def budget(events: list[Event], what: str, nth: int = 0) -> int:
    """Index of the nth word about a budget."""
    return [i for i, e in enumerate(events) if isinstance(e.facts, r.BudgetFacts) and e.facts.what == what][
        nth
    ]


@kind("a step is left out: an offer without a permit", "lifecycle")
def no_permit(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "permitted")
    scene.put(events[:at] + events[at + 1 :])
    return at


@kind("a claim is left out", "claim", also=("non_omission",))
def no_claim(scene: Scene) -> int:
    events = scene.events()
    at = paid(events)
    scene.put(events[:at] + events[at + 1 :])
    return at


@kind("a call that was refused is claimed", "lifecycle", also=("claim", "non_omission"))
def claim_without_permit(scene: Scene) -> int:
    events = scene.events()
    claim, refused = events[paid(events)], events[where(events, "refused", -1)]
    h = refused.header
    names = {
        "intent_id": h.intent_id,
        "session_id": h.session_id,
        "subject": h.subject,
        "agent_id": h.agent_id,
    }
    events.append(with_header(as_review(scene, claim, events[-1]), **names))
    scene.put(events)
    return len(events) - 1


@kind("a claim takes up another offer than was made", "claim")
def other_attempt(scene: Scene) -> int:
    return scene.rewrite(lambda events: paid(events), lambda event: with_facts(event, attempt=2))


@kind("an irreversible call is offered and claimed a second time", "duplicates", also=("lifecycle",))
def executed_twice(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "in_doubt")
    claim = max(i for i in range(at) if events[i].header.intent_id == events[at].header.intent_id and events[i].header.status == "claimed")  # fmt: skip
    plan = claim - 1
    while events[plan].header.status != "dispatched":
        plan -= 1
    again = with_header(events[plan], input_topic="tick", decided_at=events[claim].header.decided_at)
    events[claim + 1 : claim + 1] = [again]
    later = as_review(scene, events[claim], events[claim])
    # Its claim comes as one more receipt would: right behind the offer.
    scene.inputs["reviews"].popitem()
    offset = events[claim].header.input_offset
    events.insert(claim + 2, with_header(later, input_topic="receipts", input_offset=offset + 1))
    for i in range(claim + 3, len(events)):
        if events[i].header.input_topic == "receipts":
            events[i] = with_header(events[i], input_offset=events[i].header.input_offset + 1)
    scene.inputs["receipts"] = {**scene.inputs["receipts"], max(scene.inputs["receipts"]) + 1: b"made up"}
    scene.put(events)
    return claim + 2


@kind("a call that ended ends once more", "lifecycle")
def after_the_end(scene: Scene) -> int:
    events = scene.events()
    events.append(as_review(scene, events[where(events, "released", -1)], events[-1]))
    scene.put(events)
    return len(events) - 1


@kind("a call that was never made is said to have been answered", "claim", also=("lifecycle", "non_omission"))
def made_up_result(scene: Scene) -> int:
    events = scene.events()
    at = paid(events)
    end = next(i for i in range(at, len(events)) if events[i].header.status == "released")
    made_up = with_header(events[end], input_topic="tick", decided_at=events[at - 1].header.decided_at)
    scene.put([*events[:at], made_up, *events[at:]])
    return at


@kind("more is reserved than the cap allows", "budget", scene=scenes.budgeted)
def overspent(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: budget(events, "reserved", -1),
        lambda event: with_facts(event, reserved=[230]),
    )


@kind("less is said to be spent than was reserved for it and used", "budget", scene=scenes.budgeted)
def settled_otherwise(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: budget(events, "settled"),
        lambda event: with_facts(event, reserved=[-40]),
    )


@kind("a reservation is left out, its call goes on", "budget", scene=scenes.budgeted)
def unreserved(scene: Scene) -> int:
    events = scene.events()
    at = budget(events, "reserved")
    settled = budget(events, "settled")
    scene.put(events[:at] + events[at + 1 :])
    return settled - 1


@kind("an agent goes back to values it never had", "rollback", scene=scenes.rolled_back)
def other_values(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "restored")
    assert isinstance(events[at].facts, r.RestoreFacts)
    events[at] = with_facts(events[at], cells=[], forgotten=[bytes(16)])
    scene.put(events)
    return at


@kind("an agent is taken back although nobody ordered it", "rollback", scene=scenes.rolled_back)
def unordered(scene: Scene) -> int:
    return scene.rewrite(lambda events: where(events, "restored"), lambda event: with_facts(event, order=3))


@kind("an outcome names a release that was never deployed", "control_head")
def never_deployed(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "routed", 3)
    offset = events[at].header.input_offset
    scene.put([with_header(e, release="sha256:00") if e.header.input_topic == "intents" and e.header.input_offset == offset else e for e in events])  # fmt: skip
    return at


@kind("an outcome names the release of an earlier moment", "control_head")
def earlier_release(scene: Scene) -> int:
    events = scene.events()
    old = events[1].header.release
    at = where(events, "opened", -1)
    events[at] = with_header(events[at], release=old)
    scene.put(events)
    return at


@kind("an outcome names a control event that was not yet written", "control_head")
def future_head(scene: Scene) -> int:
    events = scene.events()
    events[-1] = with_header(events[-1], control_head=99)
    scene.put(events)
    return len(events) - 1


@kind("a refused call is said to have been permitted and offered", "status", by=REPLAY)
def permitted_after_all(scene: Scene) -> int:
    events = scene.events()
    at = next(i for i, e in enumerate(events) if e.header.status == "refused" and events[i - 1].header.status == "routed" and e.header.stage == "authorize")  # fmt: skip
    good = where(events, "permitted")
    own = {n: getattr(events[at].header, n) for n in ("intent_id", "session_id", "subject", "agent_id", "tenant", "decided_at", "input_topic", "input_offset", "control_head", "release")}  # fmt: skip
    events[at : at + 1] = [with_header(e, **own) for e in events[good : good + 3]]
    scene.put(events)
    return at


@kind("an irreversible call is said to be of a class that takes no claim", "facts.tool_class", by=REPLAY)
def other_class(scene: Scene) -> int:
    events = scene.events()
    at = paid(events)
    events[at - 1] = replace(events[at - 1], facts=replace(events[at - 1].facts, tool_class="read_only"))  # type: ignore[type-var]
    scene.put(events[:at] + events[at + 1 :])
    return at - 1


@kind("another policy is said to have decided", "policies", by=REPLAY)
def other_policy(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: where(events, "permitted", 4),
        lambda event: with_header(event, policies=["somebody-elses"]),
    )
