"""Executors killed or stopped at every step of the claim protocol."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sluicegate.schemas.records import Reply

from tests.crash.harness import World, small_release, until, world

AGENTS_EACH = 2
"""Agents of one partition."""
TIMEOUT_MS = 2_000
"""Of a call, which a busy machine's tool server needs; a claim's lease runs out this long and 2 s after it."""
PAYS = ["irreversible"] * 3


@pytest.fixture(scope="module")
def running(kafka: str, clickhouse: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ledger and two executors; each case adds the executor that will not survive it."""
    home = tmp_path_factory.mktemp("claim-crash")
    release = small_release(home / "release", TIMEOUT_MS)
    with world(kafka, clickhouse, home, release, {"ledger": 1, "executor": 2}, each=AGENTS_EACH) as made:
        yield made


@pytest.mark.parametrize(
    ("point", "classes"),
    [
        # Nothing was claimed for good: everything is offered again, or read again, and runs once.
        ("claim.1.fetched", [*PAYS, "read_only", "idempotent"]),
        ("claim.2.sent", [*PAYS, "read_only", "idempotent"]),
        # Claimed, and nobody knows: in doubt.
        ("claim.3.committed", PAYS),
        ("claim.4.called", PAYS),
        ("claim.5.reported", PAYS),
        # May repeat, so it does, under the same key.
        ("claim.4.called", ["read_only", "read_only"]),
        ("claim.4.called", ["idempotent", "idempotent"]),
    ],
)
def test_killed(running: World, point: str, classes: list[str]) -> None:
    victim = running.add("executor", point)
    found = asyncio.run(running.ask_all(classes))
    running.died(victim)
    calls = running.judge()
    statuses = {name: {r.status for r in replies} for name, replies in found.items()}
    for name in {"read_only", "idempotent"} & set(classes):
        assert statuses[name] == {"released"}, "what may repeat is repeated"
    in_doubt = [r for r in found.get("irreversible", []) if r.status == "in_doubt"]
    if point in ("claim.1.fetched", "claim.2.sent"):
        assert statuses["irreversible"] == {"released"}
    elif "irreversible" in classes:
        assert statuses["irreversible"] <= {"released", "in_doubt"}
        if point == "claim.3.committed":
            assert in_doubt and all(calls[name_of(r)] == 0 for r in in_doubt)
        elif point == "claim.4.called":
            assert any(calls[name_of(r)] == 1 for r in in_doubt)
    else:
        [name] = set(classes)
        assert max(calls[name_of(r)] for r in found[name]) == 2, "the call whose receipt was lost ran again"
    running.wait_members("executor", 2)


def test_stopped_in_a_claim(running: World) -> None:
    """An executor that stands still past its session with an open claim is fenced, and calls nothing late."""
    victim = running.add("executor", "claim.2.sent:1:stop")
    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(lambda: asyncio.run(running.ask_all(PAYS)))
        try:
            running.stopped(victim)
            running.wait_members("executor", 2)
            found = asking.result()
        finally:
            victim.process.send_signal(signal.SIGCONT)
    assert {r.status for r in found["irreversible"]} == {"released"}
    # Its claim had a limit of 5 s, so that is what it usually finds first; the commit it had asked for is refused.
    until(lambda: " tainted by " in victim.log.read_text(), "the stopped executor gave the claim up")
    running.wait_members("executor", 3)
    assert {r.status for r in asyncio.run(running.ask_all(PAYS))["irreversible"]} == {"released"}
    assert victim.process.poll() is None
    running.judge()


def name_of(reply: Reply) -> str:
    return f"{reply.agent_id}/{reply.intent_id}"
