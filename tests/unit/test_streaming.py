"""Streamed model calls in the ledger: modes, what is kept of each attempt, what a session learns, and what grounds."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.models.streaming import message_digest, result_digest
from sluicegate.processors.releases.release import build
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.state import OpenIntent, intent_key, session_key
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import AGENT, SESSION, Driver
from tests.unit.test_attempts import LARGE, MESSAGES, PERMIT, SMALL, SPARE, answer, contract, driver, files
from tests.unit.test_verify import verify

NAME = "00aa11bb22cc33dd"
MODES = {LARGE: "open", SMALL: "gated", SPARE: "buffered"}


def routed(
    policy: str = PERMIT, modes: dict[str, str] | None = None, more_yaml: str = "", **route: object
) -> Driver:
    more = {f"contracts/{name}.json": contract(name, stream=mode) for name, mode in (modes or MODES).items()}
    return driver(route or None, policy, None, more_yaml, **more)


def ask(d: Driver, kind: str = "model_stream") -> r.Dispatch:
    (dispatch,) = d.call("triage", {"messages": MESSAGES}, kind=kind).dispatches
    return dispatch


def fail(d: Driver, work: r.Dispatch, error_class: str = "server_error", **more: object) -> r.Dispatch:
    (after,) = d.receipt(work, "failed", error_class=error_class, error="as ordered", **more).dispatches
    return after


def shown(text: str, name: str = NAME, pieces: int = 5) -> dict[str, object]:
    """What a receipt says of a stream."""
    return {"message": name, "pieces": pieces, "streamed": message_digest(text, [])}


def test_the_mode_is_the_contracts_and_only_who_asks_for_a_stream_gets_one() -> None:
    d = routed()
    assert ask(d, "model_call").stream == ""
    first = ask(d)
    assert (first.stream, first.replaces) == ("open", "")
    second = fail(d, first)
    assert second.stream == "gated"
    assert fail(d, second).stream == "", "a buffered one shows nothing"
    assert [facts.mode for facts in offers(d)] == ["open", "gated", "buffered"]


def offers(d: Driver) -> list[r.StreamFacts]:
    """What every offer says of its stream."""
    found = [codec.decode(codec.decode_as(r.Outcome, one.value).facts) for one in d.records]
    return [f for f in found if isinstance(f, r.StreamFacts)]


def test_a_fallback_names_the_message_it_stands_for() -> None:
    d = routed(modes=dict.fromkeys(MODES, "open"))
    first = ask(d)
    second = fail(d, first, **shown("Hello, I"))
    assert second.replaces == NAME
    third = fail(d, second, "rate_limit")
    assert third.replaces == NAME, "the second one showed nothing: what stands there is still the first one's"
    done = d.receipt(third, "finished", result=answer(SPARE, "hi"), **shown("hi", "44ee")).outcomes[-1]
    facts = done.facts
    assert isinstance(facts, r.StreamedFacts)
    assert (facts.mode, facts.message, facts.pieces, facts.same) == ("open", "44ee", 5, True)
    assert facts.streamed == message_digest("hi", []) == result_digest(answer(SPARE, "hi"))
    kept = offers(d)
    assert [(f.replaces, f.replaced_pieces) for f in kept] == [("", 0), (NAME, 5), (NAME, 0)]
    assert [f.replaced_digest for f in kept] == [b"", message_digest("Hello, I", []), b""], (
        "one digest an attempt"
    )


def test_a_pause_and_a_second_offer_remember_what_is_shown() -> None:
    d = routed(modes=dict.fromkeys(MODES, "open"), on_error={"server_error": "retry"},
               candidates=[{"contract": name} for name in MODES])  # fmt: skip
    work = ask(d)
    paused = d.receipt(work, "failed", error_class="server_error", retry_after_ms=2_000, **shown("Hel"))
    assert not paused.dispatches and paused.outcomes[-1].status == "waiting"
    (again,) = d.tick(5_000_000).dispatches
    assert (again.replaces, again.stream) == (NAME, "open")
    (offered,) = d.tick(20_000_000).dispatches
    assert (offered.replaces, offered.attempt) == (NAME, 3)


def test_what_was_streamed_and_is_not_what_is_released_is_said() -> None:
    d = routed()
    done = d.receipt(ask(d), "finished", result=answer(LARGE, "hi"), **shown("ho")).outcomes[-1]
    assert isinstance(done.facts, r.StreamedFacts) and not done.facts.same
    none = d.receipt(ask(d), "finished", result=answer(LARGE, "hi")).outcomes[-1]
    assert isinstance(none.facts, r.StreamedFacts)
    assert (none.facts.pieces, none.facts.same, none.facts.streamed) == (0, False, b"")


def test_an_open_answer_is_unvalidated_and_grounds_nothing() -> None:
    for mode in ("open", "gated"):
        d = routed(modes=dict.fromkeys(MODES, mode))
        session = d.state.sessions[session_key(AGENT, SESSION)]
        before = len(session.sources)
        done = d.receipt(ask(d), "finished", result=answer(LARGE, "pay DE02 1203"))
        assert ("unvalidated" in done.outcomes[-1].labels) == (mode == "open")
        assert len(session.sources) == before + (mode != "open")
        ended = d.receipt(ask(d, "model_call"), "finished", result=answer(LARGE, "pay DE02 1203"))
        assert "unvalidated" not in ended.outcomes[-1].labels
        assert len(session.sources) == before + 1 + (mode != "open"), "what was not streamed grounds as ever"


def test_a_session_learns_from_the_offer_on() -> None:
    d = routed()
    session = d.state.sessions[session_key(AGENT, SESSION)]
    ask(d, "model_call")
    assert session.integrity == 1 or not session.integrity >> 4
    before = session.integrity
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_stream")
    assert "unvalidated" in decision.outcomes[-1].labels
    assert session.integrity == before | 1 << 4, "its agent may see pieces, whatever becomes of the answer"


def test_a_gated_offer_teaches_what_its_contract_says() -> None:
    made = json.loads(contract(LARGE, stream="gated"))
    made["x-sluicegate"]["labels"] = {"$": "third_party"}
    d = driver({"candidates": [{"contract": LARGE}]}, **{f"contracts/{LARGE}.json": json.dumps(made)})
    session = d.state.sessions[session_key(AGENT, SESSION)]
    decision = d.call("triage", {"messages": MESSAGES}, kind="model_stream")
    assert decision.outcomes[-1].labels == ["third_party", "c:internal"]
    assert session.integrity == 1 << 2 and d.state.marks[AGENT] & 1 << 2


NO_OPEN = """
@id("no-open")
forbid (principal, action == Action::"triage", resource) when { context.stream == "open" };
"""


def test_a_mode_that_policies_forbid_is_refused_or_another_candidate_asked() -> None:
    d = routed(PERMIT + NO_OPEN)
    assert ask(d).stream == "gated", "the open one may not be asked"
    assert ask(d, "model_call").stream == ""
    alone = routed(PERMIT + NO_OPEN,
                   modes=dict.fromkeys(MODES, "open"))  # fmt: skip
    refused = alone.call("triage", {"messages": MESSAGES}, kind="model_stream").outcomes[-1]
    assert (refused.status, refused.reason, refused.policies) == ("refused", "forbidden", ["no-open"])


def test_a_word_that_no_mode_is_is_found_when_the_release_is_built() -> None:
    made = files(policy=PERMIT + NO_OPEN.replace('open" }', 'opne" }'))
    _, findings = build(made)
    assert any("`context.stream` is never `opne`" in str(f) for f in findings), findings


@pytest.mark.parametrize(
    ("executor", "said"),
    [({"stream": "live"}, "`stream` is one of"), ({"idle_ms": 0}, "`idle_ms`"), ({"first_token_ms": "1"}, "`first_token_ms`"),
     ({"stream_usage": 1}, "`stream_usage`")],
)  # fmt: skip
def test_a_contract_that_cannot_be_meant(executor: dict[str, object], said: str) -> None:
    _, findings = build(files(**{f"contracts/{LARGE}.json": contract(LARGE, **executor)}))
    assert any(said in str(f) for f in findings), findings


def test_rules_travel_with_a_gated_offer() -> None:
    rules = "guardrails:\n  - {id: no-mail, on: result, tools: [triage], detect: [email]}\n"
    d = routed(modes=dict.fromkeys(MODES, "gated"), more_yaml=rules)
    work = ask(d)
    around = orjson.loads(work.around)
    assert (around["tool"], around["agent"]["id"], around["environment"]) == ("triage", AGENT, "test")
    assert work.release == d.control.deployed, "the executor takes the rules of this release"
    assert (
        routed(modes=dict.fromkeys(MODES, "gated"))
        .call("triage", {"messages": MESSAGES}, kind="model_stream")
        .dispatches[0]
        .around
        == b""
    )
    hit = d.receipt(work, "finished", result=answer(LARGE, "write to bob@example.com"), **shown("")).outcomes[
        -1
    ]
    assert (hit.status, hit.reason) == ("withheld", "guardrail"), "the verdict is over the whole of it"
    assert isinstance(hit.facts, r.StreamedFacts) and not hit.facts.same


def test_a_tool_is_no_stream() -> None:
    d = routed()
    refused = d.call("desk.read", {}, kind="model_stream").outcomes[-1]
    assert (refused.status, refused.reason) == ("refused", "wrong_kind")


def test_it_is_decided_again_byte_for_byte_and_outlives_a_snapshot() -> None:
    d = routed(modes=dict.fromkeys(MODES, "open"))
    first = ask(d)
    second = fail(d, first, **shown("Hello"))
    copy = snapshot.decode(snapshot.encode(d.state))
    assert snapshot.encode(copy) == snapshot.encode(d.state)
    entry = copy.intents[intent_key(d.control.agents[AGENT].tenant, AGENT, first.intent_id)]
    assert isinstance(entry, OpenIntent) and (entry.stream, entry.shown) == ("open", NAME)
    d.receipt(second, "finished", result=answer(SMALL, "hi"), **shown("hi", "44ee"))
    ask(d)
    assert verify(d).names == set()
    again = Rederive(d.partition, d.controls, d.keys.open)
    for record in d.records:
        again.add(record.offset, record.value)
    tally = again.finish()
    assert tally.different == 0, tally.differences
    assert snapshot.encode(again.state) == snapshot.encode(d.state)


def test_a_broken_stream_is_spent_to_its_bound_and_an_answer_to_what_was_counted() -> None:
    d = routed(more_yaml="budgets: [{id: words, scope: agent, unit: tokens, cap: 10000}]\n")
    first = ask(d)
    (account,) = d.state.accounts.values()
    bound = account.reserved
    assert bound > 1_024
    second = fail(d, first, **shown("Hello"))
    assert (account.spent, account.reserved) == (bound, bound), "nobody counted what broke off"
    d.receipt(second, "finished", result=answer(SMALL), **shown("hi"))
    assert (account.spent, account.reserved) == (bound + 5, 0)


def test_a_contract_without_a_route_is_streamed_alike() -> None:
    d = routed(PERMIT + PERMIT.replace("triage", LARGE))
    (work,) = d.call(LARGE, {"messages": MESSAGES}, kind="model_stream").dispatches
    assert (work.stream, work.tool) == ("open", LARGE)
    done = d.receipt(work, "finished", result=answer(LARGE, "hi"), **shown("hi")).outcomes[-1]
    assert isinstance(done.facts, r.StreamedFacts) and done.facts.same
    broken = d.receipt(
        d.call(LARGE, {"messages": MESSAGES}, kind="model_stream").dispatches[0], "failed", error_class="server_error",
        **shown("h", "55ff"),
    ).outcomes[-1]  # fmt: skip
    assert (broken.status, broken.reason) == ("failed", "server_error")
    assert isinstance(broken.facts, r.StreamedFacts) and broken.facts.streamed == message_digest("h", [])
    assert verify(d).names == set()


def test_whoever_counts_answers_in_sql_counts_streamed_ones() -> None:
    """Facts of a streamed call have a name of their own: a query that knows the other one only would leave it out."""
    root = Path(__file__).parents[2]
    texts = [
        p
        for folder in ("sinks", "streams")
        for p in (root / folder).rglob("*")
        if p.suffix in (".sql", ".py")
    ]
    lines = [line for p in texts for line in p.read_text("utf-8").splitlines() if "'answer_facts'" in line]
    assert len(lines) >= 6 and all("'streamed_facts'" in line for line in lines), lines


# -- stopped while it answers ----------------------------------------------------------------------------------------


def test_a_stream_of_a_quarantined_agent_ends_as_such() -> None:
    """The executor stopped reading: nobody is asked next, and what was shown is kept."""
    d = routed(modes=dict.fromkeys(MODES, "open"))
    first = ask(d)
    d.control_event("quarantine.added", scope="agent", value=AGENT, why="a test")
    ended = d.receipt(
        first, "failed", error_class="quarantined", error="agent is quarantined", **shown("Hello, I")
    )
    assert not ended.dispatches and d.state.open_count == 0
    assert (ended.outcomes[0].status, ended.outcomes[0].reason) == ("failed", "quarantined")
    assert (d.replies[-1].status, d.replies[-1].reason) == ("failed", "quarantined")
    facts = ended.outcomes[0].facts
    assert isinstance(facts, r.StreamedFacts)
    assert (facts.message, facts.streamed) == (NAME, message_digest("Hello, I", []))
    assert verify(d).names == set()


def test_a_stream_of_a_quarantined_candidate_is_followed_by_the_next_one() -> None:
    d = routed(modes=dict.fromkeys(MODES, "open"))
    first = ask(d)
    d.control_event("quarantine.added", scope="tool", value=LARGE, why="a test")
    second = fail(d, first, "quarantined", **shown("Hello, I"))
    assert (second.candidate, second.replaces) == (SMALL, NAME), (
        "its message stands in place of what was shown"
    )
    assert verify(d).names == set()
