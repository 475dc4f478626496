"""`sluicegate prove INTENT|POSITION`: proofs that events are in the log, to be checked offline."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import Annotated

import typer
from sluicegate.processors.transparency.proofs import Inclusion
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings


class ProofFormat(StrEnum):
    """Forms of a proof."""

    JSON = "json"
    JSONL = "jsonl"
    TLOG = "tlog-proof"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("prove")
    def prove(
        what: Annotated[
            str,
            typer.Argument(metavar="INTENT|POSITION", help="an intent's id, or PARTITION:SEQ, `control:SEQ`"),
        ],
        agent: Annotated[
            str, typer.Option("--agent", help="when several agents used the id; also faster")
        ] = "",
        output: Annotated[
            ProofFormat,
            typer.Option("-o", "--output", help="json, jsonl, or tlog-proof: C2SP's text, of one event"),
        ] = ProofFormat.JSON,
    ) -> None:
        """Prove that events are in the log, e.g. `sluicegate prove 3:17 > p.json`; check it by `checkpoint verify p.json`.

        Of an intent each of its records is proved.
        """
        found = asyncio.run(_made(attach(Settings.from_env()), what, agent))
        if output is ProofFormat.TLOG:
            if len(found) != 1:
                raise Terminal(
                    f"`{what[:80]}` has {len(found)} events, and tlog-proof holds one: name its position"
                )
            print(found[0].tlog_proof, end="")
        elif output is ProofFormat.JSONL or len(found) == 1:
            for one in found:
                print(json.dumps(one.as_json(), indent=2 if output is ProofFormat.JSON else None))
        else:
            print(json.dumps([one.as_json() for one in found], indent=2))


async def _made(settings: Settings, what: str, agent: str) -> list[Inclusion]:
    from sluicegate.streams.transparency.proving import Prover, parse_position

    prover = await Prover.open(settings)
    try:
        position = parse_position(what)
        return await prover.intent(what, agent) if position is None else [await prover.position(position)]
    finally:
        await prover.close()
