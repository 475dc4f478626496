"""Policies against contracts: what does not exist is refused with file, line and the nearest real name."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors.releases.findings import RULES, Finding
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.schemas.errors import Terminal

PAY = {
    "name": "bank.pay",
    "inputSchema": {
        "type": "object",
        "properties": {
            "recipient": {"type": "string"},
            "amount": {"type": "number"},
            "count": {"type": "integer"},
            "note": {"type": "string"},
            "reason": {"enum": ["rent", "gift"]},
            "address": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "lines": {"type": "array", "items": {"type": "string"}},
            "meta": {"type": "object"},
        },
        "required": ["recipient", "amount", "count", "reason", "address", "lines"],
    },
    "x-sluicegate": {"executor": {"kind": "http", "url": "http://x/"}, "protected": ["recipient"]},
}
READ = {
    "name": "bank.read",
    "inputSchema": {"type": "object"},
    "x-sluicegate": {"executor": {"kind": "http"}},
}
ON_PAY = 'permit (principal in Role::"clerk", action == Action::"bank.pay", resource)'


def found(policies: str, **contracts: object) -> list[Finding]:
    files = {
        "release.yaml": "name: r\nversion: '1'\nroles: [clerk, boss]\n",
        "contracts/pay.json": json.dumps(PAY, indent=1),
        "contracts/read.json": json.dumps(READ),
        "policies/bank.cedar": policies,
    }
    return build(files)[1]


def only(policies: str) -> Finding:
    findings = found(policies)
    assert len(findings) == 1, [str(f) for f in findings]
    assert findings[0].rule in RULES
    return findings[0]


GOOD = [
    'context.args.recipient == "x"',
    'context.args.amount.lessThan(decimal("1.0"))',
    'context.args has note && context.args.note like "a*"',
    'context.args.address.city == "Rome"',
    'context.args.lines.contains("x") || context.args.lines.isEmpty()',
    "context.args has meta",
    'context.args.reason == "rent"',
    'context.environment == "dev" && context has on_behalf_of && context.on_behalf_of == "p"',
    'context.session.calls < 3 && context.session.user_messages > 0 && context.session.origin == "channel"',
    'context.session.integrity == "user" && context.session.labels.contains("web")',
    'context.session.tools.contains("bank.read") && context.session.last == ""',
    'context.session.counts["bank.pay"] < 3 && context.session.since["bank.read"] >= 0',
    'context.grounding.worst == "user" && context.grounding.args.recipient.from == "result"',
    'context has delegation && context.delegation.depth < 2 && context.delegation.parent == "i"',
    'principal.team == "t" && principal.tenant == "n" && resource.class == "irreversible"',
    'principal in Role::"boss" || resource == Tool::"bank.pay"',
]


@pytest.mark.parametrize("condition", GOOD)
def test_what_exists_is_taken(condition: str) -> None:
    assert found(f'@id("a") {ON_PAY} when {{ {condition} }};') == []


BAD = [
    ('context.args.recipent == "x"', "unknown-field", "`context.args.recipent` does not exist in `bank.pay`, did you mean `recipient`?"),
    ('context.args has recipent && context.args.recipent == "x"', "unknown-field", "did you mean `recipient`?"),
    ('context.args.address.town == "x"', "unknown-field", "`context.args.address.town` does not exist in `bank.pay`, there is `city`"),
    ("context.session.cals < 3", "unknown-field", "did you mean `calls`?"),
    ('context.session.counts["bank.pai"] < 3', "unknown-field", "did you mean `bank.pay`?"),
    ('context.grounding.args.recipent.label == "user"', "unknown-field", "did you mean `recipient`?"),
    ('principal.teem == "x"', "unknown-field", "`Agent` has no `teem`, did you mean `team`?"),
    ('resource.clas == "x"', "unknown-field", "`Tool` has no `clas`, did you mean `class`?"),
    ('context.args.note == "x"', "optional-field", "may be absent in `bank.pay`, write `context.args has note && ...`"),
    ('context.on_behalf_of == "x"', "optional-field", "write `context has on_behalf_of && ...`"),
    ("context.args.amount > 5", "type", 'with `.lessThanOrEqual(decimal("100.0"))`'),
    ('context.args.count == "5"', "type", "not compatible"),
    ("context.args has meta && context.args.meta.x == 1", "untyped-field", "give it a type in inputSchema"),
    ('context.args has meta && context.args.meta == "x"', "untyped-field", "give it a type in inputSchema"),
    ('principal in Role::"clark"', "unknown-role", "release.yaml lists no role `clark`, did you mean `clerk`?"),
    ('resource == Tool::"bank.payy"', "unknown-tool", "did you mean `bank.pay`?"),
    ('context.session.tools.contains("bank.reed")', "unknown-tool", "did you mean `bank.read`?"),
    ('context.session.integrity == "third-party"', "never-matches", "did you mean `third_party`?"),
    ('["user", "usr"].contains(context.grounding.worst)', "never-matches", "is never `usr`"),
    ('context.args.reason == "rents"', "never-matches", "`context.args.reason` is never `rents`, did you mean `rent`?"),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "rule", "words"), BAD)
def test_what_does_not_exist_is_refused_with_its_line(condition: str, rule: str, words: str) -> None:
    finding = only(f'// a comment: recipent\n@id("a")\n{ON_PAY}\nwhen {{\n    {condition}\n}};')
    assert (finding.file, finding.rule) == ("policies/bank.cedar", rule)
    assert words in finding.sentence and finding.sentence.startswith("`a`: ")
    assert finding.line == (2 if rule in ("type", "untyped-field") and "meta.x" not in condition else 5)


def test_an_error_refuses_the_release_with_file_and_line() -> None:
    files = {
        "release.yaml": "name: r\nversion: '1'\n",
        "contracts/pay.json": json.dumps(PAY),
        "policies/bank.cedar": f'@id("a") {ON_PAY}\nwhen {{ context.args.recipent == "x" }};',
    }
    with pytest.raises(Terminal, match=r"^`policies/bank.cedar` line 2: `a`: .* did you mean `recipient`\?$"):
        compile_release(files)
    assert compile_release(files, proven=True).book.policies  # published before this was checked
    files["policies/bank.cedar"] = "permit ("
    with pytest.raises(Terminal, match="does not parse"):
        compile_release(files, proven=True)


def test_a_field_of_some_of_the_tools_wants_a_policy_of_its_own() -> None:
    finding = only('@id("a") permit (principal, action, resource) when { context.args.recipient == "x" };')
    assert finding.sentence.endswith("only in `bank.pay` and the like: give those a policy of their own")
    guarded = 'context.args has recipient && context.args.recipient == "x"'
    assert found(f'@id("a") permit (principal, action, resource) when {{ {guarded} }};') == []


@pytest.mark.parametrize(
    ("text", "rule", "line", "words"),
    [
        ('permit (principal, action, resource);', "syntax", 1, "has no @id"),
        ('@id("a") permit (principal, action, resource);\n\n@id("a")\npermit (principal, action, resource);', "syntax", 3, "line 1 too"),
        ('@id("a") permit (principal, action, resource);\n@id("b")\npermit (principal, action resource);', "syntax", 2, "does not parse"),
        ('@id("a")\npermit (principal == ?principal, action, resource);', "syntax", 2, "templates"),
        ('@id("a")\n@hodl("why") permit (principal, action, resource);', "unknown-annotation", 2, "did you mean `hold`?"),
        ('@id("a") @mode("watch") permit (principal, action, resource);', "unknown-annotation", 1, "`observe` or `enforce`"),
        ('@id("a") permit (principal, action == Action::"bank.pai", resource);', "unknown-tool", 1, "did you mean `bank.pay`?"),
        ('@id("a") permit (principal in Role::"boos", action, resource);', "unknown-role", 1, "did you mean `boss`?"),
        ('@id("a") permit (principal, action == Action::"bank.pay", resource == Tool::"bank.payer");', "unknown-tool", 1, "did you mean"),
    ],
)  # fmt: skip
def test_what_a_policy_says_about_itself(text: str, rule: str, line: int, words: str) -> None:
    finding = only(text)
    assert (finding.rule, finding.line) == (rule, line)
    assert words in finding.sentence


def test_a_bare_hold_is_a_hold() -> None:
    files = {
        "release.yaml": "name: r\nversion: '1'\n",
        "contracts/read.json": json.dumps(READ),
        "policies/p.cedar": '@id("a") @hold permit (principal, action, resource);',
    }
    assert compile_release(files).book.policies[0].annotations["hold"] == ""


def test_an_enum_that_cannot_be_is_a_warning_a_label_an_error() -> None:
    enum = only(f'@id("a") {ON_PAY} when {{ context.args.reason == "rents" }};')
    label = only(f'@id("a") {ON_PAY} when {{ context.session.integrity == "me" }};')
    assert (enum.severity, label.severity) == ("warning", "error")


CONTRACTS = [
    ({"protected": ["recipent"]}, "unknown-field", 'did you mean `recipient`?'),
    ({"protected": ["address.town"]}, "unknown-field", "there is `city`"),
    ({"asset": "account:{recipent}"}, "unknown-field", "did you mean `recipient`?"),
    ({"class": "readonly"}, "contract", "`x-sluicegate.class`"),
    ({"klass": "read_only"}, "contract", "`x-sluicegate.klass`"),
    ({"timeout_ms": -1}, "contract", "`x-sluicegate.timeout_ms`"),
]  # fmt: skip


@pytest.mark.parametrize(("extra", "rule", "words"), CONTRACTS)
def test_contracts_name_what_they_have(extra: dict[str, object], rule: str, words: str) -> None:
    contract = {**PAY, "x-sluicegate": {**PAY["x-sluicegate"], **extra}}  # type: ignore[dict-item]
    files = {"release.yaml": "name: r\nversion: '1'\n", "contracts/pay.json": json.dumps(contract, indent=1)}
    (finding,) = build(files)[1]
    assert (finding.rule, finding.file) == (rule, "contracts/pay.json")
    assert words in finding.sentence
    key = next(iter(extra))
    lines = files["contracts/pay.json"].splitlines()
    assert f'"{key}"' in lines[finding.line - 1] or '"x-sluicegate"' in lines[finding.line - 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "`contract`"),
        ('{"name": "a"}', "`inputSchema`"),
        ('{"name": "a", "inputSchema": {"type": "objekt"}, "x-sluicegate": {"executor": {"kind": "http"}}}', "`inputSchema` is no JSON Schema"),
        ('{"name": "a", "inputSchema": {"properties": {"a": {"type": 5}}}, "x-sluicegate": {"executor": {"kind": "http"}}}', "no JSON Schema"),
        ('{"name": "a", "inputSchema": {}, "outputSchema": {"type": "x"}, "x-sluicegate": {"executor": {"kind": "http"}}}', "`outputSchema` is no"),
    ],
)  # fmt: skip
def test_a_contract_that_is_none(text: str, words: str) -> None:
    release, findings = build({"release.yaml": "name: r\nversion: '1'\n", "contracts/a.json": text})
    assert release is not None and not release.tools
    assert [f.rule for f in findings] == ["contract"] and words in findings[0].sentence


@pytest.mark.parametrize("text", [None, "a: [", "[]", "name: r", "name: r\nversion: '1'\nroles: clerk"])
def test_a_manifest_that_is_none(text: str | None) -> None:
    release, findings = build({} if text is None else {"release.yaml": text})
    assert release is None and [f.rule for f in findings] == ["release"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('@id("a") permit (principal in Role::"sec", action == Action::"mode.set", resource) when { context.mode == "observe" };', ""),
        ('@id("a") permit (principal, action == Action::"mode.set", resource is Agent) unless { context.environment == "prod" };', ""),
        ('@id("a") permit (principal in Role::"sec", action == Action::"canary.started", resource) when { context.weight_bp <= 1000 };', ""),
        ('@id("a") permit (principal, action == Action::"release.deployed", resource) when { context.mode == "x" };', "context.environment, .now"),
        ('@id("a") permit (principal, action == Action::"mode.sett", resource);', "unrecognized action"),
        ('@id("a") permit (principal, action, resource) when { context.mod == "observe" };', "context.mode and .environment"),
        ('@id("a") permit (principal is Agent, action, resource);', "there is Person"),
        ('@id("a") @hold("x") permit (principal, action, resource);', "@hold means nothing"),
        ("permit (principal, action, resource);", "has no @id"),
    ],
)  # fmt: skip
def test_control_cedar_is_checked_like_any_policy(text: str, words: str) -> None:
    files = {"release.yaml": "name: r\nversion: '1'\n", "control.cedar": text}
    found = build(files)[1]
    assert bool(found) is bool(words)
    assert all(words in f.sentence and (f.file, f.line) == ("control.cedar", 1) for f in found)
