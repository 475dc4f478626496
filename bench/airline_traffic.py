"""Reading the recorded airline runs of tau-bench and tau2, with the calls their tasks need. Next: `airline.py`."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.recorded_traffic import Step as Step

SOURCES = ("tau-bench", "tau2")
SUITE = "airline"
WRITES = frozenset(
    (
        "book_reservation", "cancel_reservation", "send_certificate", "update_reservation_baggages",
        "update_reservation_flights", "update_reservation_passengers",
    )
)  # fmt: skip
_FLIGHT = ("flight_number", "date")


@dataclass(frozen=True)
class Run:
    """One recorded run. `wanted`: the calls of the task's ground truth, as `_plain` writes them."""

    run_id: str
    agent: str
    rewarded: bool
    wanted: frozenset[str]
    steps: list[Step]

    def needs(self, step: Step) -> bool:
        """Whether the call stands in the ground truth."""
        return _plain(step.tool, step.arguments) in self.wanted


def read_runs(folder: Path) -> Iterator[Run]:
    """All airline runs, in recorded order."""
    for source in SOURCES:
        steps: dict[str, list[Step]] = defaultdict(list)
        for row in _rows(folder / f"{source}.steps.jsonl.gz"):
            if row["kind"] in ("user_message", "tool_call"):
                steps[str(row["run_id"])].append(_step(row))
        for row in _rows(folder / f"{source}.runs.jsonl.gz"):
            labels, actions = row["labels"], row["ground_truth_actions"] or []
            assert isinstance(labels, dict) and isinstance(actions, list)
            wanted = frozenset(_plain(a["name"], a.get("kwargs", a.get("arguments")) or {}) for a in actions)
            run_id = str(row["run_id"])
            yield Run(run_id, str(row["agent"]), labels["reward"] == 1.0, wanted, steps[run_id])


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["suite"] == SUITE:
                yield row


def _step(row: dict[str, object]) -> Step:
    seq, said = int(str(row["seq"])), str(row["result"] or "")
    if row["kind"] == "user_message":
        return Step(seq, None, text=said)
    arguments = row["arguments"]
    error = str(row.get("error") or "") or (said if said.lower().startswith("error") else "")
    return Step(
        seq, str(row["tool"]), arguments=arguments if isinstance(arguments, dict) else {}, result=as_json(said),
        error=error,
    )  # fmt: skip


def as_json(text: str) -> object:
    """The result as the tool returned it: JSON, or text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _plain(tool: str | None, arguments: dict[str, object]) -> str:
    """A call in one line: flights by number and date only, whatever else an agent repeated of them."""
    flights = arguments.get("flights")
    if isinstance(flights, list):
        short = [{k: f.get(k) for k in _FLIGHT} if isinstance(f, dict) else f for f in flights]
        arguments = {**arguments, "flights": short}
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"
