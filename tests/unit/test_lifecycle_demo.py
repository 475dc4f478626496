"""The lifecycle demo's parts: its release checks, refunds within the bound pass, and moments are marked where they happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sluicegate.streams.local import Gate
from sluicegate.streams.sdk.errors import Refused

from examples.lifecycle import tools
from examples.lifecycle.desk import GENEROUS
from examples.lifecycle.page import MARK_CSS, Marks, _chart, buckets

FOLDER = Path(__file__).parents[2] / "examples" / "lifecycle" / "release"


def test_the_desk_under_its_release() -> None:
    async def main() -> None:
        gate = Gate.local(FOLDER, tools={"shop.order": tools.order, "shop.refund": tools.refund})
        async with gate.agent("refunds-1", roles=["refunds"]) as agent, agent.session() as session:
            told = await session.prompt("refunds")
            assert GENEROUS not in getattr(told, "text", "")
            assert await session.call_tool("shop.order", {"order": "7"}) == {
                "order": "7",
                "paid": tools.paid("7"),
            }
            await session.call_tool("shop.refund", {"order": "7", "amount": tools.paid("7")})
            with pytest.raises(Refused) as refused:
                await session.call_tool("shop.refund", {"order": "7", "amount": tools.paid("7") + 500})
            assert refused.value.reason == "no_permit"
            await session.remember("style", "exact", scope="agent")

    asyncio.run(main())


def test_moments_are_marked_in_their_bucket() -> None:
    marks = Marks([(103.0, "canary starts"), (111.5, "alarm")])
    assert marks.labels([100, 105, 110]) == ["0 s ▲1", "", "10 s ▲2"]
    assert Marks([]).labels([100, 130, 135]) == ["0 s", "30 s", ""]


def test_what_happened_after_the_last_call_is_marked_too() -> None:
    moments = [(103.0, "canary starts"), (121.0, "restored")]
    times = buckets([110, 100], moments)
    assert times == [100, 105, 110, 115, 120]
    assert Marks(moments).labels(times)[-1] == "20 s ▲2"


def test_only_moments_are_marked_with_a_line() -> None:
    labels = Marks([(103.0, "alarm")]).labels([95, 100, 105])
    said = _chart("refused", labels, {"deployed": [0.1, 0.2, None]})
    assert (
        said.count('class="major guide line" /><text') - said.count('<text x="-5"') == 1 and "5 s ▲1" in said
    )
    assert ".axis.x .major.guide.line{opacity:1" in MARK_CSS
