"""Seams: a generation's end and the next one's beginning, rewritten by somebody who makes chain and digests fit."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson
from sluicegate.schemas import records as r

from tests.driver import Event, read
from tests.forging import rechain, where, with_facts
from tests.mutations import scenes
from tests.mutations.registry import kind
from tests.mutations.scenes import Scene


def first_with(events: list[Event], row_kind: bytes) -> tuple[int, int]:
    """(event, row) of the first imported row of a kind."""
    for at, event in enumerate(events):
        if isinstance(event.facts, r.ImportFacts):
            for row, raw in enumerate(event.facts.rows):
                if row_kind in raw:
                    return at, row
    raise AssertionError("no such row")


def slice_of(events: list[Event], partition: int) -> list[int]:
    """Where the pieces of an old partition's slice stand."""
    facts = [(at, event.facts) for at, event in enumerate(events)]
    return [at for at, one in facts if isinstance(one, r.ImportFacts) and one.partition == partition]


def fit(events: list[Event], partition: int) -> int:
    """The digest of a slice is made to fit its rows, in all its pieces; where its first one stands."""
    total, places = hashlib.sha256(), slice_of(events, partition)
    for at in places:
        facts = events[at].facts
        assert isinstance(facts, r.ImportFacts)
        for row in facts.rows:
            total.update(len(row).to_bytes(8, "big") + row)
    for at in places:
        events[at] = with_facts(events[at], digest=total.digest())
    return places[0]


def forged(scene: Scene, row_kind: bytes, change: dict[str, object]) -> int:
    """One imported row says something else; the slice's digest is made to fit."""
    events = scene.events()
    at, row = first_with(events, row_kind)
    facts = events[at].facts
    assert isinstance(facts, r.ImportFacts)
    rows = list(facts.rows)
    rows[row] = orjson.dumps({**orjson.loads(rows[row]), **change}, option=orjson.OPT_SORT_KEYS)
    events[at] = with_facts(events[at], rows=rows)
    first = fit(events, facts.partition)
    scene.put(events)
    return first


@kind("an agent is imported without the labels of what it saw", "seam", scene=scenes.across)
def washed(scene: Scene) -> int:
    return forged(scene, b'"kind":"agent"', {"mark": 1})


@kind("an id that was used is not imported: it could be asked again", "seam", scene=scenes.across)
def forgotten(scene: Scene) -> int:
    return forged(scene, b'"kind":"ids"', {"ids": []})


@kind("a slice is left out", "seam", scene=scenes.across)
def left_out(scene: Scene) -> int:
    events = scene.events()
    places = slice_of(events, 1)
    del events[places[0] : places[-1] + 1]
    scene.put(events)
    return -1


@kind("an import names another root than was sealed", "seam", scene=scenes.across)
def other_root(scene: Scene) -> int:
    events = scene.events()
    for at in slice_of(events, 0):
        events[at] = with_facts(events[at], root=bytes(32))
    scene.put(events)
    return 1


@kind("rows are added to a slice behind its digest", "seam", scene=scenes.across)
def added(scene: Scene) -> int:
    events = scene.events()
    at, _ = first_with(events, b'"kind":"agent"')
    facts = events[at].facts
    assert isinstance(facts, r.ImportFacts)
    events[at] = with_facts(events[at], rows=[*facts.rows, facts.rows[-1]])
    scene.put(events)
    return -1


@kind("state is imported again, after the partition had begun to decide", "seam", scene=scenes.across)
def again(scene: Scene) -> int:
    events = scene.events()
    last = events[-1].header
    now = {"decided_at": last.decided_at, "control_head": last.control_head}
    late = Event(replace(events[1].header, **now), events[1].facts, None)  # type: ignore[arg-type]
    scene.put([*events, late])
    return len(events)


@kind(
    "a record of the sealed generation is changed, and all after it made to fit, the seal too",
    "seam",
    scene=scenes.across,
)
def before_it(scene: Scene) -> int:
    events = [read(x) for x in scene.before[0]]
    events[1] = Event(replace(events[1].header, labels=["harmless"]), events[1].facts, events[1].sealed)
    scene.before[0] = rechain(events, 0)
    return 0


@kind("something is decided after the seal", "seam", scene=scenes.sealed, also=("inputs", "non_omission"))
def after_the_seal(scene: Scene) -> int:
    events = scene.events()
    at = where(events, "heard")
    moved = events[at]
    last = events[-1].header
    header = replace(moved.header, decided_at=last.decided_at, control_head=last.control_head)
    scene.put([*events, Event(header, moved.facts, moved.sealed)])
    return len(events)


@kind("the seal names another root", "seam", scene=scenes.across)
def false_seal(scene: Scene) -> int:
    events = [read(x) for x in scene.before[1]]
    events[-1] = with_facts(events[-1], root=bytes(32))
    scene.before[1] = rechain(events, 1)
    return 0
