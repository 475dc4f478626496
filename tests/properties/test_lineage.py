"""Whatever followed from whatever, a call is taken back after all that followed from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.replay.lineage import Call, Lineage, cascade

AGENT = "a"


@st.composite
def ledgers(draw: st.DrawFn) -> Lineage:
    """Calls one after the other, each with values of some earlier results; some had no result."""
    lineage = Lineage("t")
    for n in range(draw(st.integers(1, 12))):
        call = Call(
            AGENT,
            f"i-{n}",
            draw(st.sampled_from("xy")),
            "t",
            0,
            3 * n,
            100 - n,
            "tool",
            "irreversible",
            "released",
        )
        call.end, call.event = (3 * n + 2, bytes([n])) if draw(st.booleans()) else (-1, b"")
        call.traced = draw(st.booleans())
        call.sources = {bytes([k]) for k in draw(st.sets(st.integers(0, n)))}
        lineage.calls[call.key] = call
    return lineage


@given(ledgers(), st.booleans())
def test_nothing_is_taken_back_before_what_followed_from_it(lineage: Lineage, seen: bool) -> None:
    found = cascade(lineage, (AGENT, "i-0"), seen=seen)
    order = [call.key for call in found.backwards(lineage)]
    assert sorted(order) == sorted(found.calls) and len(set(order)) == len(order)
    place = {key: n for n, key in enumerate(order)}
    for child, links in found.links.items():
        for link in links:
            assert place[child] < place[link.parent]
            parent = lineage.calls[link.parent]
            assert parent.end >= 0 and lineage.calls[child].at > parent.end, "nothing follows from no result"
    assert not set(found.unsure) & set(found.calls)
    assert not (seen and found.unsure)
