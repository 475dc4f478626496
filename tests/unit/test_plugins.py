"""Plug-ins: a waiting call is decided by the verdict, and what hangs or crashes refuses unless its rule says otherwise."""

from __future__ import annotations

import orjson
import pytest
from sluicegate.processors.guardrails.detectors import MARK
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.snapshot import decode, digest, encode
from sluicegate.schemas import records as r

from tests.driver import Driver
from tests.unit.test_guardrails import IBAN, PERMIT, compiled, contract, driver, last, release, rule
from tests.unit.test_verify import verify

ASK = rule(plugin="sanctions", tools=["bank.*"], say="see the list")
CALL = {"to": "a", "amount": 5}


def verdicts(**given: str) -> bytes:
    return orjson.dumps(
        [{"id": name, "verdict": verdict, "why": "it says so"} for name, verdict in given.items()]
    )


def asked(*rules: dict[str, object], policies: str = PERMIT) -> tuple[Driver, Decision, r.Dispatch]:
    """A driver whose call waits for plug-ins."""
    d = driver(*(rules or (ASK,)), policies=policies)
    waiting = d.call("bank.pay", CALL)
    (dispatch,) = waiting.dispatches
    return d, waiting, dispatch


def answer(d: Driver, dispatch: r.Dispatch, **given: str) -> Decision:
    return d.receipt(dispatch, "finished", result=verdicts(**given))


def test_a_call_waits_for_the_plug_in() -> None:
    d, waiting, dispatch = asked()
    assert [o.status for o in waiting.outcomes] == ["routed", "permitted", "validated", "waiting"]
    assert waiting.outcomes[-1].policies == ["g"]
    assert waiting.replies == []
    assert orjson.loads(dispatch.executor) == {
        "kind": "guardrail", "plugins": [{"id": "g", "plugin": "sanctions", "timeout_ms": 2000}],
    }  # fmt: skip
    assert (dispatch.tool_class, dispatch.timeout_ms) == ("read_only", 2000)
    assert digest(decode(encode(d.state))) == digest(d.state)
    assert last(d.call("mail.send", CALL)) == ("plan", "dispatched", "")


def test_its_verdict_decides() -> None:
    d, _, dispatch = asked()
    passed = answer(d, dispatch, g="pass")
    assert [o.status for o in passed.outcomes] == ["validated", "dispatched"]
    (call,) = passed.dispatches
    assert (call.tool_class, orjson.loads(call.arguments), call.action_digest) == (
        "irreversible", CALL, dispatch.action_digest,
    )  # fmt: skip
    assert last(d.finish(call, b'{"note":"x"}')) == ("execute", "released", "")
    d, _, dispatch = asked()
    refused = answer(d, dispatch, g="refuse")
    assert last(refused) == ("validate", "refused", "guardrail")
    assert (refused.dispatches, refused.outcomes[0].policies) == ([], ["g"])
    assert refused.replies[0].for_developer.startswith("`g`: see the list; it says so: ")


FAILURES = ["failed", "crashed", "timeout", "garbage", "nothing", "silence", "other"]


def fail(d: Driver, dispatch: r.Dispatch, how: str) -> Decision:
    if how == "failed":
        return answer(d, dispatch, g="failed")
    if how in ("crashed", "timeout"):
        return d.receipt(dispatch, "failed", error_class=how)
    if how == "silence":
        return d.tick(60_000_000)
    result = {"garbage": b"{", "nothing": b"[]", "other": b'[1,{"id":2},{"id":"x","verdict":"pass"}]'}[how]
    return d.receipt(dispatch, "finished", result=result)


@pytest.mark.parametrize("how", FAILURES)
def test_a_plug_in_that_fails_refuses_unless_its_rule_says_pass(how: str) -> None:
    d, _, dispatch = asked()
    assert last(fail(d, dispatch, how)) == ("validate", "refused", "guardrail_failed")
    assert d.state.open_count == 0
    for lenient in (rule(plugin="sanctions", on_failure="pass"), rule(plugin="sanctions", mode="observe")):
        d, _, dispatch = asked(lenient)
        passed = fail(d, dispatch, how)
        assert last(passed) == ("plan", "dispatched", "")
        assert passed.outcomes[0].facts.observed == ["g"]  # type: ignore[attr-defined]


def test_observe_records_a_refusal_and_on_failure_pass_does_not_hide_one() -> None:
    d, _, dispatch = asked(rule(plugin="sanctions", mode="observe"))
    passed = answer(d, dispatch, g="refuse")
    assert last(passed) == ("plan", "dispatched", "")
    assert passed.outcomes[0].facts.observed == ["g"]  # type: ignore[attr-defined]
    d, _, dispatch = asked(rule(plugin="sanctions", on_failure="pass"))
    assert last(answer(d, dispatch, g="refuse")) == ("validate", "refused", "guardrail")


def test_all_plug_ins_of_a_call_are_asked_at_once() -> None:
    rules = (
        rule(plugin="one"),
        rule(id="h", plugin="two", timeout_ms=500),
        rule(id="i", plugin="three", when="false"),
    )
    d, _, dispatch = asked(*rules)
    assert [p["id"] for p in orjson.loads(dispatch.executor)["plugins"]] == ["g", "h"]
    assert dispatch.timeout_ms == 2_500
    assert last(answer(d, dispatch, g="pass", h="refuse")) == ("validate", "refused", "guardrail")


def test_only_the_asked_executor_answers_and_only_once() -> None:
    d, _, dispatch = asked()
    forged = r.Receipt(bytes(16), dispatch.intent_id, dispatch.agent_id, dispatch.session_id, "finished", 1, "x", d.now, d.now, verdicts(g="pass"))  # fmt: skip
    assert last(d.feed("receipts", forged)) == ("execute", "noted", "late")
    assert last(d.receipt(dispatch, "finished", topic="intents", result=verdicts(g="pass")))[1:] == (
        "noted",
        "late",
    )
    assert last(d.claim(dispatch)) == ("execute", "noted", "late")
    assert last(answer(d, dispatch, g="pass")) == ("plan", "dispatched", "")
    assert last(answer(d, dispatch, g="pass")) == ("execute", "noted", "late")


def test_what_plug_ins_are_shown_is_what_runs() -> None:
    d = driver(rule(detect=["iban"], verdict="redact"), rule(id="h", plugin="sanctions"))
    (dispatch,) = d.call("bank.pay", {"to": "a", "body": IBAN}).dispatches
    assert orjson.loads(dispatch.arguments)["body"] == MARK
    (call,) = answer(d, dispatch, h="pass").dispatches
    assert call.arguments == dispatch.arguments


def test_people_are_asked_before_plug_ins() -> None:
    hold = '@id("ask") @hold("sure?") permit (principal, action, resource);'
    d = driver(ASK, policies=hold)
    held = d.call("bank.pay", CALL)
    assert last(held) == ("authorize", "held", "approval_required")
    waiting = d.review(held)
    assert last(waiting) == ("validate", "waiting", "")
    assert last(answer(d, waiting.dispatches[0], g="pass")) == ("plan", "dispatched", "")


def test_a_call_that_changed_or_lost_its_session_is_refused() -> None:
    d, _, dispatch = asked()
    d.close_session()
    assert last(answer(d, dispatch, g="pass")) == ("validate", "refused", "unknown_session")
    d, _, dispatch = asked()
    other = {**contract("bank.pay", "irreversible")}
    other["x-sluicegate"] = {**other["x-sluicegate"], "version": "2"}  # type: ignore[dict-item]
    d.deploy(compiled(other, contract("mail.send", "read_only"), ASK), now=True)
    assert last(answer(d, dispatch, g="pass")) == ("validate", "refused", "call_changed")


def test_a_call_counts_once_in_its_session() -> None:
    d, _, dispatch = asked()
    (session,) = d.state.sessions.values()
    assert session.counts == {}
    answer(d, dispatch, g="pass")
    assert session.counts == {"bank.pay": 1}


def test_the_ledger_is_sound() -> None:
    d, _, dispatch = asked()
    answer(d, dispatch, g="pass")
    d.call("bank.pay", CALL)
    d.tick(60_000_000)
    assert verify(d).names == set()
    assert release(ASK) is not None


HOLDS = [
    ("hold", ASK),
    ("refuse", rule(plugin="sanctions", tools=["bank.*"], verdict="hold", say="see the list")),
    ("failed", rule(plugin="sanctions", tools=["bank.*"], on_failure="hold", say="see the list")),
]


@pytest.mark.parametrize(("said", "asks"), HOLDS)
def test_a_plug_in_that_holds_asks_people_once(said: str, asks: dict[str, object]) -> None:
    d, _, dispatch = asked(asks)
    held = answer(d, dispatch, g=said)
    assert [(o.stage, o.status, o.reason) for o in held.outcomes] == [
        ("validate", "validated", ""), ("validate", "held", "approval_required"),
    ]  # fmt: skip
    assert (held.dispatches, d.replies[-1].status) == ([], "held")
    content = orjson.loads(held.outcomes[-1].content or b"")
    assert content["arguments"] == CALL
    assert "it says so" in content["why"]
    facts = held.outcomes[-1].facts
    assert isinstance(facts, r.HoldFacts)
    assert (facts.tool_class, facts.quorum, facts.tool) == ("irreversible", 1, "bank.pay")
    assert "g" in held.outcomes[-1].policies
    assert digest(decode(encode(d.state))) == digest(d.state)
    agreed = d.review(held)
    assert [o.status for o in agreed.outcomes] == ["held", "permitted", "validated", "dispatched"]
    (call,) = agreed.dispatches
    assert (call.tool, call.arguments) == ("bank.pay", dispatch.arguments)
    assert last(d.finish(call, b'{"note":"x"}')) == ("execute", "released", "")
    assert verify(d).names == set()


def test_a_rejected_or_forgotten_hold_of_a_plug_in_never_runs() -> None:
    d, _, dispatch = asked()
    held = answer(d, dispatch, g="hold")
    assert last(d.review(held, digest=bytes(32))) == ("review", "noted", "digest_mismatch")
    assert last(d.review(held, "reject")) == ("review", "refused", "approval_rejected")
    d, _, dispatch = asked()
    answer(d, dispatch, g="hold")
    assert last(d.tick(25 * 3_600_000_000))[1] == "expired"
    assert len(d.dispatches) == 1


def test_a_refusal_beats_a_hold_and_every_hold_is_shown() -> None:
    rules = (rule(plugin="one"), rule(id="h", plugin="two"), rule(id="i", plugin="three"))
    d, _, dispatch = asked(*rules)
    assert last(answer(d, dispatch, g="hold", h="refuse", i="pass")) == ("validate", "refused", "guardrail")
    d, _, dispatch = asked(*rules)
    held = answer(d, dispatch, g="hold", h="pass", i="hold")
    why = orjson.loads(held.outcomes[-1].content or b"")["why"]
    assert ("`g`: it says so" in why, "`h`" in why, "`i`: it says so" in why) == (True, False, True)
    again = d.review(held)  # those that let it pass are asked once more; those that held it are not
    assert last(again) == ("validate", "waiting", "")
    assert [p["id"] for p in orjson.loads(again.dispatches[0].executor)["plugins"]] == ["h"]
    assert last(answer(d, again.dispatches[0], h="pass")) == ("plan", "dispatched", "")


def test_policies_and_a_plug_in_that_hold_one_call_both_count() -> None:
    two = '@id("ask") @hold("sure?") @quorum("2") permit (principal, action, resource);'
    d = driver(ASK, policies=two)
    first = d.call("bank.pay", CALL)
    d.review(first)
    waiting = d.review(first, person="person-3")
    assert last(waiting) == ("validate", "waiting", "")
    held = answer(d, waiting.dispatches[0], g="hold")
    assert last(held) == ("validate", "held", "approval_required")
    assert {"ask", "g"} <= set(held.outcomes[-1].policies)
    assert last(d.review(held))[1] == "held"
    assert last(d.review(held, person="person-3")) == ("plan", "dispatched", "")


def test_an_edited_call_is_shown_to_the_plug_in_again() -> None:
    d, _, dispatch = asked()
    held = answer(d, dispatch, g="hold")
    edited = d.review(held, arguments=b'{"to":"a","amount":6}')
    assert last(edited) == ("validate", "waiting", "")
    assert orjson.loads(edited.dispatches[0].arguments)["amount"] == 6
    again = answer(d, edited.dispatches[0], g="hold")
    assert last(again) == ("validate", "held", "approval_required")
    agreed = d.review(again)
    assert last(agreed) == ("plan", "dispatched", "")
    assert orjson.loads(agreed.dispatches[0].arguments)["amount"] == 6


def test_a_policy_of_the_same_name_does_not_stand_for_a_plug_in() -> None:
    d = driver(ASK, policies='@id("g") @hold("sure?") permit (principal, action, resource);')
    waiting = d.review(d.call("bank.pay", CALL))
    assert last(waiting) == ("validate", "waiting", "")
    held = answer(d, waiting.dispatches[0], g="hold")
    assert last(held) == ("validate", "held", "approval_required")


def test_another_release_asks_its_own_plug_ins() -> None:
    d, _, dispatch = asked()
    held = answer(d, dispatch, g="hold")
    d.deploy(compiled(contract("bank.pay", "irreversible"), contract("mail.send", "read_only"), rule(plugin="stricter", tools=["bank.*"])), now=True)  # fmt: skip
    asked_anew = d.review(held)
    assert [o.reason for o in asked_anew.outcomes] == ["release_changed", "approval_required"]
    waiting = d.review(asked_anew)
    assert last(waiting) == ("validate", "waiting", "")
    assert last(answer(d, waiting.dispatches[0], g="refuse")) == ("validate", "refused", "guardrail")


def test_a_hold_is_decided_under_the_policies_of_that_moment() -> None:
    d, _, dispatch = asked()
    forbid = PERMIT + '\n@id("no") forbid (principal, action, resource);'
    d.deploy(
        compiled(
            contract("bank.pay", "irreversible"), contract("mail.send", "read_only"), ASK, policies=forbid
        ),
        now=True,
    )
    assert last(answer(d, dispatch, g="hold")) == ("validate", "refused", "forbidden")
