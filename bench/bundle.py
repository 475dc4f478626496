"""How long an auditor's laptop takes: `python -m bench bundle`.

A ledger of one partition in memory (tests' records: four outcomes an intent, a fifth of the events of other agents), signed and
witnessed; a bundle of one agent's 100,000 events is made, with all contents disclosed, and checked by its own `verify.py` in a
process of its own that is pinned to one core. A fresh virtual environment has `cryptography` alone where an index can be reached.
Bar: under 20 s of that core: what else runs on the machine is not counted. Results: `bench/results/bundle.json`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

from sluicegate.streams.evidence.file import verifier

from bench import common
from bench.common import Result

EVENTS = int(os.environ.get("BENCH_EVENTS", "100000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))


def make(folder: Path, events: int) -> tuple[Path, int]:
    """The bundle, and the events of the agent in it."""
    from tests.bundles import Made, key_added
    from tests.driver import OTHER_AGENT, Driver

    driver = Driver()
    key_added(driver)
    made = Made(driver)
    driver.open_session()
    driver.open_session("other", OTHER_AGENT)
    calls = 0
    while len(driver.records) < events * 1.25:
        calls += 1
        if calls % 2_000 == 0:  # a session has a bounded history
            driver.close_session()
            driver.open_session(f"session-{calls}")
        session = "session-1" if calls < 2_000 else f"session-{calls - calls % 2_000}"
        driver.finish(driver.call("desk.pay", {"value": str(calls)}, session=session).dispatches[0])
        if calls % 4 == 0:
            other = driver.call("desk.read", agent=OTHER_AGENT, session="other")
            driver.finish(other.dispatches[0])
        driver.dispatches.clear(), driver.replies.clear()
    path = made.bundle(folder, disclose=2)
    with zipfile.ZipFile(path) as archive:
        return path, int(json.loads(archive.read("manifest.json"))["counts"]["events"])


def alone(folder: Path) -> tuple[str, str]:
    """A Python with `cryptography` only, else this one; and which it is."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "cryptography"],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return (str(python), "fresh venv") if done.returncode == 0 else (sys.executable, "no index, own venv")


def timed(
    python: str, script: Path, bundle: Path, env: dict[str, str]
) -> tuple[float, float, dict[str, object]]:
    """Seconds of the core, of the clock, and what it answered."""
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["taskset", "-c", "0", python, "-I", str(script), str(bundle), "--json"],
        capture_output=True, text=True, env=env, cwd=bundle.parent, check=False,
    )  # fmt: skip
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return cpu, time.perf_counter() - started, json.loads(done.stdout)


def main() -> None:
    """Make one, check it a few times, write the median."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        path, events = make(folder, EVENTS)
        print(
            f"made {path.stat().st_size:,} bytes with {events:,} events of the agent in {time.perf_counter() - started:.0f} s"
        )
        script = folder / "verify.py"
        script.write_text(verifier(), "utf-8")
        python, where = alone(folder)
        runs = [timed(python, script, path, {"PATH": os.environ["PATH"]}) for _ in range(RUNS)]
        for cpu, wall, said in runs:
            print(f"{said['verdict']} in {cpu:.1f} s of one core, {wall:.1f} s of the clock ({where})")
            assert said["verdict"] == "VALID", said
        seconds = common.quantile([r[0] for r in runs], 0.5)
        load = f"{events:,} events of one agent, {path.stat().st_size / 1e6:.0f} MB, contents disclosed, {where}; {runs[0][1]:.0f} s of the clock beside other work"
        common.write("bundle", [Result("bundle.offline_s", seconds, "s", load)])


if __name__ == "__main__":
    main()
