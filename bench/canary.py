"""A bad canary until it is aborted, and an even one that must not be.

    simulated   the judge alone, 20 seeds: sessions until the abort; 2,000 seeds without a difference: false aborts
    real        Kafka, chDB, three ledger workers, executor, projector, monitor: seconds from the canary's start to the abort, and
                from the abort to the last decision under the bad release anywhere

The agent reads its session's release and misuses a parameter at that release's seeded rate: good 2 %, bad 15 % of its calls.
Sessions of five calls, 100 intents/s, 10 % canary, the rules nobody configured.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from sluicegate.processors.canary.judge import ABORT, CONTINUE, Judge
from sluicegate.processors.canary.rules import COUNTED, DEFAULT_RULES, QUALITY, CanaryRules
from sluicegate.processors.canary.scores import CANARY, CONTROL, Item, draw_of, in_arm, tie_of
from sluicegate.processors.control.deployments import Canary, drawn
from sluicegate.processors.evalues import at_most
from sluicegate.schemas.records import Intent, Message
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import demo, stack, topics
from sluicegate.streams.control import deployments, operations
from sluicegate.streams.control import log as control_log
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import canary_evidence

from bench import calls, common
from bench.common import Result, quantile

GOOD, BAD = 0.02, 0.15
CALLS, INTENTS_PER_S, WEIGHT_BP = 5, 100.0, 1_000
SEEDS = 20
REAL_SEEDS = int(os.environ.get("BENCH_SEEDS", "20"))
NULL_RUNS = int(os.environ.get("BENCH_NULL_RUNS", "2000"))
NULL_SESSIONS = 2_000
PARTITIONS, WORKERS = 6, 3
LIMIT_S, AFTER_S = 90.0, 3.0


def items(seed: int, bad: float, sessions: int) -> Iterator[Item]:
    """Sessions of both arms, closing one after the other; five calls, of which some are misused and refused."""
    chance, canary = Random(seed), Canary("bad", WEIGHT_BP, seed, control="good")
    for n in range(sessions):
        draw = draw_of(canary, "agent", f"s{n}")
        arm = CANARY if in_arm(canary, draw) else CONTROL
        misused = any(chance.random() < (bad if arm == CANARY else GOOD) for _ in range(CALLS))
        scores = (("failure", 0), ("refusal", 100 * misused), ("withheld", 0), ("ungrounded", 0))
        yield Item(n, 0, n, arm, tie_of(draw), scores)


def noisy(seed: int) -> Iterator[Item]:
    """Every metric varies and none differs, so that all of alpha is at stake."""
    chance = Random(seed)
    for item in items(seed, GOOD, NULL_SESSIONS):
        rows = [(name, 100 * (chance.random() < 0.1)) for name in COUNTED]
        yield item._replace(scores=(*rows, (QUALITY, chance.choice((0, 50, 100)))))


def simulated(seed: int, stream: Iterable[Item], rules: CanaryRules = DEFAULT_RULES) -> tuple[Judge, int]:
    """The judge after these sessions, and how many of both arms closed until its verdict."""
    judge = Judge(rules, Canary("bad", WEIGHT_BP, seed, control="good"))
    for item in stream:
        if judge.take(item) != CONTINUE:
            break
    return judge, sum(judge.closed)


def power() -> list[Result]:
    """Sessions until a bad canary is aborted."""
    found = [simulated(seed, items(seed, BAD, 100_000)) for seed in range(SEEDS)]
    if any(judge.verdict != ABORT for judge, _ in found):
        raise SystemExit("a bad canary was not aborted")
    said = f"simulated, {SEEDS} seeds, {GOOD:.0%} against {BAD:.0%} of {CALLS} calls, default rules"
    own, both = [float(j.closed[0]) for j, _ in found], [float(n) for _, n in found]
    return [
        Result("canary.sessions_to_abort_p50", common.median(own), "sessions of the canary", said),
        Result("canary.sessions_to_abort_p95", quantile(own, 0.95), "sessions of the canary", said),
        Result("canary.all_sessions_to_abort_p50", common.median(both), "sessions of both arms", said),
        Result("canary.all_sessions_to_abort_p95", quantile(both, 0.95), "sessions of both arms", said),
    ]


def false_aborts() -> list[Result]:
    """Even canaries that were aborted, looked at after every block; nothing else ends them."""
    endless = replace(DEFAULT_RULES, min_sessions=10**6, max_sessions=10**6)
    wrong = sum(simulated(seed, noisy(seed), endless)[0].verdict == ABORT for seed in range(NULL_RUNS))
    alpha = DEFAULT_RULES.alpha
    p = 1 - at_most(wrong - 1, NULL_RUNS, alpha) if wrong else 1.0
    said = (
        f"simulated, {wrong} of {NULL_RUNS} seeds, {NULL_SESSIONS} sessions each, five metrics that vary, looked at after every block; alpha {alpha}, "
        f"so many or more have probability {p:.2g} if it is exactly alpha: {'holds' if p >= 0.01 else 'REFUTED'} at 99 %"
    )
    return [
        Result(
            "canary.false_abort_rate",
            wrong / NULL_RUNS,
            "of even canaries",
            said,
            "alpha",
            wrong / NULL_RUNS / alpha,
        )
    ]


@dataclass(slots=True)
class Real:
    """One seed on the real stack, in seconds and sessions."""

    to_action: float
    from_close: float
    to_last_decision: float
    sessions: int


class Agents:
    """Sessions at a rate; each misuses its parameter as often as its release does."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet, self._chance, self._seed = fleet, Random(seed), seed
        self._names = [a for role in ("banking", "slack", "retail", "airline") for a in common.agents(role)]
        self.canary: Canary | None = None
        self.unanswered = 0

    async def session(self, n: int) -> None:
        """Open, five calls, close."""
        agent, name = self._names[n % len(self._names)], f"b{self._seed}-{n}"
        await self._say(agent, name, "session.open")
        bad = self.canary is not None and drawn(self.canary, agent, name)
        for k in range(CALLS):
            misused = self._chance.random() < (BAD if bad else GOOD)
            raw, now = json.dumps({"amount": "lots" if misused else 1}).encode(), time.time_ns() // 1000
            ident = f"{name}-{k}"
            intent = Intent(ident, agent, name, "tool_call", "bench.amount", raw, now, now + 30_000_000)
            self.unanswered += await self._fleet.ask("intents", intent, ident) is None
        await self._say(agent, name, "session.close")

    async def _say(self, agent: str, session: str, kind: str) -> None:
        ident = f"{session}-{kind}"
        message = Message(
            ident, agent, session, kind, time.time_ns() // 1000, goal="bench", on_behalf_of="bench"
        )
        self.unanswered += await self._fleet.ask("messages", message, ident) is None

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; then what is open is finished."""
        begun, tasks = time.perf_counter(), []
        for n in range(10**9):
            delay = begun + n * CALLS / INTENTS_PER_S - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            if stop.is_set():
                break
            tasks.append(asyncio.create_task(self.session(n)))
        await asyncio.gather(*tasks)


async def one(
    settings: Settings, keys: Keys, reader: control_log.ControlReader, digest: str, seed: int
) -> Real:
    """Start a canary, wait for its abort, and look who decided under it last."""
    async with Fleet(settings, PARTITIONS) as fleet:
        load, stop = Agents(fleet, seed), asyncio.Event()
        plan = deployments.start_canary([], digest, "10%", auto=True)
        head = (await deployments.change(settings, keys, plan, f"seed {seed}")).head
        await reader.wait_for(head)
        begun, load.canary = reader.control.at, reader.control.canary
        task = asyncio.create_task(load.run(stop))
        deadline = time.monotonic() + LIMIT_S
        while reader.control.canary is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        ended = reader.control.at
        if reader.control.canary is not None or reader.control.deployed == digest:
            raise SystemExit(f"seed {seed}: the bad canary was not aborted within {LIMIT_S:.0f} s")
        await asyncio.sleep(AFTER_S)
        stop.set()
        await task
        await asyncio.sleep(AFTER_S)
    verdict = await canary_evidence.find(settings, None)
    until, sessions = verdict.evidence["until"], verdict.evidence["sessions"]
    assert isinstance(until, list) and isinstance(sessions, dict)
    last = await asyncio.to_thread(_last, settings, digest, begun)
    found = Real((ended - begun) / 1e6, (ended - until[0]) / 1e6, (last - ended) / 1e6, sessions["canary"])
    print(f"  seed {seed}: {found}, unanswered {load.unanswered}", flush=True)
    return found


def _last(settings: Settings, digest: str, since: int) -> int:
    """When the last outcome under a release was decided."""
    name = database(settings)
    rows = connect(settings, "reader", name).query(
        "SELECT toUnixTimestamp64Micro(max(decided_at)) FROM events WHERE src_topic = 'outcomes' "
        f"AND release = '{digest}' AND decided_at >= fromUnixTimestamp64Micro({since})"
    )
    return int(rows.result_rows[0][0])


async def every(settings: Settings, folder: Path) -> list[Real]:
    """All seeds, one after the other on one stack."""
    keys, reader = Keys(settings.home), control_log.ControlReader(settings, with_release=False)
    try:
        with (folder / "release.yaml").open("a") as file:
            file.write("edition: bad\n")
        digest, _ = await operations.publish(settings, keys, folder, "the bench's candidate")
        await reader.start()
        return [await one(settings, keys, reader, digest, seed) for seed in range(REAL_SEEDS)]
    finally:
        await reader.stop()
        keys.close()


def real() -> list[Result]:
    """Start everything, measure, stop everything."""
    with tempfile.TemporaryDirectory() as home, calls.tool() as port:
        folder = release(Path(home))
        settings = replace(Settings.from_env({"SLUICEGATE_HOME": home}), partitions=PARTITIONS)
        env = {
            "SLUICEGATE_TOOL_TOOLS_URL": f"http://127.0.0.1:{port}",
            "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
        }
        roles = (*["ledger"] * WORKERS, "executor", "projector", "monitor")
        running = stack.start(settings, roles=roles, extra_env=env, say=print)
        try:
            assert asyncio.run(topics.partitions_of(running.settings)) == PARTITIONS
            asyncio.run(demo.deploy(running.settings, common.RELEASE.parent))
            keys = Keys(running.settings.home)
            _, head = asyncio.run(operations.deploy(running.settings, keys, folder, "the bench's release"))
            keys.close()
            demo.wait_for_head(running, head)
            found = asyncio.run(every(running.settings, folder))
        finally:
            running.stop()
    return list(figures(found))


def figures(found: list[Real]) -> Iterator[Result]:
    """Medians and 95 % quantiles."""
    said = (
        f"real stack, {len(found)} seeds one after the other, {INTENTS_PER_S:.0f} intents/s, {WORKERS} ledger workers, "
        f"{common.machine()}, load average {os.getloadavg()[0]:.0f} at the end"
    )
    for name, what, values in (
        ("alarm.seconds_to_action", "s from the canary's start to its abort", [r.to_action for r in found]),
        ("canary.seconds_from_last_session", "s from the close of the session that decided it to the abort", [r.from_close for r in found]),
        ("canary.seconds_to_last_decision", "s from the abort to the last decision under the bad release", [r.to_last_decision for r in found]),
        ("canary.real_sessions_to_abort", "sessions of the canary", [float(r.sessions) for r in found]),
    ):  # fmt: skip
        yield Result(f"{name}_p50", common.median(values), what, said)
        yield Result(f"{name}_p95", quantile(values, 0.95), what, said)
    yield Result(
        "canary.seconds_to_last_decision_max", max(r.to_last_decision for r in found), "s; bar 2", said
    )


def release(folder: Path) -> Path:
    """The example release and one read-only tool with a parameter that can be misused."""
    target = calls.release(folder)
    path = target / "contracts" / "bench.amount.json"
    contract = json.loads((target / "contracts" / "bench.read_only.json").read_text())
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    path.write_text(json.dumps({**contract, "name": "bench.amount", "inputSchema": schema}))
    rule = '@id("bench-amount")\npermit (principal, action == Action::"bench.amount", resource);\n'
    (target / "policies" / "bench-amount.cedar").write_text(rule)
    return target


def main() -> None:
    """Run and write the results. A part whose count is 0 is left out, and its figures of before stay."""
    results = power() + false_aborts() if NULL_RUNS else []
    results += real() if REAL_SEEDS else []
    before = common.RESULTS / "canary.json"
    if not (NULL_RUNS and REAL_SEEDS) and before.exists():
        new = {r.name for r in results}
        results += [Result(**row) for row in json.loads(before.read_text()) if row["name"] not in new]
    common.write("canary", results)


if __name__ == "__main__":
    main()
