"""The scheduled sample: when it is due, what it publishes, and that anything under 100 % is an alarm, once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.alarm_events import SAMPLED, SENTINEL, may_act
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.processors.replay.reproduce_alarm import Sampled, irreproducible
from sluicegate.processors.verify.reading import split
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import ControlFacts
from sluicegate.streams.replay.reproduce_watch import ReproduceWatch, every_s, process

from tests.driver import T0, Driver

HOUR_US = 3_600_000_000


class Stand:
    """A watch with a clock, a control ledger and answers of its own."""

    def __init__(self, *answers: tuple[int, object], partitions: int = 2) -> None:
        self.now, self.answers, self.asked = T0, list(answers), []  # type: ignore[var-annotated]
        self.driver = Driver(partitions=partitions)
        self.proposed: list[str] = []
        self.watch = ReproduceWatch(
            lambda: self.driver.control, self.propose, run=self.run, clock=lambda: self.now, every=3_600
        )

    async def run(self, arguments: list[str]) -> tuple[int, bytes, bytes]:
        self.asked.append(arguments)
        code, said = self.answers.pop(0)
        return code, json.dumps(said).encode(), b"sluicegate: it broke"

    async def propose(self, events: list[Event], why: str, head: int) -> Control:
        assert head == self.driver.control.head
        for kind, body in events:
            self.driver.now = self.now
            self.driver.control_event(kind, who="sentinel", **body)
        self.proposed.append(why)
        return self.driver.control

    def look(self, hours: int = 1) -> Sampled | None:
        self.now += hours * HOUR_US
        return asyncio.run(self.watch.look())


def said(share: float = 1.0, **counts: int) -> dict[str, object]:
    row = {"verdict": "DIFFERENT", "input": "intents/1/7", "field": "facts.timeout_ms", "cause": "facts"}
    return {"share": share, "counts": counts, "inputs": [row] if "DIFFERENT" in counts else []}


def test_it_looks_once_an_hour_partition_by_partition() -> None:
    stand = Stand((0, said(SAME=20)), (0, said(SAME=3)), (0, said(SAME=20)))
    assert asyncio.run(stand.watch.look()) is None
    assert stand.watch.metrics().get("sluicegate_reproduce_share") is None
    assert stand.look() is not None and asyncio.run(stand.watch.look()) is None
    stand.look()
    stand.look()
    assert [a[a.index("--partition") + 1] for a in stand.asked] == ["0", "1", "0"]
    assert len({a[a.index("--seed") + 1] for a in stand.asked}) == 3
    assert stand.driver.control.alarms == {} and stand.proposed[2] == (
        "of a sample of partition 0 100.00 % of the intents are reproducible"
    )
    assert stand.watch.metrics() == {
        "sluicegate_reproduce_looks_total": 3, "sluicegate_reproduce_failed_total": 0, "sluicegate_reproduce_sampled_total": 43,
        "sluicegate_reproduce_same_total": 43, "sluicegate_reproduce_share": 1.0,
    }  # fmt: skip


def test_each_sample_is_an_event_of_control_that_changes_nothing() -> None:
    """For analysts (`reproducible` in ClickHouse). An empty period is none."""
    stand = Stand((0, said(SAME=19, ERASED=1)), (0, said()))
    before = stand.driver.control
    stand.look()
    facts = codec.decode(split(stand.driver.control_records[-1].value).facts)
    assert isinstance(facts, ControlFacts) and facts.kind == SAMPLED
    body = json.loads(facts.body)
    assert (body["partition"], body["counts"], body["share_ppm"]) == (0, {"ERASED": 1, "SAME": 19}, 1_000_000)
    after = stand.driver.control
    assert replace(after, head=before.head, at=before.at) == before
    assert not may_act(before, SENTINEL, SAMPLED, body)  # nothing against it
    stand.look()
    assert stand.driver.control.head == after.head


@pytest.mark.parametrize("bad", ["DIFFERENT", "ENGINE_MISSING", "EXPIRED", "ENGINE_FAILED"])
def test_under_100_percent_is_an_alarm_that_tells_how_to_see_it_again(bad: str) -> None:
    stand = Stand((1 if bad == "DIFFERENT" else 4, said(0.95, SAME=19, **{bad: 1})))
    stand.look()
    [alarm] = stand.driver.control.alarms.values()
    assert (alarm.rule, alarm.action, alarm.open) == ("reproduce", "notify", True)
    assert f"95.00 % of the intents are reproducible (1 {bad})" in stand.proposed[0]
    assert ("intents/1/7: facts.timeout_ms, facts" in stand.proposed[0]) is (bad == "DIFFERENT")
    assert stand.watch.metrics()["sluicegate_reproduce_share"] == 0.95


def test_one_alarm_within_its_cool_down() -> None:
    control = Driver().control
    one = Sampled("s", 0, T0, T0 + 1, 20, 0.5, {"SAME": 1, "DIFFERENT": 1})
    [(kind, body)] = irreproducible(control, one, T0)
    driver = Driver()
    driver.control_event(kind, who="sentinel", **body)
    again = Sampled("t", 0, T0, T0 + 2, 20, 0.5, {"SAME": 1, "DIFFERENT": 1})
    assert irreproducible(driver.control, again, driver.control.at + 1) == []
    assert irreproducible(driver.control, again, driver.control.at + 2 * HOUR_US)
    assert (
        irreproducible(driver.control, Sampled("s", 0, T0, T0, 20, 1.0, {"SAME": 1, "ERASED": 3}), T0) == []
    )


@pytest.mark.parametrize("answer", [(3, {}), (0, []), (0, {"counts": {}}), (4, "x")])
def test_a_sample_that_failed_is_counted_and_says_nothing(answer: tuple[int, object]) -> None:
    stand = Stand(answer)
    assert stand.look() is None
    assert (stand.watch.metrics()["sluicegate_reproduce_failed_total"], stand.proposed) == (1, [])


def test_how_often_is_a_number_of_seconds() -> None:
    assert (every_s({}), every_s({"SLUICEGATE_REPRODUCE_EVERY_S": "60"})) == (3_600.0, 60.0)
    stand = Stand()
    stand.watch = ReproduceWatch(lambda: stand.driver.control, stand.propose, run=stand.run, every=0)
    assert stand.look(1_000) is None
    for text in ("soon", "-1", "inf", "nan"):
        with pytest.raises(Terminal, match="no number of seconds"):
            every_s({"SLUICEGATE_REPRODUCE_EVERY_S": text})


def test_the_process_is_the_command_line() -> None:
    code, out, err = asyncio.run(process(["reproduce"]))
    assert (code, out) == (2, b"") and b"say what to reproduce" in err
