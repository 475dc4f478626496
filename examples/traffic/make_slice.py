"""Cuts the demo's slice out of a folder of recorded agent runs: `--source FOLDER --out examples/traffic`.

The folder holds `<source>.steps.jsonl.gz` files, one line a step in recorded order. The same folder gives the same
lines: runs are drawn by the SHA-256 of a fixed seed and the run's id. The gzip header carries no time, so the same zlib
gives the same bytes too.

It never runs a tool, never changes a recorded string and never cuts a session short. The product does not import it:
the slice in this folder is what the demo reads.

How runs are drawn, for each suite and agent in `AGENTS`:
1. candidates are whole sessions with at least one tool call. Left out: crashed runs (`run_error`), runs with a call
   whose result was not recorded, sessions of more than `LONGEST_SESSION` calls, and AgentDojo's runs that give an
   injection task to the agent as the user's own request;
2. first one run for each class of the agent's recorded errors and for each tool that the suite's slice does not hold
   yet (so that malformed calls and seldom used tools are in it), then runs in drawn order, adverse (attacked, or for
   tau2 failed) and not in turn by the calls taken so far, until the agent's share of calls is reached;
3. sessions of one suite are written in drawn order, so that agents mix as they would on a topic.

Read next: `README.md` beside this file for what the fields and labels mean.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

Step = dict[str, Any]
Run = list[Step]

SEED = "sluicegate-demo-1"

# Which recordings hold a suite. tau2's telecom is left out: there the simulated user calls tools too.
SOURCES = {"banking": "agentdojo", "slack": "agentdojo", "retail": "tau2", "airline": "tau2"}

# In tau2, where one agent in a loop can fill a suite's share, a session longer than this is left out.
LONGEST_SESSION = 40

# For each suite: recorded agent -> its name in the slice, and the calls to take of each. Banking needs the most agents:
# an agent's runs without an attack hold only some 8 to 28 calls there. Retail was recorded with three agents only.
BANKING = {
    "Meta-SecAlign-70B": "meta-secalign-70b",
    "claude-3-haiku-20240307": "claude-3-haiku-20240307",
    "claude-3-opus-20240229": "claude-3-opus-20240229",
    "claude-3-7-sonnet-20250219": "claude-3-7-sonnet-20250219",
    "command-r": "command-r",
    "gemini-1.5-flash-001": "gemini-1.5-flash-001",
    "gemini-1.5-pro-002": "gemini-1.5-pro-002",
    "gpt-3.5-turbo-0125": "gpt-3.5-turbo-0125",
    "gpt-4o-2024-05-13": "gpt-4o-2024-05-13",
    "gpt-4o-mini-2024-07-18": "gpt-4o-mini-2024-07-18",
    "meta-llama_Llama-3-70b-chat-hf": "llama-3-70b-chat-hf",
    "meta-llama_Llama-3.3-70B-Instruct": "llama-3.3-70b-instruct",
}
SLACK = {
    "claude-3-5-sonnet-20241022": "claude-3-5-sonnet-20241022",
    "claude-3-haiku-20240307": "claude-3-haiku-20240307",
    "command-r": "command-r",
    "gemini-1.5-pro-002": "gemini-1.5-pro-002",
    "gpt-4o-2024-05-13": "gpt-4o-2024-05-13",
}
RETAIL = {
    "gpt-4.1": "gpt-4.1",
    "gpt-4.1-mini-2025-04-14": "gpt-4.1-mini-2025-04-14",
    "ft:gpt-4.1-2025-04-14:sierra:tau2-full-sft:BzrYdMNm": "gpt-4.1-tau2-full-sft",
}
AIRLINE = {
    "claude-opus-4-6": "claude-opus-4-6",
    "claude-sonnet-4-5": "claude-sonnet-4-5",
    "gpt-4.1-mini-2025-04-14": "gpt-4.1-mini-2025-04-14",
    "gpt-5.4": "gpt-5.4",
    # One session: the agent that the example registry leaves out on purpose.
    "deepseek/deepseek-chat": "deepseek-chat",
}
AGENTS = {"banking": (BANKING, 36), "slack": (SLACK, 98), "retail": (RETAIL, 165), "airline": (AIRLINE, 120)}


def read_runs(folder: Path, source: str) -> list[Run]:
    """Every recorded run of a source, each as its steps in recorded order."""
    runs: dict[str, Run] = defaultdict(list)
    with gzip.open(folder / f"{source}.steps.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            step = json.loads(line)
            runs[step["run_id"]].append(step)
    return list(runs.values())


def calls(run: Run) -> list[Step]:
    return [step for step in run if step["kind"] == "tool_call"]


def is_candidate(run: Run) -> bool:
    labels = run[0]["labels"]
    if labels.get("run_error") or str(labels.get("user_task", "")).startswith("injection_task"):
        return False
    taken = calls(run)
    return 0 < len(taken) <= LONGEST_SESSION and all(call["result"] is not None for call in taken)


def is_adverse(run: Run) -> bool:
    """The half that a gate should look hard at: attacked (AgentDojo), or the task was not done right (tau2)."""
    labels = run[0]["labels"]
    return labels["reward"] != 1.0 if "reward" in labels else bool(labels["attack"])


def error_class(call: Step) -> str | None:
    """`ValidationError` for AgentDojo's "ValidationError: ...", else the first words of the error."""
    error = call.get("error")
    return error.split(":")[0][:40] if error else None


def drawn_order(run: Run) -> str:
    return hashlib.sha256(f"{SEED}\0{run[0]['run_id']}".encode()).hexdigest()


def rare(run: Run) -> set[str]:
    """What a slice should hold at least once: every tool of the suite, and each agent's every class of error."""
    agent = run[0]["agent"]
    errors = {f"{agent}: {name}" for call in calls(run) if (name := error_class(call))}
    return errors | {call["tool"] for call in calls(run)}


def draw(candidates: list[Run], share: int, seen: set[str]) -> list[Run]:
    """Whole runs of one agent, about `share` calls: runs with something not `seen` first, then the halves in turn."""
    pool = sorted(candidates, key=drawn_order)
    chosen: list[Run] = []
    taken: Counter[bool] = Counter()  # calls so far, by is_adverse

    def take(run: Run) -> None:
        pool.remove(run)
        chosen.append(run)
        taken[is_adverse(run)] += len(calls(run))

    for run in list(pool):
        if rare(run) - seen and taken.total() + len(calls(run)) <= share:
            seen |= rare(run)
            take(run)
    while pool and taken.total() < share:
        adverse = taken[True] <= taken[False]
        take(next((run for run in pool if is_adverse(run) == adverse), pool[0]))
    return chosen


def written(step: Step, session: str, agent: str) -> Step:
    """One line of the slice; the recorded strings go in as they are."""
    line: Step = {
        "session": session,
        "agent": agent,
        "suite": step["suite"],
        "seq": step["seq"],
        "kind": step["kind"],
    }
    if step["kind"] == "user_message":
        line["text"] = step["result"]
    else:
        line |= {key: step[key] for key in ("tool", "arguments", "result")}
        line["error"] = step.get("error")
    return line | {"source_run": step["run_id"], "labels": step["labels"]}


def slice_of(suite: str, runs: list[Run]) -> tuple[list[Step], list[Step]]:
    """The suite's lines, and an index of its sessions from which a reader can tell that none was cut short."""
    chosen: list[Run] = []
    names, share = AGENTS[suite]
    of_suite = [run for run in runs if run[0]["suite"] == suite and is_candidate(run)]
    seen: set[str] = set()
    for recorded in names:
        chosen += draw([run for run in of_suite if run[0]["agent"] == recorded], share, seen)
    lines: list[Step] = []
    index: list[Step] = []
    for number, run in enumerate(sorted(chosen, key=drawn_order), start=1):
        session = f"{suite}-{number:04d}"
        agent = f"{suite}-agent-{names[run[0]['agent']]}"
        kept = [written(step, session, agent) for step in run if step["kind"] != "model_call"]
        lines += kept
        tools = len(calls(run))
        index.append(
            {"session": session, "agent": agent, "user_messages": len(kept) - tools, "tool_calls": tools}
        )
    return lines, index


def packed(lines: list[Step]) -> bytes:
    """gzip with no time and no file name in its header: the same lines are the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Cut the demo's slice out of a folder of recorded agent runs."
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="folder with <source>.steps.jsonl.gz files"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for <suite>.jsonl.gz and manifest.json"
    )
    options = parser.parse_args()
    recorded = {source: read_runs(options.source, source) for source in sorted(set(SOURCES.values()))}
    manifest: dict[str, Any] = {"seed": SEED, "suites": {}}
    for suite, source in SOURCES.items():
        lines, index = slice_of(suite, recorded[source])
        (options.out / f"{suite}.jsonl.gz").write_bytes(packed(lines))
        manifest["suites"][suite] = {"source": source, "sessions": index}
        print(f"{suite}: {len(index)} sessions, {sum(entry['tool_calls'] for entry in index)} tool calls")
    text = json.dumps(manifest, indent=None, separators=(",", ":")).replace('{"session"', '\n{"session"')
    (options.out / "manifest.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
