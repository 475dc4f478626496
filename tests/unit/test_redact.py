"""Redact: what is taken out of a call is not executed, and a redaction that breaks the schema refuses."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.conform import Conformed, conform
from sluicegate.processors.guardrails.detectors import MARK
from sluicegate.processors.guardrails.recipes import compile_recipes, redact, steps_of
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.errors import Terminal

from tests.driver import Driver

TEXT = {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "to": TEXT, "subject": TEXT, "amount": {"type": "number"}, "kind": {"type": "string", "enum": ["a", "b"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "size": {"$ref": "#/$defs/size"},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"iban": TEXT, "n": {"type": "integer"}}}},
    },
    "required": ["to", "amount"],
    "$defs": {"size": {"type": "integer"}},
}  # fmt: skip
ALL = '@id("all") permit (principal, action, resource);'


def files(policies: str = ALL, **redactions: list[str]) -> dict[str, str]:
    contract = {
        "name": "mail.send", "inputSchema": SCHEMA,
        "x-sluicegate": {"class": "read_only", "executor": {"kind": "http", "url": "http://t.invalid/"},
                         "redact": redactions},
    }  # fmt: skip
    return {
        "release.yaml": "name: r\nversion: '1'\n",
        "contracts/mail.json": json.dumps(contract),
        "policies/p.cedar": policies,
    }


def release(policies: str = ALL, **redactions: list[str]) -> CompiledRelease:
    return compile_release(files(policies, **redactions))


def driver(policies: str = ALL, **redactions: list[str]) -> Driver:
    d = Driver()
    d.deploy(release(policies, **redactions), now=True)
    d.open_session()
    return d


@pytest.mark.parametrize(
    ("path", "recipe"),
    [
        ("args.subject", "$.subject"), ("subject", "$.subject"), ("$.note", "$.note"),
        ("kind", "$.kind#remove"), ("args.size", "$.size#remove"),
        ("rows[*].iban", "$.rows[*].iban"), ("rows[*].n", "$.rows[*].n#remove"),
    ],
)  # fmt: skip
def test_a_path_becomes_a_recipe_that_fits_the_schema(path: str, recipe: str) -> None:
    assert compile_recipes({"additionalProperties": False, **SCHEMA}, [path], "it") == (recipe,)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("args.subjcet", "`subjcet` is not one of"),
        ("amount", "required and takes no text"),
        ("$", "redacts everything"),
        ("rows[0].iban", "not of the form"),
        ("rows..iban", "not of the form"),
    ],
)
def test_a_redaction_that_could_never_work_is_refused_at_build_time(path: str, says: str) -> None:
    with pytest.raises(Terminal, match=r"redacts|form|names") as error:
        compile_recipes({"additionalProperties": False, **SCHEMA}, [path], "contract `c`")
    assert says in str(error.value)


def test_redact_takes_out_and_leaves_the_rest() -> None:
    value = {"a": "x", "rows": [{"iban": "DE1", "n": 1}, {"n": 2}, "odd"], "n": None}
    before = json.dumps(value)
    assert redact(value, ("$.rows[*].iban", "$.a", "$.n", "$.gone")) == {
        "a": MARK,
        "rows": [{"iban": MARK, "n": 1}, {"n": 2}, "odd"],
        "n": None,
    }
    assert redact(value, ("$.rows[*].n#remove",)) == {**value, "rows": [{"iban": "DE1"}, {}, "odd"]}  # type: ignore[dict-item]
    assert json.dumps(value) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
PATHS = st.lists(st.sampled_from((".a", ".b", ".c", "[*]")), min_size=1, max_size=4).map(
    lambda s: "$" + "".join(s)
)
RECIPES = st.lists(st.tuples(PATHS, st.sampled_from(("", "#remove"))).map("".join), max_size=4)


@given(JSON, RECIPES)
def test_redacting_twice_is_redacting_once(value: object, recipes: list[str]) -> None:
    once = redact(value, recipes)
    assert redact(once, recipes) == once


def test_the_contract_redacts_what_is_executed() -> None:
    d = driver(arguments=["args.subject", "rows[*].iban"])
    decision = d.call(
        "mail.send", {"to": "a", "amount": 1, "subject": "secret-one", "rows": [{"iban": "secret-two"}]}
    )
    (dispatch,) = decision.dispatches
    assert orjson.loads(dispatch.arguments) == {
        "to": "a", "amount": 1, "subject": MARK, "rows": [{"iban": MARK}],
    }  # fmt: skip


def test_a_permit_redacts_only_what_it_permits() -> None:
    policies = """
    @id("short") permit (principal, action, resource) when { context.args.amount.lessThan(decimal("10.0")) };
    @id("long") @redact("args.subject, args.note") permit (principal, action == Action::"mail.send", resource)
    unless { context.args.amount.lessThan(decimal("10.0")) };
    """
    d = driver(policies)
    call = {"to": "a", "subject": "s", "note": "n"}
    (small,) = d.call("mail.send", {**call, "amount": 1}).dispatches
    (large,) = d.call("mail.send", {**call, "amount": 20}).dispatches
    assert orjson.loads(small.arguments)["subject"] == "s"
    assert orjson.loads(large.arguments) == {"to": "a", "amount": 20, "subject": MARK, "note": MARK}


def test_a_policy_that_redacts_what_is_not_there_is_refused() -> None:
    for policies, says in (
        (
            '@id("x") @redact("args.nope") permit (principal, action == Action::"mail.send", resource);',
            "nope",
        ),
        ('@id("x") @redact("args.nope") permit (principal, action, resource);', "nope"),
        ('@id("x") @redact("args.to") forbid (principal, action, resource);', "no permit"),
    ):
        with pytest.raises(Terminal, match=says):
            release(policies)


@given(st.text(min_size=1, max_size=20), st.sampled_from(("subject", "to", "note")))
def test_what_is_executed_never_holds_what_was_redacted(secret: str, name: str) -> None:
    tool = release(arguments=[name]).tools["mail.send"]
    args = {"to": "-", "amount": 1, name: f"<{secret}>"}
    found = conform(tool.validator, tool.typer, orjson.dumps(redact(args, tool.redact_arguments)))
    assert isinstance(found, Conformed)
    assert f"<{secret}>" not in json.loads(found.canonical).values()


def test_paths() -> None:
    assert steps_of("args.a[*].b-c") == ["a", "[*]", "b-c"]
    assert steps_of("[*].a") == ["[*]", "a"]
    assert steps_of("$") == []


def test_a_second_offer_is_the_same_call() -> None:
    d = driver(arguments=["subject"])
    call = {"to": "a", "amount": 1, "subject": "s"}
    (first,) = d.call("mail.send", call).dispatches
    (second,) = d.tick(10_000_000).dispatches
    assert (second.arguments, second.action_digest) == (first.arguments, first.action_digest)
    d.deploy(release(), now=True)  # it redacts no more, yet this call was made without its subject
    (third,) = d.tick(10_000_000).dispatches
    assert third.arguments == first.arguments
    d.deploy(release(arguments=["to"]), now=True)
    (end,) = d.tick(10_000_000).outcomes
    assert (end.status, end.reason) == ("expired", "call_changed")


def test_a_redaction_that_breaks_the_schema_refuses() -> None:
    texts = files(arguments=["size"])
    contract = json.loads(texts["contracts/mail.json"])
    contract["inputSchema"]["dependentRequired"] = {"note": ["size"]}
    d = Driver()
    d.deploy(compile_release({**texts, "contracts/mail.json": json.dumps(contract)}), now=True)
    d.open_session()
    call = {"to": "a", "amount": 1, "size": 3}
    (fits,) = d.call("mail.send", call).dispatches
    assert orjson.loads(fits.arguments) == {"to": "a", "amount": 1}
    refused = d.call("mail.send", {**call, "note": "n"})
    assert [(o.status, o.reason) for o in refused.outcomes][-1] == ("refused", "redaction_breaks_schema")
    assert refused.dispatches == []
