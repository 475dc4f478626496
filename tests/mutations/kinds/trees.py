"""Checkpoints and tiles: what nobody who has not the checkpointer's key can make fit, however well the chain does."""

from __future__ import annotations

from sluicegate.streams.transparency.tile_store import MemoryStore

from tests.driver import Driver, Event
from tests.forging import where, with_header
from tests.mutations import scenes
from tests.mutations.registry import SINCE, kind
from tests.mutations.scenes import Scene

TILES = ("tiles",)


def changed(events: list[Event], at: int) -> list[Event]:
    """One event's text is another: no rule says anything about it."""
    events[at] = with_header(events[at], labels=["harmless"])
    return events


@kind(
    "an event is changed and all after it made to fit: no rule is broken",
    "checkpoint",
    scene=scenes.checkpointed,
    also=TILES,
)
def rewritten(scene: Scene) -> int:
    events = scene.events()
    scene.put(changed(events, where(events, "opened", 3)))
    return 100  # between the heads of 100 and of 400


@kind("the same, and nobody but an auditor kept a head", "checkpoint", scene=scenes.checkpointed, by=SINCE)
def rewritten_since(scene: Scene) -> int:
    scene.kept, scene.notes, scene.tiles = scene.notes[1], [], {}
    events = scene.events()
    scene.put(changed(events, where(events, "opened", 1)))
    return 0


@kind(
    "the log is forked: another history from one event on",
    "checkpoint",
    scene=scenes.checkpointed,
    also=TILES,
)
def forked(scene: Scene) -> int:
    d = Driver()
    d.control_records, d.controls = scene.driver.control_records, scene.driver.controls
    d.everyday(2)
    d.say("something else", "s-1")
    d.everyday(6)
    scene.records, scene.inputs = d.records, d.inputs
    return 0


@kind("the ledger's tail is cut off", "checkpoint", scene=scenes.checkpointed, also=TILES)
def cut(scene: Scene) -> int:
    events = scene.events()
    h = events[-1].header
    scene.put(
        [
            e
            for e in events
            if (e.header.input_topic, e.header.input_offset) != (h.input_topic, h.input_offset)
        ]
    )
    return len(scene.records)


@kind("two heads of one size are signed", "checkpoint", scene=scenes.checkpointed)
def two_heads(scene: Scene) -> int:
    other = scenes.copy(scene)
    other.put(changed(other.events(), 50))
    scene.notes += scenes.tree_of(other.records, [100], MemoryStore())
    return 0


@kind("a head is signed by somebody else", "checkpoint", scene=scenes.checkpointed)
def other_key(scene: Scene) -> int:
    scene.notes.append(scenes.tree_of(scene.records, [200], MemoryStore(), "mallory")[0])
    return 0


@kind("a head's root is changed under its signature", "checkpoint", scene=scenes.checkpointed)
def other_root(scene: Scene) -> int:
    note, other = scene.notes[0], scene.notes[1]
    scene.notes[0] = note.replace(note.split("\n")[2], other.split("\n")[2], 1)
    return 0


@kind("a head of another log is put in", "checkpoint", scene=scenes.checkpointed)
def other_log(scene: Scene) -> int:
    scene.notes[0] = scene.notes[0].replace("/0\n", "/1\n", 1)
    return 0


@kind("a hash in a tile is changed", "tiles", scene=scenes.checkpointed, rechained=False)
def tile(scene: Scene) -> int:
    name, data = next((n, d) for n, d in scene.tiles.items() if n.endswith("tile/0/001"))
    scene.tiles[name] = data[:320] + bytes([data[320] ^ 1]) + data[321:]
    return 256 + 10


@kind("a tile is truncated", "tiles", scene=scenes.checkpointed, rechained=False)
def truncated(scene: Scene) -> int:
    name, data = next((n, d) for n, d in scene.tiles.items() if n.endswith("tile/0/000"))
    scene.tiles[name] = data[:-7]
    return 0


@kind("a tile is gone", "tiles", scene=scenes.checkpointed, rechained=False)
def gone(scene: Scene) -> int:
    del scene.tiles[max(n for n in scene.tiles if "tile/1/" in n)]
    return 0


@kind(
    "the tree beside the tiles is another one's",
    "checkpoint",
    scene=scenes.checkpointed,
    also=TILES,
    rechained=False,
)
def other_tree(scene: Scene) -> int:
    other, store = scenes.copy(scene), MemoryStore()
    other.put(changed(other.events(), 300))
    scenes.tree_of(other.records, [len(other.records)], store)
    scene.tiles = store.files
    return 0
