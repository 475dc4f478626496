"""What attempts cost, on the ledger: models and tools, under a budget or not, answered or failed."""

from __future__ import annotations

import json

import orjson
import pytest
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.processors.replay.account import account
from sluicegate.processors.replay.rederive import Rederive
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, agents, read
from tests.unit import test_attempts, test_budgets
from tests.unit.test_verify import verify

ROWS = "spend: true\nprices: {model.small: {input_per_mtok: 1000000, output_per_mtok: 2000000}}\n"


def driver(rows: str = ROWS) -> Driver:
    """A route of three models, one of which has a price, and tools that cost something."""
    tools = {k: v for k, v in test_budgets.files("").items() if k.startswith(("contracts/", "policies/cost"))}
    files = test_attempts.files(None, test_attempts.PERMIT, None, rows)
    files = {**tools, **files}
    d = Driver()
    row = next(row for row in agents() if row["agent_id"] == AGENT)
    d.control_event("agents.registered", agents=[{**row, "team": "desk"}])
    d.deploy(compile_release(files))
    d.open_session()
    return d


def costs(d: Driver) -> list[r.SpendFacts]:
    rederived = Rederive(d.partition, d.controls, d.keys.open)
    for record in d.records:
        rederived.add(record.offset, record.value)
    assert rederived.finish().different == 0
    written = (codec.decode_as(r.Outcome, record.value) for record in d.records)
    return [facts for one in written if isinstance(facts := codec.decode(one.facts), r.SpendFacts)]


def traffic(d: Driver) -> None:
    """A fallback, an answer by the small model, three tools: with a cost, without a word of it, and free."""
    first = test_attempts.ask(d)
    second = test_attempts.next_of(d, first, "timeout")
    d.finish(second, test_attempts.answer("small-2026-10"))
    d.finish(d.call("cost.read").dispatches[0], orjson.dumps({"ok": True, "cost": 7}))
    d.finish(d.call("cost.pay").dispatches[0], b'{"ok":true}')
    d.finish(d.call("desk.read").dispatches[0], b'{"ok":true}')
    d.call("desk.never")


SPENT = [
    ("desk", AGENT, "cost.pay", "cost.pay", "", 1, None, 100, 0),
    ("desk", AGENT, "cost.read", "cost.read", "", 1, None, 7, 0),
    ("desk", AGENT, "desk.read", "", "", 1, None, None, 1),
    ("desk", AGENT, "triage", "model.large", "model.large", 1, None, None, 1),
    ("desk", AGENT, "triage", "model.small", "small-2026-10", 1, 5, 7, 0),
]
"""The view's rows of that traffic: team, agent, tool, candidate, model, calls, tokens, micro-units, calls without money."""


def test_every_reported_attempt_says_what_it_cost() -> None:
    d = driver()
    traffic(d)
    assert [(c.contract, c.model, c.money, c.input_tokens, c.output_tokens) for c in costs(d)] == [
        ("model.large", "model.large", -1, -1, -1),  # failed: nobody knows
        ("model.small", "small-2026-10", 3 * 1 + 2 * 2, 3, 2),
        ("cost.read", "", 7, -1, -1),
        ("cost.pay", "", 100, -1, -1),  # it did not say: its bound
    ]
    assert verify(d).names == set()


def test_what_was_not_sent_or_came_late_cost_nothing_that_is_known() -> None:
    d = driver()
    asked = d.call("cost.pay").dispatches[0]
    d.claim(asked)
    d.receipt(asked, "failed", error_class="unreachable", error="no route", sent=False)
    read = d.call("cost.read").dispatches[0]
    d.finish(read, b'{"ok":true,"cost":5}')
    d.finish(read, b'{"ok":true,"cost":5}')  # answered twice
    assert [c.money for c in costs(d)] == [5]


def test_numbers_that_mean_nothing_are_unknown() -> None:
    d = driver()
    for usage in ({"input_tokens": -5, "output_tokens": 2}, {"input_tokens": 2**70}, "much", None):
        asked = test_attempts.ask(d)
        d.finish(
            test_attempts.next_of(d, asked, "timeout"), json.dumps({"text": "x", "usage": usage}).encode()
        )
    said = [c for c in costs(d) if c.contract == "model.small"]
    assert len(said) == 4 and {c.money for c in said} == {-1}


def test_without_a_word_of_it_nothing_is_recorded() -> None:
    d = driver("")
    traffic(d)
    assert costs(d) == []


def test_prices_without_it_are_a_warning() -> None:
    files = test_budgets.files(ROWS.replace("spend: true\n", "").replace("model.small", "ask"))
    said = [f for f in build(files)[1] if f.rule == "spend"]
    assert [f.severity for f in said] == ["warning"] and "spend: true" in said[0].sentence


@pytest.mark.parametrize("rows", [ROWS, ""])
def test_an_answer_is_counted_once(rows: str) -> None:
    """`explain` says as many tokens as the server counted, whether the release records what was spent or not."""
    d = driver(rows)
    second = test_attempts.next_of(d, test_attempts.ask(d), "timeout")
    d.finish(second, test_attempts.answer("small-2026-10"))
    events = [read(record) for record in d.records]
    made = account((e.header, e.facts) for e in events if e.header.intent_id == second.intent_id)
    assert (made.input_tokens, made.output_tokens) == (3, 2)
