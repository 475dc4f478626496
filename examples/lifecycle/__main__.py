"""The life of a release, from its publication to its end by an alarm, on a real stack: `make demo-lifecycle`.

    1 publish and deploy     2 canary of a candidate with one careless prompt     3 the watcher aborts it by itself
    4 explain the abort, computed again     5 rebuild the state from Kafka and from ClickHouse
    6 restore one agent to before the incident     7 a page of charts

Every `$` line is a command that you can type yourself. Nothing leaves this machine. Takes three to four minutes. Next: `desk.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

from sluicegate.streams import stack
from sluicegate.streams.commands.output import console
from sluicegate.streams.control import operations
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import canary_evidence
from sluicegate.streams.watch.canary_evidence import Verdict

from examples.lifecycle import page
from examples.lifecycle.desk import AGENTS, GENEROUS, Desk

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
CARELESS = "Be generous and quick: refund what makes the customer happy."
PACE_S = 0.25
"""Between two sessions of one agent, on average."""
QUIET_S = 15
"""Of traffic before the canary, for the page."""
ABORT_LIMIT_S = 150.0


def say(text: str) -> None:
    """A line of the story."""
    console().print(text, markup=False)


class Story:
    """The steps, on one running stack."""

    def __init__(self, running: stack.Stack, home: Path) -> None:
        self.settings = running.settings
        self._env = {**os.environ, **stack.environment_of(running.settings)}
        self._home = home
        self.since_us = time.time_ns() // 1000
        self.moments: list[tuple[float, str]] = []

    def run(self, *words: str, fails: bool = False, shown: int = 14) -> str:
        """A command, as typed; what it printed."""
        say(
            f"\n$ sluicegate {' '.join(w if w.isprintable() and ' ' not in w else json.dumps(w) for w in words)}"
        )
        done = subprocess.run(
            [sys.executable, "-m", "sluicegate.streams.cli", *words], env=self._env, cwd=self._home, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        out = (done.stdout + done.stderr).rstrip()
        lines = out.splitlines()
        say(
            "\n".join(f"  {line}" for line in lines[:shown])
            + (f"\n  ... {len(lines) - shown} lines" if len(lines) > shown else "")
        )
        if done.returncode and not fails:
            say("\n".join(lines[shown:]))
            raise SystemExit(f"`sluicegate {' '.join(words)}` ended with {done.returncode}")
        return out

    def mark(self, text: str, at_us: int = 0) -> None:
        """A moment for the page: now, or as the ledger has it."""
        self.moments.append(((at_us or time.time_ns() // 1000) / 1e6, text))

    def candidate(self) -> Path:
        """The same release with another prompt."""
        folder = self._home / "candidate"
        shutil.copytree(FOLDER / "release", folder)
        manifest = folder / "release.yaml"
        manifest.write_text(manifest.read_text().replace('version: "1"', 'version: "2"'))
        (folder / "prompts" / "refunds.md").write_text(CARELESS + "\n")
        return folder

    async def begin(self) -> None:
        """Agents, and the first release."""
        keys = Keys(self.settings.home)
        rows: list[operations.Row] = [
            {"agent_id": name, "tenant": "shop", "roles": ["refunds"]} for name in AGENTS
        ]
        await operations.register_agents(self.settings, keys, rows, "the demo's agents")
        keys.close()
        self.run("deploy", str(FOLDER / "release"), "--why", "the first release")

    async def aborted(self) -> Verdict:
        """Wait for the watcher's verdict."""
        deadline = time.monotonic() + ABORT_LIMIT_S
        while time.monotonic() < deadline:
            try:
                return await canary_evidence.find(self.settings, None)
            except Exception:  # there is none yet
                await asyncio.sleep(1.0)
        raise SystemExit(
            f"the canary was not ended within {ABORT_LIMIT_S:.0f} s, see the logs under {self._home}"
        )


async def _play(story: Story, out: Path) -> None:
    await story.begin()
    desk = Desk(story.settings, PACE_S)
    serving = asyncio.create_task(desk.work())
    try:
        say(f"\nEight agents refund orders, {QUIET_S} s of a quiet day.")
        await asyncio.sleep(QUIET_S)
        before_us = time.time_ns() // 1000
        candidate = await asyncio.to_thread(story.candidate)
        deployed = await asyncio.to_thread(
            story.run, "release", "diff", str(FOLDER / "release"), str(candidate), fails=True
        )
        assert deployed
        await asyncio.to_thread(
            story.run, "canary", "start", str(candidate), "--weight", "25%", "--why", "a friendlier prompt"
        )
        started = time.monotonic()
        say(
            "\nThe candidate decides every fourth new session. Nobody looks; the watcher compares sessions as they close."
        )
        await asyncio.sleep(10)
        await asyncio.to_thread(story.run, "canary", "status", fails=True)
        verdict = await story.aborted()
        until = cast("list[int]", verdict.evidence["until"])
        story.mark(f"the canary starts: control event {verdict.canary.started}", verdict.canary.at)
        story.mark("the session closed that decides it", until[0])
        story.mark(f"the way back: {verdict.kind}, control event {verdict.event}", verdict.at)
        say(
            f"\n{time.monotonic() - started:.0f} s after its start: {verdict.kind} by {verdict.who}: {verdict.why}"
        )
        await asyncio.sleep(10)
    finally:
        desk.stop.set()
        await serving
    say(f"\n{desk.sessions:,} sessions were served.")
    careless = next((name for name in AGENTS if desk.styles.get(name) == GENEROUS), AGENTS[0])
    await asyncio.to_thread(_look_back, story, verdict, before_us, careless)
    html = await page.made(story.settings, verdict, story.since_us, story.moments)
    await asyncio.to_thread(out.write_text, html)
    say(f"\nThe page: {out}")


def _look_back(story: Story, verdict: Verdict, before_us: int, agent: str) -> None:
    """Explain, rebuild, and take one agent, that the candidate left a note with, back to before it."""
    story.run("canary", "explain", str(verdict.event), shown=30)
    story.run("rebuild", "--from", "kafka", "--against", "clickhouse", "--against", "live", shown=20)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before_us / 1e6))
    story.run("rollback", "agent", agent, "--to", when, "--dry-run", shown=20)
    story.mark(f"{agent} restored to {when}")
    story.run(
        "rollback", "agent", agent, "--to", when, "--why", "its notes come from a careless prompt", shown=20
    )
    story.run("ledger", "verify")


def main() -> None:
    """The whole story. The page is the only argument, `lifecycle.html` without one."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # each retry of a metadata race is logged
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "lifecycle.html").absolute()
    with tempfile.TemporaryDirectory(prefix="sluicegate-") as folder:
        home = Path(folder)
        settings = replace(Settings.from_env({}), home=home, env="demo")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        tools = {"SLUICEGATE_PYTHON_TOOLS": "examples.lifecycle.tools", "PYTHONPATH": path}
        running = stack.start(settings, extra_env=tools, say=lambda text: say(f"· {text}"))
        try:
            asyncio.run(_play(Story(running, home), out))
        finally:
            running.stop()


if __name__ == "__main__":
    main()
