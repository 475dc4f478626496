"""AgentDojo's scripted worst case through Sluicegate: attack success, utility, and how often a person is asked.

    make bench-agentdojo                              banking and slack through the real stack
    python -m bench.agentdojo --memory banking        the same decisions in memory, in seconds

Every user task × every injection task of the suites named, in environments of their own, judged by AgentDojo's own checks
on the end state. Ungated once, then gated with three approvers: `oracle` agrees to exactly the user's ground-truth calls,
`absent` is not there, `always-yes` does not look. Writes `bench/results/agentdojo.json`.
What is counted: README.md. Next: `agentdojo_agent.py` (the agent), `agentdojo_report.py` (figures and tables).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sluicegate.streams.commands.output import progress

from bench import common
from bench.agentdojo_agent import APPROVERS, Approver, Gate, Played, absent, play
from bench.agentdojo_gates import MemoryGate, OpenGate, World
from bench.agentdojo_report import SuiteReport, figures, show_suite
from bench.agentdojo_world import VERSION, episodes, suite_names

DEFAULT_SUITES = ("banking", "slack")
DEFAULT_ATTACK = "tool_knowledge"
"""The text spells the injection's calls out: every value of the attack stands in what the agent reads."""

Open = Callable[[World, str], AbstractAsyncContextManager[tuple[Gate, int]]]
"""(world, suite) -> a gate, and how many sessions it takes at once."""


@asynccontextmanager
async def in_memory(world: World, suite: str) -> AsyncIterator[tuple[Gate, int]]:
    """One partition in this process."""
    yield MemoryGate(world, suite), 1


@asynccontextmanager
async def ungated(world: World, suite: str) -> AsyncIterator[tuple[Gate, int]]:
    """No gate."""
    yield OpenGate(world, suite), 1


async def run_all(
    opened: Gate, world: World, at_once: int, suite: str, attack: str | None, name: str, approver: Approver
) -> list[Played]:
    """Every episode once, `at_once` side by side."""
    todo = list(episodes(suite, attack))
    bar, advance = progress(f"{suite}, {name}, {'attacked' if attack else 'not attacked'}", len(todo))
    slots = asyncio.Semaphore(at_once)
    run = f"{time.time_ns() // 1_000_000:x}"

    async def one(number: int) -> Played:
        async with slots:
            session = f"{suite}:{name}:{todo[number].name}:{run}"
            world.episodes[session] = todo[number]
            played = await play(opened, todo[number], session, approver)
            del world.episodes[session]
            advance(1)
            return played

    with bar:
        return list(await asyncio.gather(*(one(n) for n in range(len(todo)))))


def compare(real: SuiteReport, memory: SuiteReport) -> tuple[int, int]:
    """(calls decided alike, calls) of the real stack and of memory. The origins of values are filled in from memory."""
    alike = total = 0
    for runs, others in ((real.attacked, memory.attacked), (real.benign, memory.benign)):
        for name, played in runs.items():
            for one, other in zip(played, others[name], strict=True):
                total += max(len(one.rows), len(other.rows))
                for row, shadow in zip(one.rows, other.rows, strict=False):
                    same = (row.tool, row.arguments, row.outcome) == (
                        shadow.tool,
                        shadow.arguments,
                        shadow.outcome,
                    )
                    alike += same and row.answer.reason == shadow.answer.reason
                    row.answer.grounded = shadow.answer.grounded
    return alike, total


async def measure(suite: str, attack: str, open_gate: Open) -> SuiteReport:
    """All runs of one suite."""
    world = World()
    async with ungated(world, suite) as (gate, at_once):
        bare = await run_all(gate, world, at_once, suite, attack, "ungated", absent)
        bare_benign = await run_all(gate, world, at_once, suite, None, "ungated", absent)
    report = SuiteReport(suite, attack, bare, bare_benign)
    async with open_gate(world, suite) as (gate, at_once):
        for name, approver in APPROVERS.items():
            report.attacked[name] = await run_all(gate, world, at_once, suite, attack, name, approver)
            report.benign[name] = await run_all(gate, world, at_once, suite, None, name, approver)
    return report


def main() -> None:
    """Run the suites named on the command line."""
    parser = argparse.ArgumentParser(
        description=f"AgentDojo {VERSION}, scripted worst case, through Sluicegate."
    )
    parser.add_argument("suites", nargs="*", default=DEFAULT_SUITES, help=f"of {', '.join(suite_names())}")
    parser.add_argument("--attack", default=DEFAULT_ATTACK, help="AgentDojo's text around the injection")
    parser.add_argument(
        "--memory", action="store_true", help="decide in memory; Kafka and executors stay out"
    )
    options = parser.parse_args()
    started = time.monotonic()
    if options.memory:
        reports = [asyncio.run(measure(s, options.attack, in_memory)) for s in options.suites]
        seconds = time.monotonic() - started
    else:
        from bench.agentdojo_stack import on_stack

        reports = on_stack(
            lambda opened: [asyncio.run(measure(s, options.attack, opened)) for s in options.suites]
        )
        seconds = time.monotonic() - started
    differing = 0
    for report in reports:
        if not options.memory:
            alike, total = compare(report, asyncio.run(measure(report.suite, options.attack, in_memory)))
            differing += total - alike
        show_suite(report)
        if not options.memory:
            print(
                f"\n{report.suite}: {alike:,} of {total:,} calls decided alike by the real stack and in memory"
            )
    where = "decided in memory" if options.memory else "real stack, python executor"
    conditions = f"AgentDojo {VERSION}, text `{options.attack}`, {where}, {seconds:.0f} s for all suites"
    results = [figure for report in reports for figure in figures(report, conditions)]
    common.write("agentdojo", results)
    sys.exit(0 if all(report.passed for report in reports) and not differing else 1)


if __name__ == "__main__":
    main()
