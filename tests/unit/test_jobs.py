"""Work that goes on at the tool, calls that are looked up, and how long a key may be used."""

from __future__ import annotations

import json

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.jobs.terms import LOST_LOOK_US, interval_us
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.plan import LEASE_US
from sluicegate.processors.releases.release import CompiledRelease, build, compile_release
from sluicegate.processors.state import LEASE_MARGIN_US, OpenIntent
from sluicegate.schemas import records as r

from tests.driver import AGENT, PERSON, Driver, release_files

S = 1_000_000
JOB = {
    "id": "/id", "url": "http://tools.invalid/jobs/{job}", "state": "/state", "done": ["done"], "failed": ["failed"]
}  # fmt: skip


def contract(
    name: str, tool_class: str, governance: dict[str, object] | None = None, **executor: object
) -> str:
    return json.dumps(
        {
            "name": name,
            "inputSchema": {"type": "object", "properties": {"value": {"type": "string"}}},
            "outputSchema": {"type": "object"},
            "x-sluicegate": {
                "class": tool_class, "timeout_ms": 2_000, **(governance or {}),
                "executor": {"kind": "http", "url": "http://tools.invalid/x", **executor},
            },
        }
    )  # fmt: skip


LOOKUP = {"lookup": {"url": "http://tools.invalid/calls/{key}"}}
POLLED = {"completion": "poll", "job_limit_s": 3_600}
FILES = {
    "contracts/job.poll.json": contract("job.poll", "irreversible", POLLED, job=JOB),
    "contracts/job.read.json": contract("job.read", "read_only", POLLED, job=JOB),
    "contracts/job.beat.json": contract("job.beat", "irreversible", {**POLLED, "heartbeat_s": 60}, job=JOB),
    "contracts/job.call.json": contract(
        "job.call", "irreversible", {"completion": "callback", "job_limit_s": 600, "heartbeat_s": 60}
    ),
    "contracts/job.again.json": contract("job.again", "idempotent", {"completion": "callback", "job_limit_s": 600}),
    "contracts/look.up.json": contract("look.up", "queryable", **LOOKUP),
    "contracts/look.pay.json": contract("look.pay", "irreversible", **LOOKUP),
    "contracts/key.short.json": contract("key.short", "idempotent", {"key_lifetime_s": 30}),
    "contracts/key.long.json": contract("key.long", "idempotent", {"key_lifetime_s": 3_600}),
    "policies/jobs.cedar": '@id("jobs") permit (principal, action in [Action::"job.poll", Action::"job.read", '
    'Action::"job.beat", Action::"job.call", Action::"job.again", Action::"look.up", Action::"look.pay", '
    'Action::"key.short", Action::"key.long"], resource);',
}  # fmt: skip


def compiled() -> CompiledRelease:
    return compile_release({**release_files(), **FILES})


RELEASE = compiled()


def driver() -> Driver:
    d = Driver()
    d.deploy(RELEASE, now=True)
    d.open_session()
    d.say("please")
    return d


def statuses(decision: Decision) -> list[tuple[str, str]]:
    return [(o.status, o.reason) for o in decision.outcomes]


def entry(d: Driver) -> OpenIntent:
    [found] = [e for e in d.state.intents.values() if isinstance(e, OpenIntent)]
    return found


def begun(d: Driver, tool: str, completion: str = "poll", job: str = "j-1") -> r.Dispatch:
    """A call whose first answer handed over a job."""
    (dispatch,) = d.call(tool).dispatches
    if dispatch.tool_class != "read_only":
        d.claim(dispatch)
    said = json.dumps({"completion": completion, "job": job}).encode()
    assert statuses(d.receipt(dispatch, "parked", result=said)) == [("parked", "parked")]
    return dispatch


def test_a_lost_look_costs_lease_and_margin() -> None:
    assert LOST_LOOK_US == LEASE_US + LEASE_MARGIN_US


def test_a_job_is_parked_polled_and_released() -> None:
    d = driver()
    first = begun(d, "job.poll")
    assert (d.replies[-1].status, d.replies[-1].reason) == ("parked", "parked")
    decision = d.tick(2 * S)
    (look,) = decision.dispatches
    assert statuses(decision) == [("parked", "")]
    assert (look.purpose, look.job, look.tool_class, look.attempt) == ("poll", "j-1", "read_only", 1)
    assert look.idempotency_key == first.idempotency_key
    assert statuses(d.receipt(look, "progress")) == [("parked", "")]
    (look,) = d.tick(4 * S).dispatches
    assert statuses(d.receipt(look, "finished", result=b'{"ok":true}')) == [("released", "")]
    assert d.replies[-1].result == b'{"ok":true}'
    assert d.tick(3_600 * S).outcomes == []


def test_a_read_is_parked_without_a_claim() -> None:
    d = driver()
    begun(d, "job.read")
    (look,) = d.tick(2 * S).dispatches
    assert statuses(d.receipt(look, "finished", result=b"{}")) == [("released", "")]


def test_looks_are_ever_further_apart() -> None:
    assert [interval_us(2 * S, n) // S for n in range(8)] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert [interval_us(300 * S, n) // S for n in (0, 9)] == [300, 300]


def test_a_look_that_nobody_answers_is_offered_again() -> None:
    d = driver()
    begun(d, "job.poll")
    (lost,) = d.tick(2 * S).dispatches
    assert d.tick(5 * S).outcomes == []  # its lease and the call's time are not over
    (again,) = d.tick(5 * S).dispatches
    assert (again.purpose, again.job) == ("poll", "j-1")
    assert again.dispatch_id != lost.dispatch_id


def test_an_answer_to_an_older_look_is_noted() -> None:
    d = driver()
    begun(d, "job.poll")
    (lost,) = d.tick(2 * S).dispatches
    d.tick(10 * S)
    assert statuses(d.receipt(lost, "progress")) == [("noted", "late")]
    # But an end is the truth, whoever saw it.
    assert statuses(d.receipt(lost, "finished", result=b"{}")) == [("released", "")]


def test_looks_that_bring_nothing_extend_nothing_and_end_in_doubt() -> None:
    d = driver()
    begun(d, "job.beat")
    until = entry(d).alive_until
    for _ in range(3):
        (look,) = d.tick(20 * S - 2_000).dispatches
        if d.now >= until:
            break
        assert statuses(d.receipt(look, "progress", error_class="unreachable")) == [("parked", "")]
        assert entry(d).alive_until == until
    assert statuses(d.tick(10 * S)) == [("in_doubt", "job_lost")]


def test_heartbeats_never_move_the_bound() -> None:
    d = driver()
    first = begun(d, "job.call", "callback")
    ends_at = entry(d).ends_at
    for _ in range(11):
        d.now += 55 * S
        decision = d.receipt(first, "progress")
        if entry(d).alive_until == ends_at:
            break
        assert entry(d).alive_until == d.now + 60 * S
        assert statuses(decision) == [("parked", "")]
    assert entry(d).ends_at == ends_at == entry(d).alive_until
    assert d.tick(30 * S).outcomes == [] or d.now >= ends_at
    assert statuses(d.tick(60 * S)) == [("in_doubt", "job_lost")]


def test_a_job_not_heard_of_is_lost_before_its_bound() -> None:
    d = driver()
    first = begun(d, "job.call", "callback")
    assert d.tick(59 * S).outcomes == []
    assert statuses(d.tick(2 * S)) == [("in_doubt", "job_lost")]
    assert statuses(d.receipt(first, "finished", result=b"{}")) == [("released", "")]  # the truth, late


def test_a_callback_ends_it_once() -> None:
    d = driver()
    first = begun(d, "job.call", "callback")
    assert statuses(d.receipt(first, "finished", result=b"{}")) == [("released", "")]
    assert statuses(d.receipt(first, "finished", result=b"{}")) == [("noted", "late")]
    assert statuses(d.receipt(first, "progress")) == [("noted", "late")]


def test_a_callback_that_is_faster_than_the_executor() -> None:
    d = driver()
    (first,) = d.call("job.call").dispatches
    d.claim(first)
    assert statuses(d.receipt(first, "finished", result=b"{}")) == [("released", "")]
    parked = json.dumps({"completion": "callback", "job": ""}).encode()
    assert statuses(d.receipt(first, "parked", result=parked)) == [("noted", "late")]


def test_a_callback_for_an_attempt_before_the_one_on_offer() -> None:
    d = driver()
    (first,) = d.call("job.again").dispatches
    d.claim(first)
    assert d.tick(5 * S).dispatches  # its executor died after the call: the same key again
    assert statuses(d.receipt(first, "finished", result=b"{}")) == [("released", "")]


def test_a_job_reported_late_resolves_the_doubt() -> None:
    d = driver()
    (first,) = d.call("job.poll").dispatches
    d.claim(first)
    assert statuses(d.tick(60 * S)) == [("in_doubt", "call_in_doubt")]
    said = json.dumps({"completion": "poll", "job": "j"}).encode()
    assert statuses(d.receipt(first, "parked", result=said)) == [("parked", "parked")]
    assert d.tick(2 * S).dispatches[0].job == "j"


def test_a_parked_receipt_without_a_job_or_a_claim_is_noted() -> None:
    d = driver()
    (first,) = d.call("job.poll").dispatches
    said = json.dumps({"completion": "poll", "job": "j"}).encode()
    assert statuses(d.receipt(first, "parked", result=said)) == [("noted", "late")]
    d.claim(first)
    for bad in (b"{", b"[]", b'{"completion":"never","job":"j"}', b'{"completion":"poll","job":7}'):
        assert statuses(d.receipt(first, "parked", result=bad)) == [("noted", "late")]


def test_a_late_failure_of_the_call_says_nothing_of_its_job() -> None:
    d = driver()
    first = begun(d, "job.poll")
    assert statuses(d.receipt(first, "failed", error_class="timeout")) == [("noted", "late")]
    assert statuses(d.receipt(first, "failed", error_class="refused_by_tool")) == [
        ("failed", "refused_by_tool")
    ]


def test_looks_go_on_in_quarantine_and_when_the_contract_is_gone_it_is_in_doubt() -> None:
    d = driver()
    begun(d, "job.poll")
    d.control_event("quarantine.added", scope="agent", value=AGENT, why="stop")
    assert d.tick(2 * S).dispatches
    other = driver()
    begun(other, "job.poll")
    other.deploy(compile_release(release_files(edition="2")), now=True)
    assert statuses(other.tick(2 * S)) == [("in_doubt", "unknown_tool")]


def test_a_job_whose_receipt_was_erased_is_in_doubt() -> None:
    d = driver()
    begun(d, "job.poll")
    d.inputs["receipts"] = {}
    d.library = type(d.library)()
    assert statuses(d.tick(2 * S)) == [("in_doubt", "job_lost")]


def test_a_state_with_jobs_survives_a_snapshot() -> None:
    d = driver()
    begun(d, "job.poll")
    d.tick(2 * S)
    data = snapshot.encode(d.state)
    assert snapshot.encode(snapshot.decode(data)) == data


# -- lookups --------------------------------------------------------------------------------------------------------


def looked_up(d: Driver, tool: str = "look.up") -> r.Dispatch:
    (first,) = d.call(tool).dispatches
    d.claim(first)
    decision = d.tick(5 * S)
    (look,) = decision.dispatches
    assert statuses(decision) == [("parked", "")]
    assert (look.purpose, look.job, look.idempotency_key) == ("lookup", "", first.idempotency_key)
    return look


def test_a_queryable_call_without_a_receipt_is_looked_up_and_ends() -> None:
    d = driver()
    assert statuses(d.receipt(looked_up(d), "finished", result=b"{}")) == [("released", "")]


def test_a_queryable_call_that_left_no_trace_is_offered_again_with_the_same_key() -> None:
    d = driver()
    look = looked_up(d)
    assert statuses(d.receipt(look, "absent")) == [("parked", "")]
    decision = d.tick()
    (again,) = decision.dispatches
    assert statuses(decision) == [("dispatched", "")]
    assert (again.purpose, again.attempt, again.idempotency_key) == ("", 2, look.idempotency_key)
    d.claim(again)
    assert statuses(d.receipt(again, "finished", result=b"{}")) == [("released", "")]


def test_a_call_that_left_no_trace_when_it_is_too_late_did_not_happen() -> None:
    d = driver()
    look = looked_up(d)
    d.now += 290 * S
    d.receipt(look, "absent")
    assert statuses(d.tick(20 * S)) == [("failed", "not_found")]


def test_a_lookup_that_never_answers_leaves_it_in_doubt() -> None:
    d = driver()
    looked_up(d)
    assert [bool(d.tick(60 * S).dispatches) for _ in range(4)] == [True] * 4
    assert statuses(d.tick(60 * S)) == [("in_doubt", "job_lost")]


def test_absence_is_only_believed_of_a_lookup() -> None:
    d = driver()
    begun(d, "job.poll")
    (look,) = d.tick(2 * S).dispatches
    assert statuses(d.receipt(look, "absent")) == [("noted", "late")]


def resolve(d: Driver, verdict: str, intent_id: str) -> Decision:
    return d.feed("reviews", r.Resolution("x", AGENT, intent_id, verdict, PERSON, d.now))


def test_a_person_lets_the_tool_be_asked() -> None:
    d = driver()
    (first,) = d.call("look.pay").dispatches
    d.claim(first)
    assert statuses(d.tick(5 * S)) == [
        ("in_doubt", "call_in_doubt")
    ]  # by itself only `queryable` is looked up
    decision = resolve(d, "look_up", first.intent_id)
    assert statuses(decision) == [("parked", "")]
    (look,) = decision.dispatches
    assert look.purpose == "lookup"
    assert statuses(d.receipt(look, "absent")) == [("parked", "")]
    assert statuses(d.tick()) == [("failed", "not_found")]  # irreversible: never called again


def test_who_has_no_lookup_cannot_be_asked() -> None:
    d = driver()
    (first,) = d.call("desk.pay").dispatches
    d.claim(first)
    d.tick(60 * S)
    assert statuses(resolve(d, "look_up", first.intent_id)) == [("noted", "no_lookup")]


# -- keys -----------------------------------------------------------------------------------------------------------


def test_the_life_of_a_key() -> None:
    for tool, after in (("key.short", ("in_doubt", "call_in_doubt")), ("key.long", ("dispatched", ""))):
        d = driver()
        (first,) = d.call(tool).dispatches
        d.claim(first)
        assert statuses(d.tick(25 * S)) == [after]


def test_a_key_that_lives_is_used_again() -> None:
    d = driver()
    (first,) = d.call("key.short").dispatches
    d.claim(first)
    assert d.tick(5 * S).dispatches[0].idempotency_key == first.idempotency_key
    assert statuses(d.tick(30 * S)) == [
        ("in_doubt", "call_in_doubt")
    ]  # unclaimed, but the first one may have acted


def test_a_second_offer_nobody_takes_is_in_doubt() -> None:
    d = driver()
    (first,) = d.call("desk.set").dispatches
    d.claim(first)
    assert statuses(d.tick(10 * S)) == [("dispatched", "")]
    assert statuses(d.tick(600 * S)) == [("in_doubt", "call_in_doubt")]


# -- contracts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("governance", "executor", "said"),
    [
        ({"completion": "poll"}, {}, "needs `job`"),
        ({"completion": "poll"}, {"job": {"url": "http://x/{job}"}}, "needs `id` and `state`"),
        ({}, {"job": JOB}, "no meaning without"),
        ({"completion": "callback"}, {"kind": "python"}, "needs the executor kind `http`"),
        ({}, {"lookup": {"url": "http://x/1"}}, "`{key}`"),
        ({"completion": "poll", "heartbeat_s": 5}, {"job": JOB}, "`heartbeat_s` is below 27"),
        ({"completion": "poll"}, {"job": {**JOB, "done": "done"}}, "`job.done` is a list"),
        ({"completion": "poll"}, {"job": {**JOB, "done": []}}, "needs `done`"),
        ({"completion": "poll"}, {"job": {**JOB, "id": "id"}}, "`job.id` is no JSON pointer"),
    ],
)
def test_what_a_contract_cannot_mean(
    governance: dict[str, object], executor: dict[str, object], said: str
) -> None:
    text = contract("bad.job", "irreversible", governance, **executor)
    _, findings = build({**release_files(), "contracts/bad.json": text})
    assert any(said in f.sentence for f in findings), findings
