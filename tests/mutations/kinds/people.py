"""What people are said to have agreed to."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.schemas import records as r

from tests.driver import Event
from tests.forging import where, with_facts
from tests.mutations import scenes
from tests.mutations.registry import CONTENTS, kind
from tests.mutations.scenes import Scene


def agreed(events: list[Event], quorum: int, nth: int = 0, edited: bool = False) -> int:
    """A review that counted."""
    return [
        i for i, e in enumerate(events)
        if isinstance(e.facts, r.ReviewFacts) and e.facts.verdict == "approve" and e.facts.quorum == quorum and e.facts.edited is edited
    ][nth]  # fmt: skip


@kind("an approval is left out, the call goes on", "approval", also=("content_commitment",))
def without_approval(scene: Scene) -> int:
    events = scene.events()
    at = agreed(events, 1)
    scene.put(events[:at] + events[at + 1 :])
    return at


@kind("one person counts as two", "approval")
def counted_twice(scene: Scene) -> int:
    events = scene.events()
    at = agreed(events, 2)
    facts = events[at].facts
    assert isinstance(facts, r.ReviewFacts)
    events[at] = with_facts(events[at], approvals=[facts.reviewer, facts.reviewer])
    scene.put(events)
    return at


@kind("somebody agreed whom nobody asked", "approval")
def put_in(scene: Scene) -> int:
    events = scene.events()
    at = agreed(events, 2)
    facts = events[at].facts
    assert isinstance(facts, r.ReviewFacts)
    events[at] = with_facts(events[at], approvals=["person-4", facts.reviewer])
    scene.put(events)
    return at


@kind("an approval of nobody who is registered", "approval")
def unregistered(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: agreed(events, 1),
        lambda event: with_facts(event, approvals=["mallory"], reviewer="mallory"),
    )


@kind("an approval of somebody who has not the role", "approval")
def without_role(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: agreed(events, 2),
        lambda event: with_facts(event, approvals=["person-5"], reviewer="person-5"),
    )


@kind("fewer people are enough than were asked for", "approval")
def lower_quorum(scene: Scene) -> int:
    return scene.rewrite(lambda events: agreed(events, 2), lambda event: with_facts(event, quorum=1))


@kind("an approval is said to be another person's", "attribution", by=CONTENTS)
def anothers(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: agreed(events, 1),
        lambda event: with_facts(event, approvals=["person-3"], reviewer="person-3"),
    )


@kind("a rejection is said to be an approval", "attribution", by=CONTENTS, also=("lifecycle",))
def turned(scene: Scene) -> int:
    events = scene.events()
    at = next(i for i, e in enumerate(events) if e.header.reason == "approval_rejected")
    facts = events[at].facts
    assert isinstance(facts, r.ReviewFacts)
    header = replace(events[at].header, status="held", reason="")
    events[at] = Event(
        header, replace(facts, verdict="approve", approvals=[facts.reviewer]), events[at].sealed
    )
    scene.put(events)
    return at


@kind("an approval in a person's name under another key", "signature", scene=scenes.signed, by=CONTENTS)
def forged_approval(scene: Scene) -> int:
    d = scene.driver
    events = scene.events()
    at = agreed(events, 1)
    h, said = events[at].header, events[at].facts
    assert isinstance(said, r.ReviewFacts)
    word = r.Review("r-x", h.agent_id, h.intent_id, "approve", said.action_digest, said.reviewer, h.decided_at, "", h.release, None)  # fmt: skip
    value = d.sign(word, "reviews", "agent:" + h.agent_id)  # type: ignore[attr-defined]
    events[at] = Event(h, said, d.keys.seal(h.subject, h.event_id, value))
    scene.put(events)
    return where(events, "held", 1)
