"""Recall: rules of a call look at what the session's earlier results said, and at nothing else."""

from __future__ import annotations

import json

import pytest
import yaml
from sluicegate.processors.guardrails import recall
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal

from tests.driver import AGENT, SESSION, Driver

ORDER = {"order": {"tools": ["shop.look"], "where": {"$.id": "id"}}}
PAID = {"id": "paid", "on": "call", "tools": ["shop.cancel"], "when": 'seen.order.state == "paid"'}
LOOKED = {"id": "looked", "on": "call", "tools": ["shop.cancel"], "when": "!has(seen.order)"}


def contract(name: str, kind: str = "http") -> str:
    return json.dumps(
        {
            "name": name,
            "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}}},
            "x-sluicegate": {"class": "read_only", "executor": {"kind": kind, "url": "http://t.invalid/"}},
        }
    )


def release(
    *rules: dict[str, object], recalls: dict[str, object] = ORDER, look: str = "http"
) -> CompiledRelease:
    manifest = {"name": "r", "version": "1", "recall": recalls, "guardrails": list(rules)}
    return compile_release(
        {
            "release.yaml": yaml.safe_dump(manifest),
            "policies/p.cedar": '@id("all") permit (principal, action, resource);',
            "contracts/a.json": contract("shop.look", look),
            "contracts/b.json": contract("shop.cancel"),
        }
    )


def driver(*rules: dict[str, object], **more: object) -> Driver:
    d = Driver()
    d.deploy(release(*rules, **more))  # type: ignore[arg-type]
    d.open_session()
    return d


def look(d: Driver, number: str, state: str, session: str = "session-1") -> None:
    result = json.dumps({"id": number, "state": state, "rows": [{"n": 1}]}).encode()
    d.finish(d.call("shop.look", {"id": number}, session=session).dispatches[0], result)


def last(decision: Decision) -> tuple[str, str]:
    return decision.outcomes[-1].status, decision.outcomes[-1].reason


def test_the_newest_result_that_fits_counts() -> None:
    d = driver(LOOKED, PAID)
    assert last(d.call("shop.cancel", {"id": "1"})) == ("refused", "guardrail")
    look(d, "1", "open")
    look(d, "2", "paid")
    assert last(d.call("shop.cancel", {"id": "1"})) == ("dispatched", "")
    look(d, "1", "paid")
    refused = d.call("shop.cancel", {"id": "1"})
    assert (last(refused), refused.outcomes[-1].policies) == (("refused", "guardrail"), ["paid"])
    look(d, "1", "open")
    assert last(d.call("shop.cancel", {"id": "1"})) == ("dispatched", "")
    assert last(d.call("shop.cancel")) == ("refused", "guardrail")  # an argument that is absent fits nothing


def test_what_was_not_seen_cannot_be_named_without_asking() -> None:
    d = driver(PAID)
    assert last(d.call("shop.cancel", {"id": "1"})) == ("refused", "guardrail_error")


def test_another_session_saw_nothing() -> None:
    d = driver(LOOKED)
    look(d, "1", "open")
    d.open_session("other")
    assert last(d.call("shop.cancel", {"id": "1"}, session="other")) == ("refused", "guardrail")


def test_all_are_a_list_oldest_first() -> None:
    every = {"orders": {"tools": ["shop.*"], "take": "all"}}
    rule = {**PAID, "when": 'seen.orders.map(o, o.state) != ["a", "b"]'}
    d = driver(rule, recalls=every)
    assert last(d.call("shop.cancel")) == ("refused", "guardrail")
    look(d, "1", "a")
    look(d, "2", "b")
    assert last(d.call("shop.cancel")) == ("dispatched", "")


def test_what_the_agent_ran_is_not_recalled() -> None:
    d = driver(LOOKED, look="in_process")
    o = d.call("shop.look", {"id": "1"}).outcomes
    result = b'{"id":"1","state":"open"}'
    done = r.Receipt(
        o[-2].event_id, o[0].origin.intent_id, AGENT, SESSION, "finished", 1, "a", d.now, d.now, result
    )
    assert d.feed("intents", done).outcomes[-1].status == "released"
    assert last(d.call("shop.cancel", {"id": "1"})) == ("refused", "guardrail")


def test_what_was_erased_is_not_recalled() -> None:
    d = driver(LOOKED)
    look(d, "1", "open")
    d.library = type(d.library)()
    d.inputs["receipts"].clear()
    assert last(d.call("shop.cancel", {"id": "1"})) == ("refused", "guardrail")


def test_it_is_decided_again_alike_from_the_ledger() -> None:
    d = driver(LOOKED, PAID)
    for state in ("open", "paid"):
        look(d, "1", state)
        d.call("shop.cancel", {"id": "1"})
    again = Rederive(d.partition, d.controls, d.keys.open)
    for record in d.records:
        again.add(*record)
    tally = again.finish()
    assert (tally.differences, tally.same) == ([], tally.inputs - 1)


def test_only_the_newest_results_are_looked_at() -> None:
    d = driver(LOOKED)
    look(d, "1", "open")
    for _ in range(recall.MAX_RECALLED):
        look(d, "2", "open")
    assert last(d.call("shop.cancel", {"id": "1"})) == ("refused", "guardrail")
    assert last(d.call("shop.cancel", {"id": "2"})) == ("dispatched", "")


@pytest.mark.parametrize(
    ("rule", "recalls", "said"),
    [
        ({**PAID, "when": "has(seen.ordre)"}, ORDER, "uses `seen.ordre`, and `recall` in `release.yaml` has order"),
        ({**PAID, "when": "size(seen) > 0"}, ORDER, "uses `seen.?`"),
        ({**PAID, "when": "has(seen.order)"}, {}, "has nothing"),
        (PAID, {"order": {"tools": ["shop.lok"]}}, "recall `order` is of `shop.lok`, and no contract has such a name"),
        (PAID, {"the order": {"tools": ["shop.look"]}}, "cannot be written as `seen.the order`"),
        (PAID, {"order": {"tools": ["shop.look"], "where": {"$..id": "id"}}}, "is not of the form"),
        ({"id": "r", "on": "result", "when": "has(seen.order)"}, ORDER, "uses `seen`, which is not one of"),
    ],
)  # fmt: skip
def test_a_recall_that_cannot_work_is_refused(
    rule: dict[str, object], recalls: dict[str, object], said: str
) -> None:
    with pytest.raises(Terminal, match=r"release\.yaml") as raised:
        release(rule, recalls=recalls)
    assert said in str(raised.value)
