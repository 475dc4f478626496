"""Reading AgentDojo's recorded runs: what was said, called and returned, as a gate would have seen it.

Recorded results are the text the model read; here they become the JSON that the tool returned: YAML and Python literals
are parsed, the delimiters of one defence are taken off. Never decides anything. Next: `recorded.py`.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

TEXT_TOOLS = frozenset(("read_file", "get_webpage", "get_iban"))
"""Their results are text, whatever it looks like."""


@dataclass(frozen=True)
class Step:
    """What the user said (`tool` is None), or a call."""

    seq: int
    tool: str | None
    text: str = ""
    arguments: dict[str, object] = field(default_factory=dict)
    result: object = None
    error: str = ""


@dataclass(frozen=True)
class Run:
    """One recorded run.

    Attributes:
        attack: AgentDojo's name of the attack, or None.
        dos: the attack only wants the agent to stop: there is no call to break.
        useful, attacked: AgentDojo's labels; `attacked` is False without an attack.
    """

    run_id: str
    suite: str
    agent: str
    attack: str | None
    injection: str | None
    useful: bool
    attacked: bool
    crashed: bool
    steps: list[Step]

    @property
    def dos(self) -> bool:
        """See above."""
        return self.attack is not None and "dos" in self.attack


def read_runs(folder: Path, suite: str) -> Iterator[Run]:
    """The runs of a suite in recorded order."""
    steps: dict[str, list[Step]] = defaultdict(list)
    for row in _rows(folder / "agentdojo.steps.jsonl.gz"):
        if row["suite"] == suite and row["kind"] in ("user_message", "tool_call"):
            steps[str(row["run_id"])].append(_step(row))
    for row in _rows(folder / "agentdojo.runs.jsonl.gz"):
        if row["suite"] == suite:
            labels = row["labels"]
            assert isinstance(labels, dict)
            yield Run(
                str(row["run_id"]), suite, str(row["agent"]), labels["attack"], labels["injection_task"],
                bool(labels["utility"]), bool(labels["attack"] and labels["security"]), bool(labels["run_error"]),
                steps[str(row["run_id"])],
            )  # fmt: skip


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _step(row: dict[str, object]) -> Step:
    seq, said = int(str(row["seq"])), row["result"]
    if row["kind"] == "user_message":
        return Step(seq, None, text=str(said or ""))
    tool, arguments = str(row["tool"]), row["arguments"]
    result = None if said is None else as_json(tool, str(said))
    return Step(
        seq, tool, arguments=arguments if isinstance(arguments, dict) else {}, result=result,
        error=str(row.get("error") or ""),
    )  # fmt: skip


@lru_cache(maxsize=100_000)
def as_json(tool: str, text: str) -> object:
    """The result a tool returned, from the text that was recorded."""
    if text.startswith("<<") and text.endswith(">>"):
        text = text[2:-2]
    if tool in TEXT_TOOLS:
        return text
    try:
        return _plain(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if text.lstrip().startswith(("- ", "[", "{")):
        try:
            return _plain(yaml.safe_load(text))
        except yaml.YAMLError:
            pass
    return text


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
