"""`release check`: policies that never match, hold without effect or are shadowed, and tools nobody may call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.findings import Finding
from sluicegate.streams.control.releases import read_folder
from typer.testing import CliRunner

from tests import driver

CONTRACT = {
    "inputSchema": {
        "type": "object",
        "properties": {"to": {"type": "string"}, "n": {"type": "integer"}, "amount": {"type": "number"}, "note": {"type": "string"}},
        "required": ["to", "n", "amount"],
    },
    "x-sluicegate": {"executor": {"kind": "http", "url": "http://x/"}},
}  # fmt: skip
ALL = '@id("all") permit (principal, action, resource);'
ON_PAY = 'principal, action == Action::"pay", resource'


def findings(policies: str, contract: dict[str, object] | None = None) -> list[Finding]:
    files = {"release.yaml": "name: r\nversion: '1'\nroles: [clerk]\n", "policies/p.cedar": policies}
    for name in ("pay", "read"):
        files[f"contracts/{name}.json"] = json.dumps({"name": name, **CONTRACT, **(contract or {})}, indent=1)
    return check_release(files)[1]


NEVER = [
    "false",
    "1 == 1 && false",
    'context.args.to == "a" && context.args.to == "b"',
    '["a", "b"].contains(context.args.to) && context.args.to == "c"',
    'context.args.to == "a" && context.args.to != "a"',
    'context.args.to == "a" && context.args.to like "b*"',
    "context.args.n > 5 && context.args.n < 5",
    "context.args.n > 5 && context.args.n <= 5",
    "context.args.n == 5 && 6 <= context.args.n",
    'context.args.amount.greaterThan(decimal("5.0")) && context.args.amount.lessThan(decimal("2.5"))',
    "context.args has note && !(context.args has note)",
    'resource.class == "read_only" && resource.class == "irreversible"',
    '(context.args.n > 5 || context.args.to == "a") && context.args.n < 3 && context.args.to == "b"',
    "!(context.args.n > 5 || context.args.n <= 5)",
    'principal in Role::"clerk" && !(principal in Role::"clerk")',
]
POSSIBLE = [
    'context.args.to == "a" || context.args.to == "b"',
    "context.args.n >= 5 && context.args.n <= 5",
    'context.args.to like "a*" && context.args.to like "*b"',
    "context.args.n > 5 || context.args.n < 3",
    "!(context.args.n > 5 && context.args.n <= 5)",
    'context.session.calls > 3 && context.args.to == "a"',
    'context.args.to == "a*" && context.args.to like "a\\*"',
    "if context.args.n > 5 then false else true",
]


@pytest.mark.parametrize("condition", NEVER)
def test_a_policy_that_can_never_match_is_found(condition: str) -> None:
    found = findings(f'{ALL}\n@id("x")\nforbid ({ON_PAY}) when {{ {condition} }};')
    assert [(f.rule, f.line, f.severity) for f in found] == [("never-matches", 2, "warning")]


@pytest.mark.parametrize("condition", POSSIBLE)
def test_a_policy_that_can_match_is_not(condition: str) -> None:
    assert findings(f'{ALL}\n@id("x") forbid ({ON_PAY}) when {{ {condition} }};') == []


def test_unless_undoes_when() -> None:
    found = findings(
        f'{ALL}\n@id("x") forbid ({ON_PAY}) when {{ context.args.n > 5 }} unless {{ context.args.n > 5 }};'
    )
    assert [f.rule for f in found] == ["never-matches"]


def test_an_action_and_a_resource_that_are_two_tools() -> None:
    found = findings(
        f'{ALL}\n@id("x") forbid (principal, action == Action::"pay", resource == Tool::"read");'
    )
    assert [f.rule for f in found] == ["never-matches"]


OVER = [
    # (policies beside ALL or not, rule, the policy it is about)
    (f'{ALL} @id("x") permit ({ON_PAY}) when {{ context.args.n > 5 }};', "shadowed", "`x` adds nothing"),
    (f'{ALL} @id("x") permit (principal, action, resource);', "duplicate", "`x` says the same as `all`"),
    (f'{ALL} @id("x") @hold("w") permit ({ON_PAY});', "hold-without-effect", "`x` has no effect: `all` permits"),
    (f'{ALL} @id("x") forbid ({ON_PAY}); @id("y") @hold forbid ({ON_PAY}) when {{ context.args.n > 5 }};', "shadowed", "nobody is asked by `y`"),
    (f'{ALL} @id("x") forbid ({ON_PAY}) when {{ context.args.n > 5 }}; @id("y") forbid ({ON_PAY}) when {{ context.args.n > 5 }};', "duplicate", "`y` says the same as `x`"),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "rule", "words"), OVER)
def test_a_policy_that_another_decides_before(policies: str, rule: str, words: str) -> None:
    (found,) = [f for f in findings(policies) if f.rule == rule]
    assert words in found.sentence


FINE = [
    f'{ALL} @id("x") @redact("to") permit ({ON_PAY}) when {{ context.args.n > 5 }};',
    f'{ALL} @id("x") @mode("observe") forbid (principal, action, resource);',
    '@id("x") @hold permit (principal, action, resource); @id("y") permit (principal in Role::"clerk", action, resource);',
    f'{ALL} @id("x") @hold forbid ({ON_PAY});',
    f'{ALL} @id("x") forbid ({ON_PAY}) when {{ context.args.n > 5 }}; @id("y") forbid ({ON_PAY}) when {{ context.args.n > 6 }};',
]


@pytest.mark.parametrize("policies", FINE)
def test_policies_that_each_do_something(policies: str) -> None:
    assert findings(policies) == []


def test_tools_and_roles_that_may_do_nothing() -> None:
    only_pay = f'@id("x") permit ({ON_PAY});'
    assert [f.sentence for f in findings(only_pay)] == ["no policy permits `read` to anybody"]
    never = '@id("x") permit (principal, action, resource) when { false };'
    assert [f.rule for f in findings(never)].count("nobody-may-call") == 3  # two tools, and the role
    taken = f'{ALL} @id("x") forbid ({ON_PAY});'
    assert [f.sentence for f in findings(taken)] == ["every permit of `pay` is forbidden by another policy"]
    other = '@id("x") permit (principal in Role::"clerk", action, resource);'
    assert findings(other) == []


def test_guesses_are_told_until_they_are_taken_out() -> None:
    governance = {"executor": {"kind": "http", "url": "http://x/"}, "guessed": ["class", "protected"]}
    found = findings(ALL, {"x-sluicegate": governance})
    assert [f.rule for f in found] == ["guessed", "guessed"]
    assert "`class`, `protected`" in found[0].sentence and found[0].line > 1


def test_the_example_release_checks() -> None:
    release, found = check_release(read_folder(driver.RELEASE))
    assert release is not None
    # Forbidden to every agent on purpose, and said so by a policy with a name.
    assert [f.sentence for f in found] == ["no policy permits `banking.update_password` to anybody"]


def test_the_command_and_the_dry_run_of_deploy_say_the_same(tmp_path: Path) -> None:
    from sluicegate.streams.cli import app

    (tmp_path / "release.yaml").write_text("name: r\nversion: '1'\n")
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "pay.json").write_text(json.dumps({"name": "pay", **CONTRACT}))
    (tmp_path / "policies").mkdir()
    policy = tmp_path / "policies" / "p.cedar"
    policy.write_text(f'@id("x")\npermit ({ON_PAY}) when {{ context.args.too == "a" }};')
    for command in (
        ["release", "check", str(tmp_path), "-o", "json"],
        ["deploy", str(tmp_path), "--dry-run"],
    ):
        answer = CliRunner().invoke(app, command)
        assert answer.exit_code == 1
        assert "did you mean `to`?" in answer.output and "policies/p.cedar" in answer.output
    policy.write_text(f'@id("x") permit ({ON_PAY}) when {{ false }};')
    assert CliRunner().invoke(app, ["release", "check", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(app, ["release", "check", str(tmp_path), "--strict"]).exit_code == 1
    policy.write_text(f'@id("x") permit ({ON_PAY});')
    answer = CliRunner().invoke(app, ["deploy", str(tmp_path), "--dry-run"])
    assert answer.exit_code == 0 and "checks: 1 contracts, 1 policies, 0 warning(s), sha256:" in answer.output


def test_a_policy_about_hand_offs_is_like_any_other() -> None:
    text = f'{ALL} @id("x") permit (principal in Role::"clerk", action == Action::"handoff", resource);'
    assert findings(text) == []  # a permit of everything permits no hand-off by itself
    alone = '@id("x") permit (principal, action == Action::"handoff", resource) when { context.args.agnt == "b" };'
    assert [f.rule for f in findings(alone) if f.severity == "error"] == ["unknown-field"]


def test_a_key_of_the_manifest_that_is_misspelt() -> None:
    files = {"release.yaml": "name: r\nversion: '1'\nguardrail: []\nowner: me\n"}
    found = check_release(files)[1]
    assert [(f.rule, f.line, f.severity) for f in found] == [("release", 3, "warning")]
    assert "did you mean `guardrails`?" in found[0].sentence


@pytest.mark.parametrize(
    ("features", "schema", "count"),
    [
        (["json", "tools"], {}, 1),
        (["json"], {}, 0),
        (["tools"], {"properties": {"messages": {"type": "array"}, "tools": {"type": "array"}}}, 0),
        (["tools"], {"additionalProperties": True}, 0),
    ],
)
def test_a_model_that_declares_tools_and_takes_none(
    features: list[str], schema: dict[str, object], count: int
) -> None:
    contract = {
        "inputSchema": {"type": "object", "properties": {"messages": {"type": "array"}}, **schema},
        "x-sluicegate": {
            "executor": {"kind": "model", "url": "http://m.invalid/v1", "model": "m", "features": features}
        },
    }
    found = [f for f in findings(ALL, contract) if "`tools`" in f.sentence and f.file == "contracts/pay.json"]
    assert [(f.rule, f.severity) for f in found] == [("executor", "warning")] * count
    assert all(f.line > 1 for f in found)


def test_the_models_example_checks() -> None:
    release, found = check_release(read_folder(Path(__file__).parents[2] / "examples" / "models"))
    assert release is not None and found == []
