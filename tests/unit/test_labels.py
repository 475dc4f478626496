"""Labels: by path, joined into sessions, never washed off; and what policies do with them."""

from __future__ import annotations

import json

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.labels import (
    CONFIDENTIALITY_RANK,
    INTEGRITY,
    MAX_LEAVES,
    RANK,
    UNKNOWN,
    compile_labels,
    header_labels,
    join,
    leaves,
    names_of,
    parse_path,
    read_header,
    worst,
)
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.state import session_key
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_rederive import check

POLICIES = """
@id("mail-read") permit (principal, action in [Action::"mail.read", Action::"mail.page", Action::"mail.local"], resource);
@id("mail-send") permit (principal, action == Action::"mail.send", resource);
@id("mail-known") @hold("the recipient is not in your words")
forbid (principal, action == Action::"mail.send", resource)
unless { ["user", "internal"].contains(context.grounding.worst) };
@id("mail-after-web") @hold("a web page was read")
forbid (principal, action == Action::"mail.send", resource) when { context.session.labels.contains("web") };
@id("mail-often")
forbid (principal, action == Action::"mail.send", resource) when { context.session.counts["mail.send"] >= 3 };
@id("mail-much")
forbid (principal, action == Action::"mail.send", resource)
when { context.session.sums["mail.send.amount"].greaterThan(decimal("100.0")) };
@id("mail-first-read")
forbid (principal, action == Action::"mail.pay", resource) when { context.session.since["mail.read"] != 0 };
@id("mail-pay") permit (principal, action == Action::"mail.pay", resource);
@id("mail-observed") @mode("observe")
forbid (principal, action == Action::"mail.read", resource);
"""


def tool(name: str, kind: str = "http", **more: object) -> str:
    text = {"type": "string"}
    return json.dumps(
        {
            "name": name,
            "inputSchema": {
                "type": "object",
                "properties": {"to": text, "amount": {"type": "number"}, "body": text},
            },
            "x-sluicegate": {
                "class": "read_only" if name in ("mail.read", "mail.page") else "irreversible",
                "executor": {"kind": kind, "url": "http://tools.invalid/x"}
                if kind == "http"
                else {"kind": kind},
                **more,
            },
        }
    )


MAIL = {
    "contracts/mail.read.json": tool(
        "mail.read",
        labels={"$": "third_party", "$[*].sender": "internal"},
        confidential={"$[*].key": "secret"},
    ),
    "contracts/mail.page.json": tool("mail.page", labels={"$": "web"}, confidential={"$": "public"}),
    "contracts/mail.send.json": tool(
        "mail.send",
        protected={"to": "exact", "body": "links"},
        measures=["amount"],
        constants={"to": ["postmaster"]},
    ),
    "contracts/mail.pay.json": tool("mail.pay"),
    "contracts/mail.local.json": tool("mail.local", "in_process", labels={"$": "internal"}),
    "policies/mail.cedar": POLICIES,
}


def driver() -> Driver:
    d = Driver()
    d.deploy(compile_release({**release_files(), **MAIL}))
    d.open_session()
    d.say("write to Bob")
    return d


def read(d: Driver, tool: str, result: object, **more: object) -> Decision:
    return d.finish(d.call(tool, **more).dispatches[0], orjson.dumps(result))


def statuses(decision: Decision) -> list[str]:
    return [o.status for o in decision.outcomes]


def grounding(decision: Decision) -> r.StageFacts:
    return next(
        o.facts for o in decision.outcomes if isinstance(o.facts, r.StageFacts) and o.facts.grounded_from
    )


# -- paths and joins ----------------------------------------------------------------------------------------------------


def test_the_deepest_path_wins() -> None:
    rules = compile_labels({"$": "web", "$.a": "internal", "$.a[*].b": "user"}, RANK, UNKNOWN)
    assert [INTEGRITY[rules.at(p)] for p in ("$", "$.a", "$.a[*]", "$.a[*].b", "$.a[*].b.c", "$.z")] == [
        "web", "internal", "internal", "user", "user", "web",
    ]  # fmt: skip


def test_without_a_rule_nothing_is_known() -> None:
    assert compile_labels({}, RANK, UNKNOWN).at("$.a") == UNKNOWN


@pytest.mark.parametrize("path", ["a", "$a", "$..a", "$[0]", "$.a[?(@.b)]", "$.a.", "$.a b"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Terminal):
        parse_path(path)


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(Terminal, match="`trusted`"):
        compile_labels({"$": "trusted"}, RANK, UNKNOWN)


def test_a_result_cannot_spell_a_path_with_one_name() -> None:
    rules = compile_labels({"$": "web", "$.a.sender": "internal"}, RANK, UNKNOWN)
    assert {rules.at(path) for path, _ in leaves({"a.sender": "x", "[*]": 1, "a": [{"sender": 2}]})} == {
        RANK["web"]
    }


def test_what_lies_beyond_the_bound_is_unknown() -> None:
    rules = compile_labels({"$": "internal"}, RANK, UNKNOWN)
    secret = compile_labels({}, CONFIDENTIALITY_RANK, 1)
    assert names_of(join([1] * MAX_LEAVES, rules, secret)[0]) == ["internal"]
    assert names_of(join([1] * (MAX_LEAVES + 1), rules, secret)[0]) == ["internal", "unknown"]


def test_a_header_holds_labels_both_ways() -> None:
    assert read_header(header_labels(0b01010, 2)) == (0b01010, 2)
    assert read_header(["new-word", "c:new-word"]) == (1 << UNKNOWN, 2)
    assert worst(0) == 0


# -- sessions -----------------------------------------------------------------------------------------------------------


def test_a_sessions_label_joins_what_was_released() -> None:
    d = driver()
    session = d.state.sessions[session_key(AGENT, SESSION)]
    assert (session.integrity, session.confidentiality) == (0, 0)
    released = read(d, "mail.read", [{"sender": "alice", "text": "hi", "key": "k"}])
    assert released.outcomes[-1].labels == ["internal", "third_party", "c:secret"]
    read(d, "mail.page", "hello")
    assert names_of(session.integrity) == ["internal", "third_party", "web"]
    assert session.confidentiality == 2


def test_new_session_does_not_wash_taint() -> None:
    d = driver()
    read(d, "mail.page", "hello")
    d.feed("intents", d.intent("", session="mine", kind="session.open"))
    assert names_of(d.state.sessions[session_key(AGENT, "mine")].integrity) == ["web"]
    d.open_session("theirs")
    assert names_of(d.state.sessions[session_key(AGENT, "theirs")].integrity) == []


def test_what_an_agent_ran_itself_is_unknown() -> None:
    d = driver()
    local = d.call("mail.local")
    o = local.outcomes[0].origin
    done = r.Receipt(local.outcomes[-2].event_id, o.intent_id, AGENT, SESSION, "finished", 1, "agent", 1, 1, b'"Mallory"')  # fmt: skip
    d.feed("intents", done)
    assert names_of(d.state.sessions[session_key(AGENT, SESSION)].integrity) == ["unknown"]
    held = d.call("mail.send", {"to": "Mallory"})
    assert statuses(held)[-1] == "held"


def test_state_bytes_hold_sources_and_history() -> None:
    d = driver()
    read(d, "mail.read", [{"sender": "alice"}])
    d.finish(d.call("mail.send", {"to": "alice", "amount": 12.5}).dispatches[0])
    data = snapshot.encode(d.state)
    again = snapshot.decode(data)
    assert snapshot.encode(again) == data
    session = again.sessions[session_key(AGENT, SESSION)]
    assert [s.origin for s in session.sources] == ["user", "user", "result", "result"]
    assert session.sums == {"mail.send.amount": 125_000}
    assert again.marks == d.state.marks != {}


# -- policies -----------------------------------------------------------------------------------------------------------


def test_a_grounded_call_goes_through_and_cites_its_event() -> None:
    d = driver()
    said = d.records[-1]
    decision = d.call("mail.send", {"to": "bob", "body": "hi"})
    assert statuses(decision)[-1] == "dispatched"
    facts = grounding(decision)
    assert (facts.grounded_arguments, facts.grounded_from, facts.grounded_labels) == (
        ["to", "body"], ["user", "absent"], ["user", "user"],
    )  # fmt: skip
    assert facts.grounded_events[0] == d.state.sessions[session_key(AGENT, SESSION)].sources[-1].event_id
    assert said


def test_a_field_that_is_internal_grounds_and_its_neighbour_does_not() -> None:
    d = driver()
    read(d, "mail.read", [{"sender": "alice", "text": "mallory"}])
    assert statuses(d.call("mail.send", {"to": "alice"}))[-1] == "dispatched"
    assert statuses(d.call("mail.send", {"to": "mallory"}))[-1] == "held"


def test_a_held_forbid_is_lifted_by_a_person_and_a_plain_one_is_not() -> None:
    d = driver()
    held = d.call("mail.send", {"to": "mallory"})
    assert statuses(held) == ["routed", "held"]
    assert held.outcomes[-1].policies == ["mail-known", "mail-send"]
    for _ in range(3):
        d.finish(d.call("mail.send", {"to": "bob"}).dispatches[0])
    assert statuses(d.review(held)) == ["held", "refused"]  # mail-often: three went out meanwhile


def test_a_constant_of_the_contract_grounds() -> None:
    assert statuses(driver().call("mail.send", {"to": "postmaster"}))[-1] == "dispatched"


def test_no_transfer_after_a_web_page_unless_a_person_agrees() -> None:
    d = driver()
    read(d, "mail.page", "hello")
    held = d.call("mail.send", {"to": "bob"})
    assert held.outcomes[-1].policies == ["mail-after-web", "mail-send"]
    assert statuses(d.review(held))[-1] == "dispatched"


def test_counts_and_sums_bound_a_session() -> None:
    d = driver()
    d.finish(d.call("mail.send", {"to": "bob", "amount": 100.01}).dispatches[0])
    assert d.call("mail.send", {"to": "bob"}).outcomes[-1].policies == ["mail-much"]
    d = driver()
    for _ in range(3):
        d.finish(d.call("mail.send", {"to": "bob"}).dispatches[0])
    assert d.call("mail.send", {"to": "bob"}).outcomes[-1].policies == ["mail-often"]


def test_order_of_calls() -> None:
    d = driver()
    assert d.call("mail.pay").outcomes[-1].policies == ["mail-first-read"]
    read(d, "mail.read", [])
    assert statuses(d.call("mail.pay"))[-1] == "dispatched"
    assert d.call("mail.pay").outcomes[-1].policies == ["mail-first-read"]


def test_an_observing_policy_is_recorded_and_not_applied() -> None:
    decision = driver().call("mail.read")
    facts = next(o.facts for o in decision.outcomes if o.status == "permitted")
    assert isinstance(facts, r.StageFacts)
    assert (statuses(decision)[-1], facts.observed) == ("dispatched", ["mail-observed"])


def test_words_that_are_not_at_hand_are_asked_for() -> None:
    d = driver()
    d.library.drop(("messages", 1))
    assert statuses(d.call("mail.send", {"to": "bob"}))[-1] == "dispatched"
    d.library.drop(("messages", 1))
    del d.inputs["messages"][1]
    assert statuses(d.call("mail.send", {"to": "bob"}))[-1] == "held"  # gone: it grounds nothing


def test_enforced_grounding_refuses_what_comes_from_nowhere() -> None:
    d = Driver()
    files = {**release_files(), **MAIL}
    files["release.yaml"] += "grounding: enforce\n"
    d.deploy(compile_release(files))
    d.open_session()
    d.say("write to Bob")
    refused = d.call("mail.send", {"to": "mallory"})
    assert (statuses(refused)[-1], refused.outcomes[-1].reason) == ("refused", "ungrounded")
    assert grounding(refused).grounded_from == ["nowhere", "absent"]
    assert statuses(d.call("mail.send", {"to": "bob"}))[-1] == "dispatched"


def test_an_observed_tool_is_never_refused_by_policy() -> None:
    d = driver()
    d.control_event(
        "people.registered", people=[{"person_id": "operator", "name": "O", "roles": ["operator"]}]
    )
    d.control_event("mode.set", scope="tool", value="mail.send", mode="observe")
    decision = d.call("mail.send", {"to": "mallory"})
    facts = grounding(decision)
    assert (statuses(decision)[-1], facts.observed) == ("dispatched", ["mail-known", "mail-send"])


def test_grounded_decisions_are_made_again_byte_for_byte() -> None:
    d = driver()
    read(d, "mail.read", [{"sender": "alice", "text": "mallory"}])
    d.finish(d.call("mail.send", {"to": "alice", "amount": 5}).dispatches[0])
    d.review(d.call("mail.send", {"to": "mallory"}))
    read(d, "mail.page", "hello")
    d.call("mail.send", {"to": "bob"})
    tally = check(d)
    assert tally.differences == []
    assert tally.same == tally.inputs - 1 > 10  # all but genesis
