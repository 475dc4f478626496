"""`release test`: rows anybody can write, decided by the real `decide`, with the difference, coverage and JUnit."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from sluicegate.processors.releases.cases import Case, read_cases
from sluicegate.processors.releases.findings import Finding
from sluicegate.processors.releases.rehearsal import Played, ask, run_case
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests import driver

PAY = {
    "name": "pay",
    "inputSchema": {
        "type": "object",
        "properties": {
            "to": {"type": "string"}, "amount": {"type": "number"}, "fast": {"type": "boolean"},
            "address": {"type": "object", "properties": {"zip": {"type": "string"}}}, "items": {"type": "array"},
        },
        "required": ["to", "amount"],
    },
    "outputSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
    "x-sluicegate": {"class": "irreversible", "executor": {"kind": "http", "url": "http://x/"}},
}  # fmt: skip
ASK = {**PAY, "name": "ask"}
LOCAL = {**PAY, "name": "local", "x-sluicegate": {"executor": {"kind": "in_process"}}}
POLICIES = """
@id("pay-small") permit (principal in Role::"clerk", action in [Action::"pay", Action::"local"], resource)
when { context.args.amount.lessThanOrEqual(decimal("100.0")) };
@id("ask-first") @hold("somebody agrees") @quorum("2") @reviewers("boss")
permit (principal, action == Action::"ask", resource);
@id("not-to-them") forbid (principal, action, resource) when { context.args.to == "them" };
"""
FILES = {
    "release.yaml": "name: r\nversion: '1'\n",
    "policies/p.cedar": POLICIES,
    **{f"contracts/{c['name']}.json": json.dumps(c) for c in (PAY, ASK, LOCAL)},
}


def released() -> CompiledRelease:
    return compile_release(FILES)


def read(text: str, name: str = "tests/a.yaml") -> tuple[list[Case], list[Finding]]:
    shapes = {n: shape_of(t.contract.input_schema) for n, t in released().tools.items()}
    return read_cases({name: text}, shapes)


def play(**row: object) -> Played:
    full = {"role": "clerk", "call": "pay", "arguments": {"to": "me", "amount": 5}, "expect": "permit", **row}
    cases, findings = read(json.dumps({"cases": [full]}))
    assert findings == []
    return run_case(released(), cases[0])


GOOD = [
    {},
    {"policies": ["pay-small"], "reason": ""},
    {"arguments": {"to": "me", "amount": 101}, "expect": "refuse", "reason": "no_permit", "policies": []},
    {"arguments": {"to": "them", "amount": 5}, "expect": "refuse", "reason": "forbidden", "policies": ["not-to-them"]},
    {"arguments": {"to": "me", "amount": "5"}, "expect": "refuse", "reason": "schema_violation"},
    {"arguments": "not json", "expect": "refuse", "reason": "arguments_not_json"},
    {"call": "nothing", "expect": "refuse", "reason": "unknown_tool"},
    {"role": "guest", "expect": "refuse", "reason": "no_permit"},
    {"call": "ask", "expect": "hold", "reason": "approval_required", "policies": "ask-first"},
    {"call": "local"},
    {"call": "ask", "agreed": True},
    {"call": "ask", "agreed": True, "expect": "release", "result": {"ok": True}, "executed": {"to": "me", "amount": 5}},
    {"history": [{"call": "ask", "arguments": {"to": "me", "amount": 1}, "result": {"ok": True}, "agreed": True, "times": 2}]},
    {"expect": "release", "result": {"ok": True}, "shown": {"ok": True}},
    {"expect": "withhold", "result": {"ok": "yes"}, "reason": "malformed_result"},
    {"call": "local", "expect": "release", "result": {"ok": True}},
    {"executed": {"to": "me", "amount": 5}},
    {"history": [{"said": "hello"}, {"call": "pay", "arguments": {"to": "me", "amount": 1}, "result": {"ok": True}, "times": 3}]},
]  # fmt: skip


@pytest.mark.parametrize("row", GOOD)
def test_a_case_as_expected(row: dict[str, object]) -> None:
    assert play(**row).difference == ""


BAD = [
    ({"expect": "refuse"}, "decision: expected refuse, got permit;"),
    ({"policies": ["other"]}, "policies: expected other, got pay-small;"),
    ({"arguments": {"to": "me", "amount": 101}}, "decision: expected permit, got refuse; (`pay-small` fails on `amount <= 100`, got 101"),
    ({"expect": "hold"}, "decision: expected hold, got permit;"),
    ({"expect": "release", "result": {"ok": 7}}, "got withhold"),
    ({"executed": {"to": "me"}}, "executed: expected"),
    ({"history": [{"call": "pay", "arguments": {"to": "them", "amount": 1}}]}, "step 1 of its history, `pay`, is refused: forbidden not-to-them"),
    ({"history": [{"call": "ask", "arguments": {"to": "me", "amount": 1}}]}, "step 1 of its history, `ask`, is held"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), BAD)
def test_a_case_that_came_out_otherwise_says_how(row: dict[str, object], words: str) -> None:
    assert words in play(**row).difference


UNREADABLE = [
    ("cases: [{call: pay, expect: permitted}]", 1, "`permitted` is none of permit, refuse"),
    (
        "cases:\n - call: pay\n   expect: permit\n   resaon: x",
        4,
        "a case has no `resaon`, did you mean `reason`?",
    ),
    ("cases:\n - expect: permit", 2, "has no `call`"),
    ("cases:\n - call: pay\n   expect: release", 3, "`result` goes with"),
    ("cases:\n - call: pay\n   expect: permit\n   history: [{tool: x}]", 4, "has `said`, or `call`"),
    ("cases:\n - call: pay\n   expect: permit\n   history: [{call: x, times: 0}]", 4, "no number from 1"),
    ("cases:\n - call: [pay]\n   expect: permit", 2, "`call` is a text"),
    ("cases: 7", 0, "needs `cases:`"),
    ("a: [", 0, "cannot be read"),
    ("cases: [7]", 0, "no row"),
]


@pytest.mark.parametrize(("text", "line", "words"), UNREADABLE)
def test_a_row_that_cannot_be_read_is_a_finding(text: str, line: int, words: str) -> None:
    cases, findings = read(text)
    assert cases == []
    assert [(f.line, f.rule, words in f.sentence) for f in findings] == [(line, "case", True)]


def test_rows_of_a_spreadsheet() -> None:
    text = (
        "name,role,said,history,call,args.to,args.amount,args.fast,args.address.zip,args.items,expect,reason,policies\n"
        'one,clerk,hi,"""again""; pay {""to"": ""me"", ""amount"": 1} -> {""ok"": true}",pay,7,1.5,TRUE,00100,"[1, 2]",permit,,pay-small\n'
        ",,,,,,,,,,,,\n"
        "two,clerk,,,pay,me,five,,,,refuse,schema_violation,\n"
    )
    cases, findings = read(text, "tests/a.csv")
    assert findings == [] and [(c.name, c.line) for c in cases] == [("one", 2), ("two", 4)]
    wanted = {"to": "7", "amount": 1.5, "fast": True, "address": {"zip": "00100"}, "items": [1, 2]}
    assert json.loads(cases[0].last.arguments) == wanted
    assert [s.said or s.call for s in cases[0].history] == ["hi", "again", "pay"]
    assert cases[0].history[2].result == b'{"ok": true}'
    assert [run_case(released(), c).difference for c in cases] == ["", ""]


@pytest.mark.parametrize(
    "text", ["name,call\na,b,c\n", "call,history,expect\npay,{x,permit\n", 'a"b,c\n"x\n']
)
def test_a_broken_spreadsheet_is_a_finding(text: str) -> None:
    cases, findings = read(text, "tests/a.csv")
    assert cases == [] and [f.rule for f in findings] == ["case"]


def test_playing_twice_gives_the_same() -> None:
    assert play() == play()


def test_the_examples_cases_pass_and_every_policy_decides_one(tmp_path: Path) -> None:
    written = tmp_path / "junit.xml"
    command = [
        "release",
        "test",
        str(driver.RELEASE),
        "--junit",
        str(written),
        "--min-coverage",
        "100",
        "-o",
        "json",
    ]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.output)
    assert len(rows) > 50 and {row["result"] for row in rows} == {"pass"}
    suite = ElementTree.parse(written).getroot()
    assert (suite.get("tests"), suite.get("failures")) == (str(len(rows)), "0")


def test_the_command_fails_with_the_difference(tmp_path: Path) -> None:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    without = CliRunner().invoke(app, ["release", "test", str(tmp_path)])
    assert without.exit_code == 1 and "there are no cases: write some into" in without.output.replace(
        "\n", " "
    )
    assert "never decided" not in without.output
    (tmp_path / "tests").mkdir()
    row = 'name,role,call,args.to,args.amount,expect\n"a <b> & c\x01",clerk,pay,me,5,refuse\n'
    (tmp_path / "tests" / "a.csv").write_text(row)
    written = tmp_path / "junit.xml"
    answer = CliRunner().invoke(app, ["release", "test", str(tmp_path), "--junit", str(written)])
    assert answer.exit_code == 1
    assert "expected refuse, got permit" in answer.output
    assert "0 passed, 1 failed; 1 of 3 policies decided a case" in answer.output
    assert "never decided: ask-first, not-to-them" in answer.output
    failure = ElementTree.parse(written).getroot().find("testsuite/testcase/failure")
    assert failure is not None and "expected refuse, got permit" in str(failure.get("message"))
    (tmp_path / "tests" / "a.csv").write_text(row.replace("refuse", "permit"))
    assert CliRunner().invoke(app, ["release", "test", str(tmp_path)]).exit_code == 0
    other = CliRunner().invoke(app, ["release", "test", str(tmp_path), "--only", "zzz"])
    assert other.exit_code == 1 and "no case has `zzz` in its name or file" in other.output
    assert CliRunner().invoke(app, ["release", "test", str(tmp_path), "--min-coverage", "34"]).exit_code == 1


def test_what_would_be_said_does_not_hang_on_a_rollback_of_long_ago() -> None:
    """Control remembers the last order for an agent for ever; that its partition took it in only the partition knows."""
    d = driver.Driver()
    d.deploy(compile_release(driver.release_files()))
    d.open_session()
    d.control_event("agent.rolled_back", agent_id=driver.AGENT, cut=d.state.seq - 1, why="drift")
    release, agent = d.control.release, d.control.agents[driver.AGENT]
    assert release is not None
    assert ask(release, agent, "desk.read", b'{"value": "x"}', control=d.control).allowed
