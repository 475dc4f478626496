"""`python -m examples.03_team`: the walk of team.py on a real Kafka and ClickHouse, then five questions in SQL.

Everything is started here and ends with it; the state lies in a folder of its own. Some seconds to start, the first time more.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sluicegate.processors.control.tokens import public_keys
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import demo, stack
from sluicegate.streams.client import AgentClient
from sluicegate.streams.control import issuers, operations
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

team = importlib.import_module("examples.03_team.team")
tokens = importlib.import_module("examples.03_team.tokens")

CASHIER = {"person_id": "ana", "name": "Ana", "roles": ["cashier"]}
SEEN_LIMIT_S = 60.0
QUESTIONS = {
    "what became of each call": (
        "select agent_id, tool, state, last_reason from intents where tool in ('read_file', 'send_money') "
        "order by agent_id, first_decided_at"
    ),
    "who was refused what, at which stage": (
        "select agent_id, tool, stage, reason, count() as n from refusals group by all order by agent_id, reason"
    ),
    "what did people decide, and did they change it": (
        "select tool, decision, last_reviewer, was_edited from approvals"
    ),
    "how many calls did each agent ask for": (
        "select agent_id, count() as n from intents where kind = 'tool_call' group by agent_id order by agent_id"
    ),
    "does ClickHouse hold the ledger exactly": (
        "select count() > 0 and min(found = expected) and min(same_hash) from ingest_audit"
    ),
}  # fmt: skip
SEEN = "select countIf(reason = 'budget_exceeded') = 1 and countIf(reason = 'no_permit') = 2 from refusals"


async def prepare(settings: Settings) -> int:
    """Agents, the cashier, the customer's login and the release; the control head."""
    keys = Keys(settings.home)
    try:
        agents = operations.read_agents(team.RELEASE / "agents.yaml")
        await operations.register_agents(settings, keys, agents, "the team")
        await operations.register_people(settings, keys, [CASHIER], "who looks at payments")
        issuer = public_keys(tokens.jwks())
        await issuers.add_issuer(settings, keys, tokens.ISSUER, tokens.AUDIENCE, issuer, "", "the login")
        _, head = await operations.deploy(settings, keys, team.RELEASE, "the team's release")
        return head
    finally:
        keys.close()


async def walk(settings: Settings) -> object:
    """The walk, with the cashier's word by the command line."""

    async def agree(intent_id: str, arguments: dict[str, object]) -> None:
        command = ["approve", intent_id, "--as", "ana", "--edit", json.dumps(arguments), "--yes"]
        env = {**os.environ, **stack.environment_of(settings)}
        ran = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sluicegate.streams.cli", *command, env=env, stdout=subprocess.DEVNULL
        )
        assert await ran.wait() == 0, "the cashier's word was not taken"

    async with (
        AgentClient("reader-1", settings=settings) as reader,
        AgentClient("payer-1", settings=settings, channel=True) as payer,
    ):
        return await team.play(reader, payer, tokens.token(), agree)


def ask(settings: Settings) -> dict[str, list[tuple[object, ...]]]:
    """The answers, once ClickHouse has what the walk ended with."""
    client = connect(settings, "reader", database(settings))
    until = time.monotonic() + SEEN_LIMIT_S
    while not client.query(SEEN).result_rows[0][0]:
        assert time.monotonic() < until, "ClickHouse has not seen the walk"
        time.sleep(0.2)
    try:
        return {question: list(client.query(sql).result_rows) for question, sql in QUESTIONS.items()}
    finally:
        client.close()


def run(
    settings: Settings, say: Callable[[str], None] = print
) -> tuple[object, dict[str, list[tuple[object, ...]]]]:
    """Start everything, walk, ask, stop."""
    running = stack.start(settings, roles=("ledger", "projector"), say=say)
    try:
        settings = running.settings
        demo.wait_for_head(running, asyncio.run(prepare(settings)))
        found = asyncio.run(walk(settings))
        return found, ask(settings)
    finally:
        running.stop()


def main() -> None:
    """Show it."""
    with tempfile.TemporaryDirectory() as home:
        found, answers = run(replace(Settings.from_env(), home=Path(home), env="team"))
    for refused in found.injected:  # type: ignore[attr-defined]
        print(f"the letter's payment: {refused}")
    print(f"paid: {found.paid}\nthe budget: {found.budget}")  # type: ignore[attr-defined]
    for question, rows in answers.items():
        print(f"\n{question}?", *rows, sep="\n  ")


if __name__ == "__main__":
    main()
