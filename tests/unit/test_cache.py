"""The cache in one partition: hits, equal calls at once, expiry, labels, scopes, guardrails, quarantine, snapshots, replay."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.cache import cache
from sluicegate.processors.cache import entries as cache_entries
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import OpenIntent, PartitionState
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.inspect.explain import tell
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.lanes.recovery import fold_record

from tests.driver import AGENT, OTHER_AGENT, SESSION, Driver, agents, release_files

TTL_US = 60_000_000


def cached_release(
    scope: str = "agent", *, more: dict[str, object] | None = None, manifest: str = ""
) -> dict[str, str]:
    """The driver's release with a cache in `desk.read`'s contract, one minute long."""
    files = dict(release_files())
    contract = json.loads(files["contracts/desk.read.json"])
    contract["x-sluicegate"] |= {"cache": {"scope": scope, "ttl_s": 60}, **(more or {})}
    files["contracts/desk.read.json"] = json.dumps(contract)
    files["release.yaml"] += manifest
    return files


def driver(scope: str = "agent", *, more: dict[str, object] | None = None, manifest: str = "") -> Driver:
    d = Driver()
    d.deploy(compile_release(cached_release(scope, more=more, manifest=manifest)))
    d.open_session()
    return d


def read(d: Driver, value: str = "a", **more: object) -> Decision:
    return d.call("desk.read", {"value": value}, **more)


def states(d: Driver) -> list[str]:
    """States of the intents that are open, in the order of their ids."""
    found = [i for i in d.state.intents.values() if isinstance(i, OpenIntent)]
    return [i.state for i in sorted(found, key=lambda i: i.intent_id)]


def statuses(decision: Decision) -> list[str]:
    return [o.status for o in decision.outcomes]


def settle(d: Driver) -> list[Decision]:
    """Ticks until nothing is due."""
    found = []
    while (decision := d.tick()).outcomes:
        found.append(decision)
    return found


def intact(d: Driver) -> None:
    """What `ledger verify`, deciding anew and every fold say of all that happened."""
    control = ControlChecker(d.rules)
    for record in d.control_records:
        control.add(*record)
    checker = PartitionChecker(d.partition, control.controls)
    again = Rederive(d.partition, d.controls, d.keys.open)
    state = PartitionState(b"", d.partition)
    for at, record in enumerate(d.records):
        checker.add(*record)
        again.add(*record)
        state = fold_record(state, record.value)
        if at % 7 == 0:
            state = snapshot.decode(snapshot.encode(state))
    checker.close()
    assert checker.findings.first == {}
    tally = again.finish()
    assert tally.differences == []
    assert tally.same == tally.inputs - 1
    assert snapshot.encode(state) == snapshot.encode(again.state) == snapshot.encode(d.state)


def test_an_equal_call_is_answered_without_a_dispatch() -> None:
    d = driver()
    d.finish(read(d).dispatches[0], b'{"n":1}')
    hit = read(d)
    assert statuses(hit) == ["routed", "permitted", "validated", "released"]
    assert hit.dispatches == []
    assert (hit.replies[0].status, hit.replies[0].result) == ("released", b'{"n":1}')
    facts = hit.outcomes[-1].facts
    assert isinstance(facts, r.CacheFacts)
    assert (facts.op, facts.executed_by, facts.made_by) == ("hit", "cache", "i-2")
    assert read(d, "b").dispatches != []
    intact(d)


def test_a_hit_costs_the_session_no_execution() -> None:
    d = driver()
    d.finish(read(d).dispatches[0])
    before = dict(d.state.sessions[f"{AGENT}\0{SESSION}"].counts)
    read(d)
    assert d.state.sessions[f"{AGENT}\0{SESSION}"].counts == before
    assert d.state.open_count == 0


def test_a_result_ends_in_decided_time() -> None:
    d = driver()
    d.finish(read(d).dispatches[0])
    d.now += TTL_US - 3_000
    assert read(d).dispatches == []
    d.now += 3_000
    again = read(d)
    assert statuses(again) == ["routed", "permitted", "validated", "noted", "dispatched"]
    d.finish(again.dispatches[0], b'{"n":2}')
    assert read(d).replies[0].result == b'{"n":2}'
    intact(d)


def test_equal_calls_at_once_run_once() -> None:
    d = driver()
    first = read(d)
    others = [read(d) for _ in range(5)]
    assert {tuple(statuses(o)) for o in others} == {("routed", "permitted", "validated", "waiting")}
    assert not any(o.dispatches or o.replies for o in others)
    d.finish(first.dispatches[0], b'{"n":1}')
    answers = settle(d)
    assert [statuses(a) for a in answers] == [["released"]] * 5
    assert {a.replies[0].result for a in answers} == {b'{"n":1}'}
    assert len({a.replies[0].intent_id for a in answers}) == 5
    assert (len(d.dispatches), d.state.open_count) == (1, 0)
    intact(d)


@pytest.mark.parametrize("how", ["failed", "withheld", "expired"])
def test_when_the_run_ends_badly_the_next_one_who_waits_runs(how: str) -> None:
    d = driver()
    first = read(d, deadline_at=d.now + 4_000_000)
    waiting = [read(d), read(d)]
    if how == "failed":
        d.receipt(first.dispatches[0], "failed", error_class="refused_by_tool")
    elif how == "withheld":
        d.finish(first.dispatches[0], b"nonsense")
    else:
        d.tick(8_000_000)
    assert d.replies[-1].status == how
    (turn,) = settle(d)
    assert statuses(turn) == ["validated", "noted", "dispatched"]
    assert turn.dispatches[0].intent_id == waiting[0].outcomes[0].origin.intent_id
    d.finish(turn.dispatches[0], b'{"n":2}')
    assert [statuses(a) for a in settle(d)] == [["released"]]
    assert d.replies[-1].result == b'{"n":2}'
    intact(d)


def test_who_waits_past_its_deadline_expires_and_the_others_go_on() -> None:
    d = driver()
    first = read(d)
    read(d, deadline_at=d.now + 2_000_000)
    read(d)
    late = d.tick(3_000_000)
    assert (late.outcomes[0].status, late.outcomes[0].reason) == ("refused", "deadline_passed")
    d.finish(first.dispatches[0])
    assert [statuses(a) for a in settle(d)] == [["released"]]
    intact(d)


def test_a_call_that_waits_long_looks_again_and_waits_on() -> None:
    d = driver()
    first = read(d)
    read(d)
    for _ in range(3):  # the runner's lease is offered again meanwhile
        d.now += 31_000_000
        while d.tick().outcomes:
            pass
    assert states(d) == ["dispatched", "waiting"]
    d.finish(first.dispatches[-1])
    assert [statuses(a) for a in settle(d)] == [["released"]]
    intact(d)


def test_a_quarantine_stops_hits() -> None:
    d = driver()
    first = read(d)
    read(d)
    d.finish(first.dispatches[0])
    d.control_event("quarantine.added", scope="tool", value="desk.read", why="wrong numbers")
    waited = settle(d)[0].outcomes[0]
    assert (waited.status, waited.reason) == ("refused", "quarantined")
    asked = read(d)
    assert (asked.outcomes[-1].status, asked.outcomes[-1].reason) == ("refused", "quarantined")
    intact(d)


def test_who_may_not_call_gets_no_hit() -> None:
    d = driver("tenant")
    d.finish(read(d).dispatches[0])
    files = cached_release("tenant")
    files["policies/no.cedar"] = '@id("no") forbid (principal, action == Action::"desk.read", resource);'
    d.deploy(compile_release(files))
    d.open_session("s2")  # sessions stand on the release they began under
    assert read(d, session="s2").outcomes[-1].status == "refused"


def test_a_hit_brings_the_labels_and_the_duty_to_redact() -> None:
    d = driver(
        more={"labels": {"$.web": "web"}, "confidential": {"$.key": "secret"}, "redact": {"result": []}}
    )
    d.finish(read(d).dispatches[0], b'{"web":"x","key":"k"}')
    d.open_session("s2")
    hit = read(d, session="s2")
    session = d.state.sessions[f"{AGENT}\0s2"]
    assert hit.outcomes[-1].labels[-1] == "c:secret"
    assert (session.confidentiality, session.sources[-1].topic) == (2, "receipts")


def test_the_asker_s_own_guardrails_look_at_a_hit() -> None:
    d = driver()
    d.finish(read(d).dispatches[0], b'{"mail":"ana@example.com"}')
    rules = """
guardrails:
  - id: no-mail
    tools: [desk.read]
    on: result
    when: "'mail' in result"
    verdict: withhold
"""
    d.deploy(compile_release(cached_release(manifest=rules)))
    d.open_session("s2")
    hit = read(d, session="s2")
    assert (statuses(hit)[-1], hit.outcomes[-1].reason, hit.replies[0].result) == (
        "withheld",
        "guardrail",
        None,
    )
    assert hit.dispatches == []
    intact(d)


def test_a_hit_grounds_and_a_repeated_intent_gets_its_result_again() -> None:
    d = driver()
    d.finish(read(d).dispatches[0], b'{"n":1}')
    intent = d.intent("desk.read", {"value": "a"})
    d.feed("intents", intent)
    again = d.feed("intents", intent)
    assert (again.replies[0].duplicate, again.replies[0].result) == (True, b'{"n":1}')
    intact(d)


@pytest.mark.parametrize(("scope", "shared"), [("agent", False), ("tenant", True), ("shared:rates", True)])
def test_who_shares_a_result(scope: str, shared: bool) -> None:
    d = driver(scope)
    row = next(a for a in agents() if a["agent_id"] == AGENT)
    d.control_event("agents.registered", agents=[{**row, "agent_id": OTHER_AGENT}])
    d.open_session("s2", OTHER_AGENT)
    d.finish(read(d).dispatches[0])
    assert (read(d, agent=OTHER_AGENT, session="s2").dispatches == []) is shared


def test_nothing_crosses_tenants() -> None:
    d = driver("shared:rates")
    row = next(a for a in agents() if a["agent_id"] == OTHER_AGENT)
    d.control_event("agents.registered", agents=[{**row, "tenant": "other"}])
    d.open_session("s2", OTHER_AGENT)
    d.finish(read(d).dispatches[0])
    assert read(d, agent=OTHER_AGENT, session="s2").dispatches != []


def test_nothing_crosses_the_line_around_secrets() -> None:
    d = driver(more={"confidential": {"$.key": "secret"}})
    d.open_session("s2")
    d.finish(read(d, "k").dispatches[0], b'{"key":"k"}')  # this session knows a secret now
    low = read(d, session="s2")
    high = read(d)
    assert (len(low.dispatches), len(high.dispatches)) == (1, 1)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"timeout_ms": 3_000}, True),
        ({"version": "2"}, False),
        ({"executor": {"kind": "http", "url": "http://tools.invalid/elsewhere"}}, False),
    ],
)
def test_a_new_release_keeps_what_it_leaves_alone(change: dict[str, object], kept: bool) -> None:
    d = driver()
    d.finish(read(d).dispatches[0])
    d.deploy(compile_release(cached_release(more=change)))
    d.open_session("s2")
    assert (read(d, session="s2").dispatches == []) is kept


def test_what_was_redacted_is_redacted_in_the_key() -> None:
    d = driver(more={"redact": {"arguments": ["$.value"], "result": []}})
    d.finish(read(d, "one").dispatches[0])
    assert read(d, "two").dispatches == []


def test_erased_bytes_are_asked_for_again() -> None:
    d = driver()
    d.finish(read(d).dispatches[0])
    d.inputs["receipts"].clear()
    d.library = Library()
    again = read(d)
    assert statuses(again) == ["routed", "permitted", "validated", "noted", "noted", "dispatched"]
    d.finish(again.dispatches[0])
    assert read(d).dispatches == []


def test_entries_and_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_entries, "MAX_ENTRIES", 3)
    monkeypatch.setattr(cache, "MAX_WAITERS", 2)
    d = driver()
    for value in "abcd":
        d.finish(read(d, value).dispatches[0])
    assert len(d.state.cache.entries) == 3
    assert read(d, "d").dispatches == []
    d.finish(read(d, "a").dispatches[0])  # the first to end had left
    running = [read(d, value) for value in "efg"]
    assert len(d.state.cache.entries) == 3
    uncached = read(d, "h")
    assert len(uncached.dispatches) == 1
    d.finish(uncached.dispatches[0])
    for _ in range(2):
        assert statuses(read(d, "e"))[-1] == "waiting"
    full = read(d, "e").outcomes[-1]
    assert (full.status, full.reason) == ("refused", "overloaded")
    for one in running:
        d.finish(one.dispatches[0])
    settle(d)
    assert states(d) == []
    intact(d)


def test_entries_that_ended_leave() -> None:
    d = driver()
    for value in "abc":
        d.finish(read(d, value).dispatches[0])
    d.now += 2 * TTL_US
    d.finish(read(d, "z").dispatches[0])
    assert len(d.state.cache.entries) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class": "idempotent"}, "class `idempotent` is never answered from a cache"),
        ({"executor": {"kind": "in_process"}}, "runs as `in_process`"),
        ({"cache": {"scope": "world", "ttl_s": 60}}, "`world` is no scope"),
        ({"cache": {"scope": "agent", "ttl_s": 0}}, "greater than 0"),
        ({"cache": {"scope": "shared:", "ttl_s": 60}}, "`shared:` is no scope"),
    ],
)
def test_a_contract_that_cannot_be_cached_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(Terminal, match=said):
        compile_release(cached_release(more=change))


def test_a_late_verdict_does_not_move_a_call_that_waits_for_the_cache() -> None:
    d = driver()
    read(d)
    second = read(d)
    entry = next(i for i in d.state.intents.values() if isinstance(i, OpenIntent) and i.state == "waiting")
    late = r.Receipt(entry.dispatch_id or bytes(16), entry.intent_id, AGENT, SESSION, "finished", 1, "x", d.now, d.now, b"[]")  # fmt: skip
    assert statuses(d.feed("receipts", late)) == ["noted"]
    assert statuses(second)[-1] == "waiting"


def test_explain_says_whose_result_it_was() -> None:
    d = driver()
    first = read(d)
    read(d)
    d.finish(first.dispatches[0], b'{"n":1}')
    settle(d)
    found = [decode(0, *record) for record in d.records]
    mine = [event for event in found if event.header.intent_id == "i-3"]
    story = tell(mine, None, d.controls, d.keys.open)
    said = [(s.status, s.by, s.detail) for s in story.steps[-2:]]
    assert said[0] == ("waiting", "", "waits for an equal call that runs already")
    assert said[1] == ("released", "cache", "answered from the cache of `i-2`")
    assert story.state == "released"
