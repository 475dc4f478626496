"""The canary's bar: over 100,000 sessions its weight is met within 1 % of the sessions, and no session changes its arm.

Sessions of 50 agents on three partitions open one after the other and speak again later: after a pause, a resumption, a pin of
others and more deployments of nothing. Every message goes through `decide` and `apply`; what is compared is the release in
the outcome's header. Besides, the draw alone is looked at over 50 other canaries. No Kafka. `BENCH_CANARY_SESSIONS` makes it smaller.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass

import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import Canary, drawn
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.one_partition import OnePartition
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import partition_of

from bench import common
from bench.common import Result

SESSIONS = int(os.environ.get("BENCH_CANARY_SESSIONS", "100000"))
AGENTS, PARTITIONS, WEIGHT_BP = 50, 3, 1_000
OTHER_CANARIES = 50
T0 = 1_795_000_000_000_000
LOG_ID = bytes(16)
Event = tuple[str, dict[str, object]]


@dataclass
class Found:
    """What came of a run. `moved`: sessions whose second message was decided under another release than their first."""

    sessions: int
    drawn: int
    moved: int
    seconds: float

    @property
    def error(self) -> float:
        """How far the share is from the weight, in parts of all sessions."""
        return abs(self.drawn / self.sessions - WEIGHT_BP / 10_000)


class Gate:
    """Three partitions under one control."""

    def __init__(self) -> None:
        self.one, self.two = (
            compile_release({"release.yaml": f"name: bench\nversion: '{v}'\n"}) for v in (1, 2)
        )
        names = [{"agent_id": f"agent-{n}"} for n in range(AGENTS)]
        self.agents = [str(row["agent_id"]) for row in names]
        self.control = Control()
        self.order("genesis", log_id=LOG_ID.hex(), env="bench", partitions=PARTITIONS, signing="dev")
        self.order("agents.registered", agents=names)
        for release in (self.one, self.two):
            self.order("release.published", digest=release.digest, name=release.name, version=release.version)
        self.order("release.deployed", digest=self.one.digest)
        # Each is the only partition of a ledger of its own: whose home an agent is, is not the point here.
        self.parts = [
            OnePartition(self.control, PartitionState(LOG_ID, p, 1, "bench")) for p in range(PARTITIONS)
        ]
        self.now = T0

    def order(self, kind: str, /, **body: object) -> None:
        """One control event."""
        facts = r.ControlFacts(kind, "bench", "", rfc8785.dumps(body))  # type: ignore[arg-type]
        made = control_fold.fold(self.control, self.control.head + 1, facts)
        releases: dict[str, CompiledRelease] = {one.digest: one for one in (self.one, self.two)}
        made.releases, made.release = releases, releases.get(made.deployed)
        self.control = made
        for part in getattr(self, "parts", ()):
            part.control = made

    def say(self, kind: str, session: str, agent: str) -> str:
        """One message, and the release it was decided under."""
        self.now += 100
        message = r.Message(uuid.uuid4().hex, agent, session, kind, self.now)
        part = self.parts[partition_of(agent, PARTITIONS)]
        decision = part.take("messages", codec.encode(message), self.now)[0]
        part.outcomes.clear()
        part._contents.clear()
        return decision.outcomes[0].origin.release


def play(sessions: int, seed: int = 7) -> Found:
    """Open so many sessions under a canary, then let each speak again."""
    rng = random.Random(seed)
    gate, began = Gate(), time.perf_counter()
    gate.order("canary.started", digest=gate.two.digest, weight_bp=WEIGHT_BP)
    stood: dict[tuple[str, str], str] = {}
    for _ in range(sessions):
        session, agent = f"{rng.getrandbits(64):x}", rng.choice(gate.agents)
        stood[session, agent] = gate.say("session.open", session, agent)
    gate.order("canary.paused", paused=True)
    gate.order("agents.registered", agents=[{"agent_id": "another"}])
    gate.order("release.pinned", scope="agent", value="another", digest=gate.two.digest)
    moved = 0
    for at, ((session, agent), release) in enumerate(stood.items()):
        if at == sessions // 2:
            gate.order("canary.paused", paused=False)
        moved += gate.say("session.user_said", session, agent) != release
    arms = Counter(stood.values())
    return Found(sessions, arms[gate.two.digest], moved, time.perf_counter() - began)


def worst_draw(sessions: int, canaries: int, seed: int = 11) -> float:
    """The largest error of the share over other canaries, each with sessions of its own."""
    rng = random.Random(seed)
    worst = 0.0
    for number in range(canaries):
        canary = Canary("x", WEIGHT_BP, number)
        hits = sum(drawn(canary, "agent", f"{rng.getrandbits(64):x}") for _ in range(sessions))
        worst = max(worst, abs(hits / sessions - WEIGHT_BP / 10_000))
    return worst


def main() -> None:
    """Run it, and write what came of it."""
    found = play(SESSIONS)
    worst = worst_draw(SESSIONS, OTHER_CANARIES)
    how = f"{found.sessions} sessions of {AGENTS} agents on {PARTITIONS} partitions, {found.drawn} drawn at {WEIGHT_BP / 100:g} %, by decide and apply"
    common.write(
        "canary_draw",
        [
            Result("canary.weight_error_pct", 100 * found.error, "% of the sessions", how),
            Result("canary.weight_error_worst_pct", 100 * worst, "% of the sessions", f"the largest of {OTHER_CANARIES} other canaries, {SESSIONS} sessions each"),
            Result("canary.sessions_that_changed_arm", found.moved, "sessions", "each spoke again, after a pause, a resumption and a pin"),
        ],
    )  # fmt: skip
