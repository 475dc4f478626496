"""Whoever can write the topic, or the disk, and does not make the chain fit; and one who makes it fit but not its ids."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import Record, read
from tests.forging import rechain, where, with_header
from tests.mutations import scenes
from tests.mutations.registry import kind
from tests.mutations.scenes import Scene


def edit(scene: Scene, at: int, **changes: object) -> None:
    """Change parts of one record's bytes: `header` fields by name, or `facts` or `content` as a whole."""
    outcome = codec.decode_as(r.Outcome, scene.records[at].value)
    parts = {name: changes.pop(name) for name in ("facts", "content") if name in changes}
    if changes:
        parts["header"] = codec.encode(replace(read(scene.records[at]).header, **changes))  # type: ignore[arg-type]
    scene.records[at] = Record(scene.records[at].offset, codec.encode(replace(outcome, **parts)))  # type: ignore[arg-type]


@kind("a bit of a header is flipped", "chain", rechained=False)
def flip(scene: Scene) -> int:
    at = where(scene.events(), "permitted")
    policy = read(scene.records[at]).header.policies[0]
    edit(scene, at, policies=[chr(ord(policy[0]) ^ 1) + policy[1:]])
    return at + 1


@kind("a record is damaged", "readable", also=("non_omission",), rechained=False)
def damage(scene: Scene) -> int:
    scene.records[40] = Record(scene.records[40].offset, scene.records[40].value[:-7])
    return 40


@kind("a record is dropped", "dense", also=("chain", "lifecycle", "event_id"), rechained=False)
def drop(scene: Scene) -> int:
    at = where(scene.events(), "validated", 3)
    del scene.records[at]
    return at


@kind("a record is inserted again", "dense", also=("chain", "lifecycle"), rechained=False)
def insert(scene: Scene) -> int:
    at = where(scene.events(), "heard", 1)
    scene.records.insert(at + 1, scene.records[at])
    return at + 1


@kind("two records change places", "dense", also=("chain", "lifecycle"), rechained=False)
def reorder(scene: Scene) -> int:
    at = where(scene.events(), "permitted", 2)
    scene.records[at : at + 2] = reversed(scene.records[at : at + 2])
    return at


@kind("facts are edited", "facts_hash", rechained=False)
def facts(scene: Scene) -> int:
    at = where(scene.events(), "dispatched", 1)
    plan = read(scene.records[at]).facts
    edit(scene, at, facts=codec.encode(replace(plan, not_after=1)))  # type: ignore[type-var]
    return at


@kind("content is edited", "content_commitment", rechained=False)
def content(scene: Scene) -> int:
    edit(scene, 3, content=b"something else")
    return 3


@kind("content is taken out", "content_commitment", rechained=False)
def without_content(scene: Scene) -> int:
    edit(scene, 3, content=None)
    return 3


@kind("content and its commitment are taken out", "content_commitment")
def without_commitment(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "routed", 2)
    events[at] = replace(events[at], sealed=None)
    scene.put(events)
    return at


@kind("the contents of two events are swapped, commitments too", "sealed", by="ledger verify --contents")
def swap_contents(scene: Scene) -> int:
    events = scene.events()
    a, b = where(events, "routed", 1), where(events, "routed", 2)
    events[a], events[b] = (
        replace(events[a], sealed=events[b].sealed),
        replace(events[b], sealed=events[a].sealed),
    )
    scene.put(events)
    return a


@kind("a record of another partition is replayed here", "log_id", scene=scenes.two_partitions,
      also=("dense", "chain", "event_id", "inputs", "partition", "time", "lifecycle", "content_commitment"), rechained=False)  # fmt: skip
def other_partition(scene: Scene) -> int:
    scene.records.append(Record(scene.records[-1].offset + 1, scene.others[-1].value))
    return read(scene.others[-1]).header.seq


@kind(
    "a call of an agent of another partition is written here",
    "partition",
    scene=scenes.two_partitions,
    also=("inputs",),
)
def foreign_agent(scene: Scene) -> int:
    events, last = scene.events(), scene.events()[-1].header
    seq = len(events)
    for other in (read(x) for x in scene.others[-4:]):
        offset = len(scene.inputs["intents"])
        events.append(
            with_header(
                other, decided_at=last.decided_at, input_partition=scene.partition, input_offset=offset
            )
        )
    scene.inputs["intents"] = {**scene.inputs["intents"], len(scene.inputs["intents"]): b"x"}
    scene.put(events)
    return seq


@kind("the rest of a ledger is that of another log", "log_id", also=("chain", "event_id"), rechained=False)
def other_log(scene: Scene) -> int:
    tail = rechain(scene.events(), 0, bytes(16))[100:]
    scene.records[100:] = tail
    return 100


@kind("the genesis names another number of partitions", "genesis")
def genesis(scene: Scene) -> int:
    events = scene.events()
    events[0] = replace(events[0], facts=replace(events[0].facts, partitions=7))  # type: ignore[type-var]
    scene.put(events)
    return 0


@kind(
    "the first records are cut off",
    "genesis",
    also=("control_head", "lifecycle", "inputs", "event_id", "non_omission"),
)
def head_cut(scene: Scene) -> int:
    scene.put(scene.events()[1:])
    return 0


@kind("an event bears another one's id", "event_id", also=("chain",), rechained=False)
def event_id(scene: Scene) -> int:
    edit(scene, 50, event_id=read(scene.records[49]).header.event_id)
    return 50


@kind("an outcome is dated back", "time")
def dated_back(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "heard", 2)
    events[at] = with_header(events[at], decided_at=events[at - 1].header.decided_at - 1)
    scene.put(events)
    return at
