"""Every kind of tampering is found by the command that has to, under its name, at its first position."""

from __future__ import annotations

import pytest
from sluicegate.processors.verify.invariants import INVARIANTS

from tests.forging import where, with_header
from tests.mutations import kinds, scenes
from tests.mutations.registry import CONTENTS, KINDS, REPLAY, Kind, run
from tests.mutations.table import PAGE, page, results, unnamed

assert kinds.__all__


@pytest.mark.parametrize("kind", KINDS, ids=[k.what for k in KINDS])
def test_it_is_found_and_named(kind: Kind) -> None:
    result = run(kind)
    assert result.ok, (result.place, result.wanted, result.names)
    assert kind.by == REPLAY or kind.name in INVARIANTS


@pytest.mark.parametrize("scene", [scenes.everyday, scenes.signed, scenes.budgeted, scenes.two_partitions, scenes.rolled_back, scenes.checkpointed, scenes.across, scenes.sealed])  # fmt: skip
def test_the_sound_ledger_is_found_sound(scene: object) -> None:
    assert callable(scene)
    assert scenes.found(scene(), contents=True) == {}


@pytest.mark.parametrize("kind", [k for k in KINDS if k.by in (CONTENTS, REPLAY)], ids=lambda k: k.what)
def test_only_the_command_that_is_said_finds_it(kind: Kind) -> None:
    """What the table says of other commands is no modesty: verify alone finds nothing there, or it would be in its row."""
    scene = scenes.copy(kind.scene())
    kind.tamper(scene)
    assert kind.name not in scenes.found(scene)


def test_what_an_auditor_kept_is_told_from_there_on() -> None:
    """Violations below the kept head are counted and not told again; its root is held to in any case."""
    scene = scenes.copy(scenes.checkpointed())
    scene.kept, scene.notes, scene.tiles = scene.notes[1], [], {}
    assert scenes.found(scene) == {}
    events = scene.events()
    late, early = where(events, "heard", -1), where(events, "heard")
    assert early < 400 < late
    events[late] = with_header(events[late], decided_at=1)
    scene.put(events)
    assert scenes.found(scene) == {"time": (0, late)}
    events[early] = with_header(events[early], decided_at=1)
    scene.put(events)
    assert scenes.found(scene) == {"time": (0, late), "checkpoint": (0, 0)}


def test_every_invariant_has_a_kind_of_tampering() -> None:
    elsewhere = {"clickhouse"}  # tests/contracts/test_verify_clickhouse.py
    assert set(unnamed(results())) <= elsewhere


def test_the_docs_list_every_invariant() -> None:
    text = (PAGE.parent / "verify.md").read_text("utf-8")
    for name, one in INVARIANTS.items():
        assert f"| `{name}` | {one.says} | {one.proof} | {one.asks} |" in text, name


def test_the_page_is_as_it_is_found() -> None:
    assert PAGE.read_text("utf-8") == page(results()), "run `python -m tests.mutations --write`"
