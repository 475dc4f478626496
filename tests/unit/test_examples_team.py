"""Example 03 in memory: the injection moves nothing, the person's edit is what is paid, the budget ends it."""

from __future__ import annotations

import asyncio
import importlib

from sluicegate.processors.control.tokens import public_keys
from sluicegate.streams.local import Gate

team = importlib.import_module("examples.03_team.team")
tokens = importlib.import_module("examples.03_team.tokens")


def test_the_team() -> None:
    async def main() -> None:
        gate = Gate.local(team.RELEASE)
        keys = public_keys(tokens.jwks())
        gate.order("issuer.added", issuer=tokens.ISSUER, audience=tokens.AUDIENCE, keys=keys, prefix="")

        async def agree(intent_id: str, arguments: dict[str, object]) -> None:
            gate.approve(intent_id, arguments=arguments)

        async with gate.agent("reader-1") as reader, gate.agent("payer-1") as payer:
            walk = await team.play(reader, payer, tokens.token(), agree)
        judge(walk)

    asyncio.run(main())


def judge(walk: object) -> None:
    """What the walk must have come to, in memory and on the stack."""
    found = walk
    assert team.ATTACKER in found.letter and "INFORMATION" in found.letter  # type: ignore[attr-defined]
    assert [(r.stage, r.reason) for r in found.injected] == [("authorize", "no_permit")] * 2  # type: ignore[attr-defined]
    assert found.paid == [(team.LANDLORD, 120), (team.LANDLORD, 30)]  # type: ignore[attr-defined]
    assert found.budget is not None and found.budget.reason == "budget_exceeded"  # type: ignore[attr-defined]
