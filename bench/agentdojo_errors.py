"""Where AgentDojo's recorded tool errors would have been stopped: `python -m bench.agentdojo_errors --traffic FOLDER`.

Reads every recorded banking and slack call of FOLDER (`agentdojo.steps.jsonl.gz`) and holds it against the contracts of
`examples/release`:
- a call that failed is listed by the stage that stops it: `route` (no such tool), `conform` (the arguments do not fit the
  schema, unknown ones included) or `reaches the tool`, with the reason why its form does not tell that it will fail;
- of the calls that ran, the share that `conform` refuses is held against a bar, and each such call is listed by cause.

It never runs a tool and knows nothing of policies: what authorization or grounding would refuse besides is not counted.
The exit code is 1 when the bar is missed or a recorded ValidationError would reach its tool.
Read next: `examples/traffic/README.md` for what the recordings are.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

try:
    from sluicegate.processors import conform as stage
    from sluicegate.processors.releases.shapes import shape_of
except ImportError:
    stage = None  # type: ignore[assignment]

Step = dict[str, Any]
Contract = dict[str, Any]
# The check of one tool's calls: JSON bytes of arguments -> the cause of refusal, None if they conform.
Check = Callable[[bytes], str | None]

SUITES = ("banking", "slack")
BAR_PERCENT = 0.2
RELEASE = Path(__file__).parent.parent / "examples" / "release"

# Errors of calls whose name and arguments are well-formed, and why no stage can tell from the call that it will fail.
REACHES = (
    (
        re.compile(r"not found|does not exist"),
        "well-formed, but names something that does not exist: only the tool's state knows",
    ),
    (
        re.compile(r"already in the"),
        "well-formed, but names something that exists already: only the tool's state knows",
    ),
    (
        re.compile(r"slice indices must be integers"),
        "1.0 is an integer in JSON; the recorded runtime took it for a float",
    ),
)


def product_conform(contract: Contract) -> Check:
    """The product's own stage: canonical JSON, schema, Cedar's types."""
    schema = closed(contract)
    validator, typer = jsonschema_rs.validator_for(schema), stage.compile_typer(shape_of(schema))

    def check(arguments: bytes) -> str | None:
        answer = stage.conform(validator, typer, arguments)
        if not isinstance(answer, stage.Misfit):
            return None
        # The detail quotes the value; the schema's own words about it make equal mistakes read alike.
        return schema_cause(validator, arguments) or f"{answer.reason}: {answer.detail}"

    return check


def local_conform(contract: Contract) -> Check:
    """JSON Schema alone, for a checkout whose product has no conform stage yet."""
    validator = jsonschema_rs.validator_for(closed(contract))
    return lambda arguments: schema_cause(validator, arguments)


def closed(contract: Contract) -> dict[str, Any]:
    """The contract's schema with unknown arguments refused, whatever it says of them."""
    return {**contract["inputSchema"], "additionalProperties": False}


def schema_cause(validator: jsonschema_rs.Validator, arguments: bytes) -> str | None:
    return "; ".join(sorted(cause(error) for error in validator.iter_errors(json.loads(arguments)))) or None


def cause(error: jsonschema_rs.ValidationError) -> str:
    """What is wrong, without the value: equal mistakes read alike."""
    kind = error.kind
    where = ".".join(str(part) for part in error.instance_path)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        return f"unknown argument: {', '.join(sorted(kind.unexpected))}"
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        return f"missing argument: {kind.property}"
    return f"{where}: {JSON_NAMES[type(error.instance)]} where the schema has another type"


JSON_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
    list: "an array",
    dict: "an object",
}

# The conform stage in use: swap it here.
CONFORM = product_conform if stage else local_conform


def recorded_calls(folder: Path) -> Iterator[Step]:
    with gzip.open(folder / "agentdojo.steps.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            step = json.loads(line)
            if step["kind"] == "tool_call" and step["suite"] in SUITES:
                yield step


def load_gate(release: Path) -> dict[str, Check]:
    contracts = [
        json.loads(path.read_text("utf-8")) for path in sorted((release / "contracts").glob("*.json"))
    ]
    return {contract["name"]: CONFORM(contract) for contract in contracts}


def stopped_by(gate: dict[str, Check], step: Step) -> tuple[str, str]:
    """The stage that stops a call and why; `reaches the tool` and "" if none does."""
    check = gate.get(f"{step['suite']}.{step['tool']}")
    if check is None:
        return "route", "unknown tool"
    found = check(json.dumps(step["arguments"]).encode())
    return ("conform", found) if found else ("reaches the tool", "")


def reaches_because(error: str) -> str:
    return next(
        (reason for pattern, reason in REACHES if pattern.search(error)), "no reason known: look at it"
    )


def error_class(error: str) -> str:
    head, colon, _ = error.partition(":")
    return head if colon else "no class: " + error.partition(".")[0]


def measure(folder: Path, release: Path) -> dict[str, Any]:
    gate = load_gate(release)
    calls = 0
    stages: dict[str, Counter[str]] = {"ValidationError": Counter(), "other": Counter()}
    groups: Counter[tuple[str, str, str, str]] = Counter()
    ran = 0
    refused: list[dict[str, Any]] = []
    for step in recorded_calls(folder):
        calls += 1
        where, why = stopped_by(gate, step)
        error = step.get("error")
        if error:
            name = error_class(error)
            stages["ValidationError" if name == "ValidationError" else "other"][where] += 1
            tool = f"{step['suite']}.{step['tool']}"
            groups[where, name, tool, why or reaches_because(error)] += 1
            continue
        ran += 1
        if where != "reaches the tool":
            place = {"run": step["run_id"], "seq": step["seq"], "tool": f"{step['suite']}.{step['tool']}"}
            refused.append(place | {"stage": where, "cause": why})
    share = 100 * len(refused) / ran if ran else 0.0
    return {
        "calls": calls,
        "conform": CONFORM.__name__,
        "errors": {kind: {"total": count.total(), **count} for kind, count in stages.items()},
        "groups": [
            {"stage": where, "error": name, "tool": tool, "why": why, "calls": count}
            for (where, name, tool, why), count in sorted(
                groups.items(), key=lambda item: (item[0][0], -item[1])
            )
        ],
        "ran": {
            "total": ran,
            "refused": len(refused),
            "percent": round(share, 4),
            "bar_percent": BAR_PERCENT,
        },
        "refused": refused,
        "passed": share <= BAR_PERCENT and not stages["ValidationError"]["reaches the tool"],
    }


def print_table(report: dict[str, Any]) -> None:
    print(f"{report['calls']:,} recorded calls of {' and '.join(SUITES)}; conform is {report['conform']}\n")
    for kind, count in report["errors"].items():
        parts = ", ".join(f"{where} {n}" for where, n in count.items() if where != "total")
        print(f"{kind} errors: {count['total']:,} ({parts})")
    print(f"\n{'stage':<17} {'calls':>5}  {'error':<16} {'tool':<37} why")
    for group in report["groups"]:
        name = group["error"].removeprefix("no class: ")[:16]
        print(f"{group['stage']:<17} {group['calls']:>5}  {name:<16} {group['tool']:<37} {group['why']}")
    ran = report["ran"]
    print(
        f"\nof {ran['total']:,} calls that ran, {ran['refused']} are refused:"
        f" {ran['percent']} % (bar: at most {ran['bar_percent']} %)"
    )
    for (tool, why), count in Counter((row["tool"], row["cause"]) for row in report["refused"]).most_common():
        print(f"{count:>5}  {tool:<37} {why}")
    for row in report["refused"]:
        print(f"       {row['run']}:{row['seq']}  {row['tool']}  {row['cause']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Which stage stops AgentDojo's recorded tool errors.")
    parser.add_argument("--traffic", type=Path, required=True, help="folder with agentdojo.steps.jsonl.gz")
    parser.add_argument("--release", type=Path, default=RELEASE, help="release folder with contracts/")
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    report = measure(options.traffic, options.release)
    if options.output == "json":
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print_table(report)
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
