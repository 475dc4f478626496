"""`sluicegate demo`: govern 2,000 recorded agent calls and show what came of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from typing import Annotated

import typer
from rich.console import Console
from sluicegate.streams import demo as play
from sluicegate.streams import stack
from sluicegate.streams.commands.output import Format, console, progress, show, took
from sluicegate.streams.commands.up import tools_env
from sluicegate.streams.settings import Settings

BREAKDOWN = """
select stage, status, reason, count() as events
from events where src_topic in ('outcomes', '{env}.outcomes') and decided_at >= fromUnixTimestamp64Micro({since})
group by stage, status, reason order by events desc, stage, status
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def demo(
        keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end")] = False,
    ) -> None:
        """Start everything and play recorded agent traffic through it, e.g. `sluicegate demo --keep`.

        2,000 tool calls of real agents, prompt injections among them. Nothing leaves this machine.
        """
        _demo(keep)


def _demo(keep: bool) -> None:
    out = console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends what was started
    folder = play.examples()
    tools = play.ToolServer(folder)
    running: stack.Stack | None = None
    try:
        started = time.monotonic()
        running = stack.start(
            Settings.from_env(),
            extra_env=tools_env(tools.url, os.environ.get("SLUICEGATE_EGRESS", "")),
            say=lambda m: out.print(f"· {m}"),
        )
        tools.wait_ready()
        head = asyncio.run(play.deploy(running.settings, folder))
        play.wait_for_head(running, head)
        out.print(
            f"· ready after {time.monotonic() - started:.1f} s, release deployed as control event {head}"
        )
        since = time.time_ns() // 1000
        todo = play.scripts(folder, play.new_run())
        calls = sum(1 for s in todo for step in s.steps if step.tool)
        bar, advance = progress(
            f"governing {calls:,} recorded calls of {len(todo)} sessions", sum(len(s.steps) for s in todo)
        )
        with bar:
            report = asyncio.run(play.play(running.settings, todo, advance))
        _report(out, running, report, since)
        _next(out, report, keep)
        if keep:
            _wait(out, running)
    finally:
        if running is not None:
            running.stop()
        tools.stop()


def _report(out: Console, running: stack.Stack, report: play.Report, since: int) -> None:
    from sluicegate.sinks.embedded import connect, database
    from sluicegate.streams.verify.ledger import verify

    settings = running.settings
    lag = play.wait_for_sink(running)
    client = connect(settings, "reader", database(settings))
    rows = client.query(BREAKDOWN.format(env=settings.env, since=since)).result_rows
    out.print()
    show(
        ("stage", "status", "reason", "events"),
        [tuple(r) for r in rows],
        Format.TABLE,
        "What the ledger says",
    )
    answered = [r for r in report.results if r.reply is not None]
    p50, p95, p99 = report.latencies_ms()
    out.print(
        f"\n{len(report.results):,} calls in {report.seconds:.1f} s: {len(report.results) / report.seconds:,.0f} calls/s, "
        f"{len(answered):,} answered. Publish to reply, tool included, {play.SESSIONS_AT_ONCE} sessions at once: "
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms."
    )
    out.print("\nFive refusals in words:")
    for reply in report.refusals():
        tool = next(r.tool for r in report.results if r.reply is reply)
        text = f"{reply.agent_id} asked {tool}: {reply.stage}/{reply.reason}. {reply.for_developer}"
        out.print(textwrap.fill(text, 100, initial_indent="  • ", subsequent_indent="    "), markup=False)
    if lag:
        out.print(f"\nClickHouse still trails by {lag:.0f} records.")
    verdict = asyncio.run(verify(settings))
    said = f"{verdict.events:,} events in {took(verdict.events, verdict.seconds)}"
    out.print(f"\nledger verify: {verdict.verdict} ({said})", markup=False)


def _next(out: Console, report: play.Report, keep: bool) -> None:
    refused = next((r for r in report.refusals()), None)
    intent = refused.intent_id if refused else "INTENT"
    out.print("\nTry next" + ("" if keep else " (after `sluicegate up` in another terminal)") + ":")
    out.print(f"  sluicegate explain {intent}", markup=False)
    out.print(
        '  sluicegate query "select tool, state, last_reason, count() n from intents group by all order by n desc limit 10"',
        markup=False,
    )
    out.print("  sluicegate replay --mode check", markup=False)


def _wait(out: Console, running: stack.Stack) -> None:
    out.print("\nEverything keeps running; Ctrl-C stops it.")
    try:
        while True:
            time.sleep(1)
            running.check()
    except KeyboardInterrupt:
        out.print("stopping")
