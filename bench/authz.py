"""Authorization, grounding and validation of one intent, in microseconds: with 60 policies, and with 1,000.

Recorded calls of the bank's desk, each in a session of 30 events whose results hold what the calls name. Timed: the
stages `authorize` (grounding among it) and `validate`, on what `route` and `conform` prepared; words of earlier
events are at hand, as in a worker that saw them. Both releases take turns. No Kafka. Next: `processors/authorize.py`.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import orjson
from sluicegate.processors.authorize import authorize, conform_arguments
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.inputs import Input
from sluicegate.processors.policy import cedar
from sluicegate.processors.releases.rehearsal import SESSION, Rehearsal
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.route import route
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.validate import validate
from sluicegate.processors.work import Work, begin
from sluicegate.schemas import codec
from sluicegate.schemas.records import Intent
from sluicegate.streams.control.releases import read_folder

from bench.common import RELEASE, Result, machine, quantile, tool_calls, write

EVENTS = 30
CALLS = int(os.environ.get("BENCH_COUNT", "200"))
ROUNDS = int(os.environ.get("BENCH_RUNS", "30"))
AGENT = Agent("bench", "north-bank", "payments-desk", ("banking",))

# What a bank that knows labels, history and grounding would add to the example: 15 policies.
MORE = """
@id("more-transfer-payee") @hold("the payee comes from outside")
forbid (principal in Role::"banking", action in [Action::"banking.send_money", Action::"banking.schedule_transaction"], resource)
when { context.grounding.worst == "web" || context.grounding.worst == "unknown" };
@id("more-transfer-count")
forbid (principal in Role::"banking", action == Action::"banking.send_money", resource)
when { context.session.counts["banking.send_money"] >= 50 };
@id("more-after-web") @hold("the session read a web page")
forbid (principal in Role::"banking", action == Action::"banking.send_money", resource)
when { context.session.labels.contains("web") };
"""
OTHER = '@id("{name}") forbid (principal in Role::"{role}", action == Action::"{tool}", resource)\n'
OTHER += 'when {{ context.session.calls > 100 || principal.team == "{name}" }};\n'


def release_of(policies: int, *, crowded: bool = False) -> CompiledRelease:
    """The example release with so many policies; what is added speaks of other roles, as it does in a company.

    `crowded`: of the same role, so that every tool of every call has some twenty policies.
    """
    files = read_folder(RELEASE)
    tools = sorted(json.loads(text)["name"] for path, text in files.items() if path.startswith("contracts/"))
    have = sum(text.count('@id("') for path, text in files.items() if path.endswith(".cedar")) + MORE.count(
        '@id("'
    )
    added = [
        OTHER.format(
            name=f"other-{n}", role="banking" if crowded else f"desk-{n % 40}", tool=tools[n % len(tools)]
        )
        for n in range(policies - have)
    ]
    files["policies/more.cedar"] = MORE
    files["policies/other.cedar"] = "".join(added)
    release = compile_release(files, proven=True)
    assert len(release.book.policies) == policies
    return release


def session_of(release: CompiledRelease, calls: list[tuple[str, dict[str, object]]]) -> Rehearsal:
    """A session of 30 events: two words of the user, and results that hold what the calls name."""
    play = Rehearsal(release, AGENT)
    play.begin("please do what my list says", "customer-1")
    play.say("Pay the bills in bill-december-2023.txt, then tell me my balance and adjust the rent to 1200.")
    for n in range(EVENTS - 2):
        named = [calls[(n * 7 + k) % len(calls)][1] for k in range(5)]
        rows = [{"id": k, "note": f"row {n}-{k}", **about} for k, about in enumerate(named)]
        tool = ("banking.get_most_recent_transactions", "banking.get_scheduled_transactions")[n % 2]
        decision = play.call(tool, b"{}")
        play.answer(decision, orjson.dumps(rows))
    return play


def prepared(play: Rehearsal, library: Library, tool: str, arguments: bytes) -> Work:
    """A call after `route` and `conform`."""
    intent = Intent("bench", AGENT.agent_id, SESSION, "tool_call", tool, arguments, play.now)
    value = codec.encode(intent)
    source = Input("intents", 0, play.ledger.state.positions["intents"], value, library=library)
    work = begin(play.ledger.state, play.ledger.control, source, play.now)
    work.intent, work.payload, work.agent = intent, value, AGENT
    assert route(work) is None and conform_arguments(work) is None
    return work


def decided(work: Work) -> None:
    """What is timed."""
    if authorize(work) is None:
        validate(work)


def run_of(policies: int, *, crowded: bool = False) -> Callable[[], list[float]]:
    """A function that decides every call once more and gives the microseconds of each."""
    release = release_of(policies, crowded=crowded)
    calls = [(t, a) for t, a, role in tool_calls(10_000) if role == "banking"]
    fitting = [(t, orjson.dumps(a)) for t, a in calls if release.tools[t].validator.is_valid(a)][:CALLS]
    play, library = session_of(release, calls), Library()
    for tool, arguments in fitting:  # once, so that words and slices are at hand
        work = prepared(play, library, tool, arguments)
        authorize(work)
        if work.decision.needs:
            work.source.contents.update({place: play.bytes_at(place) for place in work.decision.needs})
            work.decision = replace(work.decision, needs=[])
            authorize(work)

    def once() -> list[float]:
        took = []
        for tool, arguments in fitting:
            work = prepared(play, library, tool, arguments)
            started = time.perf_counter_ns()
            decided(work)
            took.append((time.perf_counter_ns() - started) / 1000)
            assert not work.decision.needs
        return took

    return once


def main() -> None:
    """Measure, or print a profile with `python -m bench.authz --profile`."""
    cedar.MAX_VERDICTS = 0  # the same calls come 30 times: no answer is remembered here
    small, large, crowded = run_of(60), run_of(1_000), run_of(1_000, crowded=True)
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.runcall(lambda: [small() for _ in range(ROUNDS)])
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    few: list[float] = []
    many: list[float] = []
    crowd: list[float] = []
    for _ in range(ROUNDS):  # turn by turn, so that all see the same machine
        few += small()
        many += large()
        crowd += crowded()
    at = f"{CALLS} recorded calls of banking x {ROUNDS}, {EVENTS} events a session, {machine()}"
    middle, other = statistics.median(few), statistics.median(many)
    write(
        "authz",
        [
            Result("authz.us_per_intent", middle, "us", f"median, 60 policies; bar 80; {at}"),
            Result("authz.us_per_intent.p95", quantile(few, 0.95), "us", f"60 policies; {at}"),
            Result("authz.us_per_intent.1000", other, "us", f"median, 1,000 policies; bar 1.3; {at}", "60 policies", other / middle),
            Result("authz.us_per_intent.1000.crowded", statistics.median(crowd), "us", f"the same, all of one role: 18 policies a tool more; {at}", "60 policies", statistics.median(crowd) / middle),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
