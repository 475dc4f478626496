"""Guardrails: what a release's rules refuse, ask people about, take out or withhold; and that a failing rule refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.guardrails.detectors import MARK
from sluicegate.processors.guardrails.guardrails import MAX_GUARDED_BYTES
from sluicegate.processors.guardrails.rules import Guardrail
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.snapshot import decode, digest
from sluicegate.processors.snapshot import encode as snapshot
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import Driver

TEXT = {"type": "string"}
INPUT = {
    "type": "object",
    "properties": {"to": TEXT, "body": TEXT, "amount": {"type": "number"},
                   "rows": {"type": "array", "items": {"type": "object"}}},
    "required": ["to"],
}  # fmt: skip
OUTPUT = {
    "type": "object",
    "properties": {"note": TEXT, "iban": {"type": "string", "maxLength": 34}, "balance": {"type": "number"}},
    "required": ["note"],
}
PERMIT = '@id("all") permit (principal, action, resource);'
IBAN = "GB29 NWBK 6016 1331 9268 19"


def contract(
    name: str, kind: str, *, output: object = OUTPUT, redact: object = (), executor: str = "http"
) -> dict[str, object]:
    return {
        "name": name, "inputSchema": INPUT, "outputSchema": output,
        "x-sluicegate": {"class": kind, "executor": {"kind": executor, "url": "http://t.invalid/"},
                         "redact": {"result": redact}},
    }  # fmt: skip


def compiled(*parts: dict[str, object], policies: str = PERMIT) -> CompiledRelease:
    """A release of contracts and guardrails."""
    contracts = {str(p["name"]): p for p in parts if "inputSchema" in p}
    manifest = {"name": "r", "version": "1", "guardrails": [p for p in parts if "on" in p]}
    return compile_release(
        {
            "release.yaml": yaml.safe_dump(manifest),
            "policies/p.cedar": policies,
            **{f"contracts/{name}.json": json.dumps(value) for name, value in contracts.items()},
        }
    )


def release(*guardrails: dict[str, object], policies: str = PERMIT, redact: object = ()) -> CompiledRelease:
    mail, bank = (
        contract("mail.send", "read_only", redact=redact),
        contract("bank.pay", "irreversible", redact=redact),
    )
    return compiled(mail, bank, *guardrails, policies=policies)


def driver(*guardrails: dict[str, object], **more: object) -> Driver:
    d = Driver()
    d.deploy(release(*guardrails, **more))  # type: ignore[arg-type]
    d.open_session()
    return d


def rule(**fields: object) -> dict[str, object]:
    return {"id": "g", "on": "call", **fields}


def last(decision: Decision) -> tuple[str, str, str]:
    outcome = decision.outcomes[-1]
    return outcome.stage, outcome.status, outcome.reason


SMALL = rule(when="has(args.amount) && args.amount > 100.0", say="pay at most 100")


def test_a_rule_refuses_and_says_why() -> None:
    d = driver(SMALL)
    assert last(d.call("bank.pay", {"to": "a", "amount": 100})) == ("plan", "dispatched", "")
    refused = d.call("bank.pay", {"to": "a", "amount": 101})
    assert last(refused) == ("validate", "refused", "guardrail")
    assert refused.outcomes[-1].policies == ["g"]
    assert refused.replies[0].for_developer.startswith("`g`: pay at most 100: ")
    assert refused.dispatches == []


@pytest.mark.parametrize(
    "when",
    ["args.amount > 100.0", 'args.body.matches("x")', "int(args.to) > 1", "args.to", "session.nothing == 1"],
)
def test_a_rule_that_errors_refuses(when: str) -> None:
    d = driver(rule(when=when))
    refused = d.call("bank.pay", {"to": "a"})
    assert last(refused) == ("validate", "refused", "guardrail_error")
    assert refused.outcomes[-1].policies == ["g"]
    observed = driver(rule(when=when, mode="observe")).call("bank.pay", {"to": "a"})
    assert last(observed) == ("plan", "dispatched", "")
    assert [o.facts.observed for o in observed.outcomes if o.status == "validated"] == [["g"]]  # type: ignore[attr-defined]


def test_observe_records_and_applies_nothing() -> None:
    d = driver(rule(when="true", mode="observe"), rule(id="h", on="result", when="true", mode="observe"))
    called = d.call("bank.pay", {"to": "a"})
    assert [o.facts.observed for o in called.outcomes if o.status == "validated"] == [["g"]]  # type: ignore[attr-defined]
    ended = d.finish(called.dispatches[0], b'{"note":"x"}')
    assert ended.outcomes[0].status == "released"
    assert ended.outcomes[0].facts.observed == ["h"]  # type: ignore[attr-defined]


def test_a_rule_is_about_its_tools_only() -> None:
    d = driver(rule(tools=["bank.*"], when="true"))
    assert last(d.call("mail.send", {"to": "a"})) == ("plan", "dispatched", "")
    assert last(d.call("bank.pay", {"to": "a"})) == ("validate", "refused", "guardrail")


def test_rules_see_session_agent_and_tool() -> None:
    when = (
        'session.calls == 1 && "banking" in agent.roles && tool == "bank.pay" && session.user_messages == 0'
    )
    d = driver(rule(when=when))
    assert last(d.call("bank.pay", {"to": "a"})) == ("plan", "dispatched", "")
    assert last(d.call("bank.pay", {"to": "a"})) == ("validate", "refused", "guardrail")


def test_detectors_refuse_and_take_out() -> None:
    d = driver(rule(detect=["iban"], fields=["args.body"]))
    assert last(d.call("mail.send", {"to": IBAN, "body": "hello"})) == ("plan", "dispatched", "")
    assert last(d.call("mail.send", {"to": "a", "body": f"my iban: {IBAN}"})) == (
        "validate",
        "refused",
        "guardrail",
    )
    d = driver(rule(detect=["iban", "email"], verdict="redact"))
    call = {"to": "a@b.example", "body": f"my iban: {IBAN}.", "rows": [{"x": ["c@d.example"]}]}
    decision = d.call("mail.send", call)
    assert orjson.loads(decision.dispatches[0].arguments) == {
        "to": MARK, "body": f"my iban: {MARK}.", "rows": [{"x": [MARK]}],
    }  # fmt: skip
    (facts,) = [o.facts for o in decision.outcomes if o.status == "validated"]
    assert facts.redacted == ["$#iban,email"]  # type: ignore[attr-defined]
    (again,) = d.tick(10_000_000).dispatches
    assert again.arguments == decision.dispatches[0].arguments


def test_what_one_rule_took_out_the_next_does_not_see() -> None:
    take = rule(detect=["iban"], verdict="redact")
    d = driver(take, rule(id="h", detect=["iban"]))
    assert last(d.call("mail.send", {"to": "a", "body": IBAN})) == ("plan", "dispatched", "")
    d = driver(rule(id="h", detect=["iban"]), take)
    assert last(d.call("mail.send", {"to": "a", "body": IBAN})) == ("validate", "refused", "guardrail")


def test_a_rule_asks_people_and_their_word_is_enough() -> None:
    d = driver(rule(when="args.amount > 100.0", verdict="hold", say="a large payment"))
    held = d.call("bank.pay", {"to": "a", "amount": 500})
    assert last(held) == ("validate", "held", "approval_required")
    assert [o.status for o in held.outcomes] == ["routed", "permitted", "held"]
    assert "a large payment" in held.replies[0].for_developer
    approved = d.review(held)
    assert last(approved) == ("plan", "dispatched", "")
    assert last(d.review(d.call("bank.pay", {"to": "a", "amount": 500}), "reject"))[1:] == (
        "refused",
        "approval_rejected",
    )


def test_what_people_are_asked_is_what_runs() -> None:
    d = driver(rule(detect=["iban"], verdict="redact"), rule(id="h", when="true", verdict="hold"))
    held = d.call("bank.pay", {"to": "a", "body": IBAN})
    (dispatch,) = d.review(held).dispatches
    assert orjson.loads(dispatch.arguments) == {"to": "a", "body": MARK}
    assert dispatch.action_digest == held.outcomes[-1].facts.action_digest  # type: ignore[attr-defined]


def test_a_rule_refuses_what_a_policy_would_hold() -> None:
    hold = '@id("ask") @hold("sure?") permit (principal, action, resource);'
    d = driver(rule(when="true"), policies=hold)
    assert last(d.call("bank.pay", {"to": "a"})) == ("validate", "refused", "guardrail")


RESULT = {"note": f"pay {IBAN} now", "iban": IBAN, "balance": 5.5}


def finished(d: Driver, result: object = RESULT) -> Decision:
    (dispatch,) = d.call("mail.send", {"to": "a"}).dispatches
    return d.finish(dispatch, orjson.dumps(result))


def test_a_result_is_redacted_by_path() -> None:
    d = driver(redact=["iban", "$.balance"])
    ended = finished(d)
    reply = ended.replies[0]
    assert reply.result is not None
    assert orjson.loads(reply.result) == {"note": RESULT["note"], "iban": MARK}
    facts = ended.outcomes[0].facts
    assert isinstance(facts, r.ResultFacts)
    assert facts.redacted == ["$.balance#remove", "$.iban"]
    assert facts.result_bytes == len(reply.result)


def test_a_repeated_reply_holds_no_more_than_the_first() -> None:
    d = driver(rule(on="result", detect=["iban"], verdict="redact"), redact=["iban"])
    intent = d.intent("mail.send", {"to": "a"})
    (dispatch,) = d.feed("intents", intent).dispatches
    first = d.finish(dispatch, orjson.dumps(RESULT)).replies[0]
    d.deploy(release(), now=True)  # it takes nothing out any more
    again = d.feed("intents", intent).replies[0]
    assert (again.result, again.duplicate) == (first.result, True)
    assert IBAN.encode() not in (again.result or b"")
    assert digest(decode(snapshot(d.state))) == digest(d.state)


def test_a_result_is_withheld_and_nothing_of_it_is_told() -> None:
    d = driver(rule(on="result", detect=["iban"], say="no account numbers"))
    ended = finished(d)
    assert last(ended) == ("execute", "withheld", "guardrail")
    assert (ended.replies[0].result, ended.outcomes[0].policies) == (None, ["g"])
    assert "no account numbers" in ended.replies[0].for_developer
    assert last(finished(d, {"note": "fine"})) == ("execute", "released", "")


def test_a_result_rule_that_errors_withholds() -> None:
    d = driver(rule(on="result", when="result.gone == 1"))
    assert last(finished(d)) == ("execute", "withheld", "guardrail_error")


def test_a_result_that_does_not_fit_its_schema_any_more_is_withheld() -> None:
    d = driver(rule(on="result", detect=["phone"], verdict="redact"))
    digits = {"type": "object", "properties": {"note": {"type": "string", "pattern": "^[+0-9 ]*$"}}}
    narrow = compiled(
        contract("mail.send", "read_only", output=digits),
        rule(on="result", detect=["phone"], verdict="redact"),
    )
    d.deploy(narrow, now=True)
    assert last(finished(d, {"note": "words"})) == ("execute", "withheld", "malformed_result")
    assert last(finished(d, {"note": "call +4930901820"[5:]})) == (
        "execute",
        "withheld",
        "redaction_breaks_schema",
    )
    assert last(finished(d, {"note": "5"})) == ("execute", "released", "")


def test_a_result_of_a_tool_no_contract_names_any_more_is_withheld() -> None:
    d = driver(rule(on="result", tools=["mail.*"], detect=["iban"]))
    (dispatch,) = d.call("mail.send", {"to": "a"}).dispatches
    gone = release()
    d.deploy(replace(gone, digest="sha256:other", tools={"bank.pay": gone.tools["bank.pay"]}), now=True)
    assert last(d.finish(dispatch, orjson.dumps(RESULT))) == ("execute", "withheld", "unknown_tool")


def test_what_is_too_large_to_look_at_is_refused() -> None:
    d = driver(rule(detect=["secret"], tools=["mail.*"]))
    large = {"to": "a", "body": "x" * MAX_GUARDED_BYTES}
    assert last(d.call("mail.send", large)) == ("validate", "refused", "guardrail_error")
    assert last(d.call("bank.pay", large)) == ("plan", "dispatched", "")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"when": "args.to =="}, "does not compile"),
        ({"when": ""}, "looks for nothing"),
        ({"when": "agrs.to == 'x'"}, "`agrs`, which is not one of agent, args, environment, seen, session, tool"),
        ({"when": "result.x == 1"}, "`result`, which is not one of"),
        ({"when": "args.recipent == 'x'"}, "`recipent` is not one of amount, body, rows, to"),
        ({"when": "args.to.matches('(')"}, "regular expression that is none"),
        ({"when": "'x'.matches(args.to)"}, "write it as one text"),
        ({"when": "detects('ibn', args.to)"}, "detects `ibn`"),
        ({"when": "detects(args.to, args.to)"}, "detects `?`"),
        ({"when": "args.to.fetch() == 1"}, "calls `fetch`"),
        ({"when": "args.rows.all(x, args.rows.exists(y, y == x))"}, "a list inside a list"),
        ({"detect": ["ibn"]}, "detects `ibn`"),
        ({"detect": ["iban"], "fields": ["args.nope"]}, "`nope` is not one of"),
        ({"detect": ["iban"], "fields": ["$..x"]}, "not of the form"),
        ({"when": "true", "verdict": "withhold"}, "says `withhold` on a call"),
        ({"when": "true", "verdict": "redact"}, "redacts nothing"),
        ({"when": "true", "verdict": "redact", "fields": ["amount", "to"], "on": "call"}, ""),
        ({"when": "true", "on": "result", "verdict": "hold"}, "says `hold` on a result"),
        ({"when": "true", "tools": ["nope.*"]}, "no contract has such a name"),
        ({"when": "true", "id": "two words"}, "guardrails.0.id"),
        ({"when": "true", "wen": "x"}, "guardrails.0.wen"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_work_is_refused_with_its_id(fields: dict[str, object], says: str) -> None:
    if not says:
        release(rule(**fields))
        return
    with pytest.raises(Terminal) as error:
        release(rule(**fields))
    assert says in str(error.value)
    assert "`g`" in str(error.value) or "release.yaml" in str(error.value)


def test_an_id_stands_once() -> None:
    with pytest.raises(Terminal, match="stands twice"):
        release(rule(when="true"), rule(when="false"))


def test_macros_one_after_the_other_are_fine() -> None:
    d = driver(
        rule(when="args.rows.all(x, x.n > 1) && args.rows.exists(y, y.n == 7) && args.to != '.all(z, '")
    )
    assert last(d.call("bank.pay", {"to": "a", "rows": [{"n": 7}]})) == ("validate", "refused", "guardrail")


# -- bad input that must not get past a bound -----------------------------------------------------------------------

LANDLORD = """
@id("rent") permit (principal, action == Action::"bank.pay", resource)
when { context.args.to == "Landlord" && context.args has amount && context.args.amount.lessThanOrEqual(decimal("1000.0")) };
"""


@pytest.mark.parametrize(
    "to", ["Landlоrd", "Landlord\u200b", "Ｌandlord", "landlord", "Landlord ", "Lаndlord", "Landlor\u0501"]
)
def test_a_lookalike_of_an_allowed_recipient_is_not_permitted(to: str) -> None:
    d = driver(policies=LANDLORD)
    assert last(d.call("bank.pay", {"to": "Landlord", "amount": 5})) == ("plan", "dispatched", "")
    assert last(d.call("bank.pay", {"to": to, "amount": 5})) == ("authorize", "refused", "no_permit")


@pytest.mark.parametrize("to", ["Landlоrd", "Landlord\u200b", "Ｌandlord", "Landlor\u0501"])
def test_a_lookalike_is_told_apart_by_a_rule_too(to: str) -> None:
    d = driver(rule(detect=["lookalike"], fields=["to"], verdict="hold", say="letters that look like others"))
    assert last(d.call("bank.pay", {"to": to})) == ("validate", "held", "approval_required")
    assert last(d.call("bank.pay", {"to": "Müller"})) == ("plan", "dispatched", "")


@pytest.mark.parametrize(
    "amount", [b'"5000"', b'"5"', b"5e3", b"1000.01", b"null", b"[5]", b"true", b'{"v":5}']
)
def test_a_bounded_number_cannot_be_dressed_up(amount: bytes) -> None:
    d = driver(policies=LANDLORD)
    decision = d.feed("intents", d.intent("bank.pay", b'{"to":"Landlord","amount":' + amount + b"}"))
    assert decision.outcomes[-1].status == "refused"
    assert decision.outcomes[-1].reason in ("schema_violation", "no_permit")
    assert decision.dispatches == []


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=8), st.text(max_size=8))
def test_what_is_executed_never_holds_what_was_taken_out(before: str, after: str) -> None:
    d = driver(rule(detect=["iban"], verdict="redact"))
    decision = d.call("mail.send", {"to": "a", "body": f"{before} {IBAN} {after}"})
    for dispatch in decision.dispatches:
        assert IBAN not in orjson.loads(dispatch.arguments)["body"]
        assert MARK in orjson.loads(dispatch.arguments)["body"]


def test_a_second_offer_after_an_approval_is_what_people_agreed_to() -> None:
    d = driver(rule(detect=["iban"], verdict="redact"), rule(id="h", when="true", verdict="hold"))
    held = d.call("mail.send", {"to": "a", "body": IBAN})
    (first,) = d.review(held).dispatches
    (second,) = d.tick(10_000_000).dispatches
    assert (second.arguments, second.action_digest) == (first.arguments, first.action_digest)
    assert orjson.loads(second.arguments)["body"] == MARK


def test_a_bare_on_is_a_key_whatever_yaml_makes_of_it() -> None:
    rule = yaml.safe_load("{id: x, on: call, when: 'true'}")
    assert True in rule
    assert Guardrail.model_validate(rule).on == "call"
