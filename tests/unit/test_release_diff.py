"""`release diff`: what changes for whom, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sluicegate.processors.releases.diff import Change, diff
from sluicegate.processors.releases.release import compile_release
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests.driver import release_files
from tests.unit.test_attempts import files as model_files

Files = dict[str, str]
FREE = '@id("desk-use")\npermit (principal, action in [Action::"desk.read", Action::"desk.set"], resource);'


def rows(old: Files, new: Files) -> list[Change]:
    return diff((old, compile_release(old)), (new, compile_release(new)))


def said(old: Files, new: Files, part: str) -> list[str]:
    return [f"{c.change} {c.name}: {c.sentence}" for c in rows(old, new) if c.part == part]


def contract(change: dict[str, object] | None = None, **governance: object) -> Files:
    """The desk's release with `desk.set` otherwise."""
    files = release_files()
    text = json.loads(files["contracts/desk.set.json"])
    text["inputSchema"] |= change or {}
    text["x-sluicegate"] |= governance
    return {**files, "contracts/desk.set.json": json.dumps(text)}


def policy(text: str) -> Files:
    """A release with only these policies on the desk's two tools."""
    files = release_files()
    kept = ("contracts/desk.read.json", "contracts/desk.set.json", "release.yaml")
    return {**{p: files[p] for p in kept}, "policies/a.cedar": text}


def test_nothing_differs() -> None:
    assert rows(release_files(), release_files()) == []


def test_comments_alone_are_said_to_be_that() -> None:
    files = release_files()
    [one] = rows(files, {**files, "policies/desk.cedar": "// hello\n" + files["policies/desk.cedar"]})
    assert (one.part, one.sentence) == ("release", "the files differ in comments or spacing only")


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"required": ["value"]}, "argument `value` became required"),
        ({"properties": {}}, "argument `value` is gone"),
        ({"properties": {"value": {"type": "integer"}}}, "argument `value` was of type `string`, is `integer`"),
        ({"properties": {"value": {"type": "string", "maxLength": 10}}}, "argument `value` must have at most so many characters: `10`, was `100`"),
        ({"properties": {"value": {"type": "string", "maxLength": 100, "enum": ["a"]}}}, "argument `value` may only be `a`"),
        ({"properties": {"value": {"type": "string", "maxLength": 100, "title": "V"}}}, "argument `value`: `title` was `null`, is `V`"),
        ({"properties": {"value": {"type": "string", "maxLength": 100}, "more": {"type": "string"}}}, "argument `more` is new, optional"),
        ({"additionalProperties": True}, "the schema of every argument: `additionalProperties` was `null`, is `true`"),
    ],
)  # fmt: skip
def test_arguments(schema: dict[str, object], sentence: str) -> None:
    assert f"changed desk.set: {sentence}" in said(release_files(), contract(schema), "schema")


def test_nested_arguments_and_choices() -> None:
    def nested(kind: list[str], required: list[str]) -> Files:
        inner = {
            "type": "object",
            "properties": {"kind": {"type": "string", "enum": kind}},
            "required": required,
        }
        return contract({"properties": {"items": {"type": "array", "items": inner}}})

    assert said(nested(["a", "b"], []), nested(["b", "c"], ["kind"]), "schema") == [
        "changed desk.set: argument `items[].kind` became required",
        "changed desk.set: argument `items[].kind` may not be `a` any more",
        "changed desk.set: argument `items[].kind` may be `c` too",
    ]


def test_class_endpoint_cache_and_time() -> None:
    new = contract(None, **{"class": "irreversible", "timeout_ms": 9_000, "executor": {"kind": "http", "url": "http://other.invalid"}})  # fmt: skip
    old = release_files()
    assert said(old, new, "class") == ["changed desk.set: its class was `idempotent`, is `irreversible`"]
    assert said(old, new, "endpoint") == ["changed desk.set: `executor.url` was `http://tools.invalid/desk.set`, is `http://other.invalid`"]  # fmt: skip
    assert said(old, new, "tool") == ["changed desk.set: `timeout_ms` was `2000`, is `9000`"]
    cached = contract(None, **{"class": "read_only", "cache": {"scope": "agent", "ttl_s": 60}})
    [one] = said(contract(None, **{"class": "read_only"}), cached, "cache")
    assert "answers the same call for 60 s within `agent`" in one


def test_tools_come_and_go() -> None:
    old, new = policy(FREE), policy(FREE.replace(', Action::"desk.set"', ""))
    del new["contracts/desk.set.json"]
    assert said(old, new, "tool") == ["removed desk.set: there is no such contract any more"]
    assert said(old, new, "access") == ["loses every agent: `desk.set`: could call it whatever the arguments, now cannot"]  # fmt: skip
    [added] = said(new, old, "tool")
    assert "added desk.set: a contract of class `idempotent`" in added


ROLE = '@id("b") permit (principal in Role::"banking", action == Action::"desk.set", resource)'
SMALL = ROLE + ' when { context.args has value && ["a", "b"].contains(context.args.value) };'
ONE = ROLE + ' when { context.args has value && context.args.value == "a" };'
LIKE = ROLE + ' when { context.args has value && context.args.value like "z*" };'
READ = '@id("r") permit (principal, action == Action::"desk.read", resource);'
HELD = ROLE.replace("permit", '@hold("why") permit') + ";"


@pytest.mark.parametrize(
    ("old", "new", "change", "sentence"),
    [
        ("", ROLE + ";", "gains", "could not call it, now may whatever the arguments"),
        ("", ONE, "gains", 'could not call it, now may when { context.args has value && context.args.value == "a" }'),
        (ONE, "", "loses", "now cannot"),
        (SMALL, ONE, "loses", "in fewer cases, in none more (by `b`)"),
        (ONE, SMALL, "gains", "in more cases, in none fewer (by `b`)"),
        (ONE, LIKE, "may", "may gain some cases and may lose others (by `b`)"),
        (ONE, ROLE + ";", "gains", "now whatever the arguments"),
        (ROLE + ";", ONE, "loses", "could call it whatever the arguments, now when"),
        (ROLE + ";", HELD, "loses", "people are asked now, who were not (by `b`)"),
        (HELD, ROLE + ";", "gains", "no person is asked any more (by `b`)"),
        (HELD, HELD.replace("@hold", '@quorum("2") @hold'), "may", "who has to agree changed: 1 of anybody registered within 86400 s, now 2"),
        (ROLE + ";", ROLE + '; @id("f") forbid (principal, action == Action::"desk.set", resource);', "loses", "now cannot"),
        (ROLE + ";", ROLE.replace("permit", '@mode("observe") permit') + ";", "loses", "now cannot"),
    ],
)  # fmt: skip
def test_who_gains_and_who_loses(old: str, new: str, change: str, sentence: str) -> None:
    [one] = [c for c in rows(policy(READ + old), policy(READ + new)) if c.part == "access"]
    assert (one.name, one.change) == ("role `banking`", change)
    assert one.sentence.startswith("`desk.set`: ") and sentence in one.sentence


def test_a_role_is_not_named_for_what_everybody_has() -> None:
    both = READ + ROLE + ";"
    everybody = both.replace('in Role::"banking"', "")
    assert said(policy(READ), policy(READ + everybody.removeprefix(READ)), "access") == [
        "gains every agent: `desk.set`: could not call it, now may whatever the arguments"
    ]
    found = said(policy(both), policy(everybody), "access")
    assert {s.split(":")[0] for s in found} >= {"gains agents of no role here", "gains role `retail`"}
    assert not [s for s in found if "banking" in s], "who had it before gains nothing"


def test_a_policy_with_its_lines() -> None:
    [one] = [c for c in rows(policy(READ + ONE), policy(READ + SMALL)) if c.part == "policy"]
    assert (one.name, one.change, one.sentence) == ("b", "changed", "has other conditions")
    assert "-" in one.detail and "+" in one.detail and '["a", "b"]' in one.detail


def test_prompts_routes_and_tables() -> None:
    old = model_files() | {"prompts/a.md": "one\ntwo\n"}
    rules = "budgets: [{id: b, scope: agent, unit: calls, cap: 5}]\nlimits: [{id: l, scope: agent, unit: requests, cap: 5, window: minute}]\nderail: {calls: 9}\n"
    new = old | {"prompts/a.md": "one\nthree\n", "release.yaml": old["release.yaml"] + rules}
    [prompt] = [c for c in rows(old, new) if c.part == "prompt"]
    assert (prompt.change, prompt.detail.splitlines()[-2:]) == ("changed", ["-two", "+three"])
    parts = {(c.part, c.name, c.change) for c in rows(old, new)}
    assert {("budget", "b", "added"), ("limit", "l", "added")} <= parts
    assert {("budget", "b", "removed"), ("limit", "l", "removed")} <= {(c.part, c.name, c.change) for c in rows(new, old)}  # fmt: skip
    assert any("calls" in s for s in said(old, new, "derail"))
    again = {**new, "release.yaml": new["release.yaml"].replace("cap: 5}", "cap: 7}")}
    assert said(new, again, "budget") == ["changed b: `cap` was `5`, is `7`"]


def test_control_cedar_is_told_apart() -> None:
    files = release_files()
    rule = '@id("leads") permit (principal in Role::"lead", action == Action::"release.deployed", resource);'
    assert said(files, {**files, "control.cedar": rule}, "control") == ["added leads: a new permit"]


def write(path: Path, files: Files) -> str:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, "utf-8")
    return str(path)


def test_the_command(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", policy(READ + ONE)), write(tmp_path / "new", policy(READ + SMALL))
    run = CliRunner().invoke
    same = run(app, ["release", "diff", old, old])
    assert (same.exit_code, "nothing differs" in same.output) == (0, True)
    found = run(app, ["release", "diff", old, new])
    assert found.exit_code == 1 and "role `banking`" in found.output
    rows_ = json.loads(run(app, ["release", "diff", old, new, "-o", "json"]).output)
    assert {row["part"] for row in rows_} == {"access", "policy"}
