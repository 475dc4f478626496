"""Non-omission: what came in against what was decided."""

from __future__ import annotations

from tests.driver import OTHER_AGENT
from tests.forging import where, with_header
from tests.mutations import scenes
from tests.mutations.registry import CONTENTS, kind
from tests.mutations.scenes import Scene


@kind("an intent is left out, with everything that followed", "non_omission")
def left_out(scene: Scene) -> int:
    events = scene.events()
    gone = events[where(events, "refused", 2)].header
    scene.put([e for e in events if e.header.intent_id != gone.intent_id])
    return len(scene.records)


@kind("an intent is decided that never was on the topic", "non_omission")
def made_up(scene: Scene) -> int:
    events = scene.events()
    refused = events[where(events, "refused", 2)].header
    del scene.inputs["intents"][refused.input_offset]
    return len(events)


@kind("an input is decided a second time", "inputs", also=("time",))
def decided_twice(scene: Scene) -> int:
    events = scene.events()
    last, again = events[-1].header, events[where(events, "noted")]
    now = {"decided_at": last.decided_at, "release": last.release, "control_head": last.control_head}
    scene.put([*events, with_header(again, **now)])
    return len(events)


@kind(
    "an input's outcomes are torn apart",
    "inputs",
    also=("lifecycle", "content_commitment", "non_omission", "time", "claim"),
)
def torn(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "dispatched")
    moved = events.pop(at)
    events.insert(at + 1, moved)
    scene.put(events)
    return at + 1


@kind(
    "two inputs are decided in another order than they came",
    "inputs",
    also=("time", "non_omission", "lifecycle"),
)
def other_order(scene: Scene) -> int:
    events = scene.events()
    refused = [i for i, e in enumerate(events) if (e.header.stage, e.header.status) == ("route", "refused")]
    at = refused[0]  # a whole input: one outcome
    before = at - 1
    while events[before].header.input_offset == events[at - 1].header.input_offset and events[before].header.input_topic == "intents":  # fmt: skip
        before -= 1
    events.insert(before + 1, events.pop(at))
    events[before + 1] = with_header(events[before + 1], decided_at=events[before + 2].header.decided_at)
    scene.put(events)
    return before + 2


@kind("an outcome names an input of another topic", "inputs", also=("non_omission",))
def other_topic(scene: Scene) -> int:
    events = scene.events()
    events[-1] = with_header(events[-1], input_topic="replies")
    scene.put(events)
    return len(events) - 1


@kind("the input's signature is another's", "signature", scene=scenes.signed, by=CONTENTS)
def forged_signature(scene: Scene) -> int:
    d = scene.driver
    events = scene.events()
    at = where(events, "routed")
    h = events[at].header
    opened = d.keys.open(h.subject, h.event_id, events[at].sealed or b"")
    assert opened is not None
    value = opened[:-1] + bytes([opened[-1] ^ 1])
    events[at] = type(events[at])(h, events[at].facts, d.keys.seal(h.subject, h.event_id, value))
    scene.put(events)
    return at


@kind("a call is said to be another agent's", "attribution", by=CONTENTS)
def other_agent(scene: Scene) -> int:
    return scene.rewrite(
        lambda events: where(events, "opened", -1), lambda event: with_header(event, agent_id=OTHER_AGENT)
    )
