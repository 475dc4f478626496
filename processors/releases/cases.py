"""Cases: rows that say what a release must answer, as anybody can write them.

    tests/*.yaml    role: banking                      tests/*.csv    name,role,said,history,call,args.amount,expect,reason
                    cases:
                      - name: a small transfer
                        said: pay 50 to my landlord
                        call: banking.send_money
                        arguments: {amount: 50, ...}
                        expect: permit

What stands above `cases:` holds for all rows of the file. A row that cannot be read is a finding with its line.
Pure; never decides anything. Next: `releases/rehearsal.py` (who plays them), docs/policies.md.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import yaml
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.processors.releases.shapes import Shape

Json = object
Row = dict[str, Json]

EXPECT = ("permit", "refuse", "hold", "release", "withhold")
"""The first three are about the call; the last two about its result, which the row then gives."""
KEYS = (
    "name", "role", "roles", "agent", "team", "tenant", "environment", "on_behalf_of", "goal", "task", "said", "history", "call",
    "arguments", "agreed", "result", "expect", "reason", "policies", "executed", "shown",
)  # fmt: skip
STEP_KEYS = ("said", "call", "arguments", "result", "agreed", "times")
MAX_TIMES = 1_000
"""Repetitions of one step of a history."""
CALL_KEYS = ("call", "arguments", "result", "agreed")
ARGUMENT = "args."
"""`args.amount`: one argument in a column of its own."""

_STEP = re.compile(
    r"\s*(?:\"(?P<said>[^\"]*)\"|(?P<call>[^\s;{]+)\s*(?P<args>\{.*?\})?\s*(?:->\s*(?P<result>.+?))?)\s*(?:;|$)"
)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened before: the user said something, or a call that was permitted and answered.

    `arguments` are the agent's bytes. `result` None is the JSON `{}`. `agreed`: people agreed to it.
    """

    said: str = ""
    call: str = ""
    arguments: bytes = b"{}"
    result: bytes | None = None
    agreed: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One row. None where it says nothing, so that anything is right."""

    name: str
    file: str
    line: int
    agent: str
    tenant: str
    team: str
    roles: tuple[str, ...]
    environment: str
    on_behalf_of: str
    goal: str
    history: tuple[Step, ...]
    last: Step
    expect: str
    reason: str | None
    policies: tuple[str, ...] | None
    executed: Json = None
    shown: Json = None
    task: Row | None = None


class _BadRow(ValueError):
    """A row that says nothing usable; becomes a finding. `key` is where."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def read_cases(files: Mapping[str, str], tools: Mapping[str, Shape]) -> tuple[list[Case], list[Finding]]:
    """The cases of `*.yaml` and `*.csv` texts in order, and what is wrong with the rest."""
    cases: list[Case] = []
    findings: list[Finding] = []
    for path in sorted(files):
        rows = _csv(files[path], tools) if path.endswith(".csv") else _yaml(files[path])
        try:
            for line, key_line, row in rows:
                try:
                    cases.append(_case(path, line, row, tools))
                except _BadRow as error:
                    findings.append(Finding(path, key_line(error.key) or line, "case", "error", str(error)))
        except (yaml.YAMLError, _BadRow, csv.Error) as error:
            said = " ".join(str(error).split())[:200]
            findings.append(Finding(path, 0, "case", "error", f"the file cannot be read: {said}"))
    return cases, findings


class _Lines:
    """Where a row's keys stand."""

    def __init__(self, text: str, *path: str) -> None:
        self._text, self._path = text, path

    def __call__(self, key: str) -> int:
        return line_of(self._text, [*self._path, key]) if self._path else 0


def _yaml(text: str) -> Iterator[tuple[int, _Lines, Row]]:
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise _BadRow("", "it needs `cases:` with a list of rows")
    shared = {k: v for k, v in document.items() if k != "cases"}
    for at, row in enumerate(document["cases"]):
        if not isinstance(row, dict):
            raise _BadRow("", f"case {at + 1} is no row of keys and values")
        lines = _Lines(text, "cases", str(at))
        yield lines(""), lines, {**shared, **row}


def _csv(text: str, tools: Mapping[str, Shape]) -> Iterator[tuple[int, _Lines, Row]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    for raw in reader:
        if None in raw or None in raw.values():
            raise _BadRow("", f"line {reader.line_num} has another number of cells than the first line")
        row: Row = {k: v for k, v in raw.items() if v.strip()}
        if not row:
            continue
        arguments = json.loads(cast(str, row["arguments"])) if "arguments" in row else {}
        shape = tools.get(str(row.get("call", "")))
        for key in [k for k in row if k.startswith(ARGUMENT)]:
            _put(arguments, key.removeprefix(ARGUMENT).split("."), str(row.pop(key)), shape)
        row["arguments"] = arguments
        for key in ("policies", "roles"):
            if key in row:
                row[key] = re.split(r"[\s;,]+", str(row[key]).strip())
        if "history" in row:
            row["history"] = cast(Json, _steps(str(row["history"])))
        if "agreed" in row:
            row["agreed"] = str(row["agreed"]).lower() in ("yes", "true", "1")
        for key in ("result", "executed", "shown", "task"):
            if key in row:
                row[key] = _read(str(row[key]), None)
        yield reader.line_num, _Lines(text), row


def _put(arguments: Row, path: list[str], cell: str, shape: Shape | None) -> None:
    for part in path[:-1]:
        field = shape.field(part) if shape else None
        shape = field.shape if field else None
        arguments = cast(Row, arguments.setdefault(part, {}))
    field = shape.field(path[-1]) if shape else None
    arguments[path[-1]] = _read(cell, field.shape if field else None)


def _read(cell: str, shape: Shape | None) -> Json:
    """A cell as the contract's type; as text when it is none of that, so that wrong types can be tested, too."""
    text = cell.strip()
    if shape is not None and shape.kind == "string" and not text.startswith('"'):
        return cell
    try:
        return cast(Json, json.loads(text.lower() if text.lower() in ("true", "false") else text))
    except ValueError:
        return cell


def _steps(text: str) -> list[Row]:
    """`"please" ; banking.get_balance ; banking.read_file {"file_path": "a"} -> "text"`."""
    found: list[Row] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or match.end() == at:
            raise _BadRow(
                "history", f'`{text[at : at + 40]}` is no step, write `tool {{"a": 1}} -> "result"; ...`'
            )
        at = match.end()
        if match["said"] is not None:
            found.append({"said": match["said"]})
        else:
            step: Row = {"call": match["call"]}
            if match["args"]:
                step["arguments"] = _read(match["args"], None)
            if match["result"]:
                step["result"] = _read(match["result"], None)
            found.append(step)
    return found


def _case(path: str, line: int, row: Row, tools: Mapping[str, Shape]) -> Case:
    for key in row:
        if key not in KEYS:
            raise _BadRow(key, f"a case has no `{key}`{nearest(key, KEYS)}")
    name = _text(row, "name") or _text(row, "call")
    expect = _text(row, "expect")
    if expect not in EXPECT:
        raise _BadRow("expect", f"`{name}`: expect `{expect}` is none of {', '.join(EXPECT)}")
    if not _text(row, "call"):
        raise _BadRow("call", f"`{name}` has no `call`, name the tool that is asked for")
    if (expect in ("release", "withhold")) != ("result" in row):
        raise _BadRow(
            "expect", f"`{name}`: `result` goes with expect `release` or `withhold`, and only with them"
        )
    said = row.get("said")
    words = said if isinstance(said, list) else [said] if said else []
    history = [_step({"said": w}) for w in words]
    for step in _list(row, "history"):
        history += [_step(step)] * _times(step)
    roles = [*_list(row, "roles"), *([row["role"]] if "role" in row else [])]
    task = row.get("task")
    if task is not None and not isinstance(task, dict):
        raise _BadRow("task", "`task` is an object of the fields that the release declares")
    policies = tuple(sorted(str(p) for p in _list(row, "policies"))) if "policies" in row else None
    return Case(
        name, path, line, _text(row, "agent") or "agent", _text(row, "tenant") or "default", _text(row, "team"),
        tuple(str(r) for r in roles), _text(row, "environment") or "test", _text(row, "on_behalf_of"),
        _text(row, "goal"), tuple(history), _step({k: row[k] for k in CALL_KEYS if k in row}), expect,
        _text(row, "reason") if "reason" in row else None, policies, row.get("executed"), row.get("shown"), task,
    )  # fmt: skip


def _step(row: Json) -> Step:
    if not isinstance(row, dict) or not ({"said", "call"} & row.keys()):
        raise _BadRow("history", "a step of `history` has `said`, or `call` with `arguments` and `result`")
    for key in row:
        if key not in STEP_KEYS:
            raise _BadRow("history", f"a step of `history` has no `{key}`{nearest(key, STEP_KEYS)}")
    arguments = row.get("arguments", {})
    result = json.dumps(row["result"]).encode() if "result" in row else None
    raw = arguments.encode() if isinstance(arguments, str) else json.dumps(arguments, default=str).encode()
    return Step(str(row.get("said") or ""), str(row.get("call") or ""), raw, result, bool(row.get("agreed")))


def _times(step: Json) -> int:
    times = step.get("times", 1) if isinstance(step, dict) else 1
    if not isinstance(times, int) or not 1 <= times <= MAX_TIMES:
        raise _BadRow("history", f"`times: {times}` is no number from 1 to {MAX_TIMES}")
    return times


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str | int | float):
        raise _BadRow(key, f"`{key}` is a text")
    return "" if value is None else str(value)


def _list(row: Row, key: str) -> list[Json]:
    value = row.get(key, [])
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise _BadRow(key, f"`{key}` is a list")
    return value
