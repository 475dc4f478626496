"""Intents as spans: OpenTelemetry's names, ids that follow from the ledger's, and nothing of what was said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.trace import SpanKind, StatusCode
from sluicegate.processors.replay.spans import Span
from sluicegate.schemas.errors import Retryable
from sluicegate.streams.inspect import otel
from sluicegate.streams.inspect.find import LedgerEvent, decode

from tests.driver import AGENT, Driver
from tests.unit.test_attempts import SMALL, answer, ask, next_of
from tests.unit.test_attempts import driver as routed

TRACE = "a" * 32
KNOWN = {value for name, value in vars(names).items() if name.startswith("GEN_AI_")}


def of(driver: Driver, intent: str) -> list[Span]:
    """An intent's spans."""
    events: list[LedgerEvent] = [decode(0, x.offset, x.value) for x in driver.records]
    return otel.spans_of([e for e in events if e.header.intent_id == intent], driver.keys.open)


@pytest.fixture
def driver() -> Driver:
    """A ledger with a session open."""
    made = Driver()
    made.open_session()
    return made


def test_a_tool_call_is_a_span_with_its_hops(driver: Driver) -> None:
    [dispatch] = driver.call("desk.pay", {"value": "secret-7"}).dispatches
    driver.finish(dispatch, b'{"ok":"secret-8"}')
    whole, *hops = of(driver, dispatch.intent_id)
    assert (whole.name, whole.parent_id, whole.error) == ("execute_tool desk.pay", "", "")
    said = whole.attributes
    assert (said["gen_ai.operation.name"], said["gen_ai.tool.name"]) == ("execute_tool", "desk.pay")
    assert (said["gen_ai.tool.call.id"], said["gen_ai.agent.id"]) == (dispatch.intent_id, AGENT)
    assert (said["gen_ai.conversation.id"], said["sluicegate.intent.state"]) == ("session-1", "released")
    assert said["sluicegate.policies"] == ["desk-use"]
    assert [hop.name for hop in hops] == ["decide", "wait to be claimed", "attempt 1"]
    assert {hop.parent_id for hop in hops} == {whole.span_id} and {hop.trace_id for hop in hops} == {
        whole.trace_id
    }
    assert all(span.start <= span.end for span in (whole, *hops))
    assert "secret" not in repr([whole, *hops])
    assert of(driver, dispatch.intent_id) == [whole, *hops]  # the same ids, however often


def test_calls_of_a_session_share_a_trace_and_a_traceparent_wins(driver: Driver) -> None:
    one, two = (driver.call("desk.read").dispatches[0].intent_id for _ in range(2))
    assert of(driver, one)[0].trace_id == of(driver, two)[0].trace_id
    assert of(driver, one)[0].span_id != of(driver, two)[0].span_id
    intent = replace(driver.intent("desk.read"), traceparent=f"00-{TRACE}-{'b' * 16}-01")
    driver.feed("intents", intent)
    whole = of(driver, intent.intent_id)[0]
    assert (whole.trace_id, whole.parent_id) == (TRACE, "b" * 16)
    driver.keys.destroyed.add("person-1")  # erased: what the agent named is gone, the session's stays
    assert of(driver, intent.intent_id)[0].trace_id == of(driver, one)[0].trace_id


def test_a_refusal_is_an_error_by_its_reason(driver: Driver) -> None:
    refused = driver.call("desk.pay", {"value": "no"}).outcomes[-1].origin.intent_id
    whole, *_ = of(driver, refused)
    assert (whole.error, whole.attributes["sluicegate.intent.state"]) == ("forbidden", "refused")


def test_a_model_call_says_what_was_asked_and_what_served() -> None:
    d = routed()
    first = ask(d)
    d.receipt(next_of(d, first, "overload"), "finished", result=answer(SMALL))
    whole, *hops = of(d, first.intent_id)
    said = whole.attributes
    assert (whole.name, said["gen_ai.operation.name"], said["gen_ai.request.model"]) == (
        "chat triage",
        "chat",
        "triage",
    )
    assert (
        said["gen_ai.response.model"],
        said["gen_ai.usage.input_tokens"],
        said["gen_ai.usage.output_tokens"],
    ) == (SMALL, 3, 2)
    assert [hop.attributes.get("sluicegate.asked") for hop in hops if hop.name.startswith("attempt")] == [
        SMALL
    ]


def test_every_gen_ai_name_is_one_of_the_conventions(driver: Driver) -> None:
    d = routed()
    first = ask(d)
    d.receipt(first, "finished", result=answer(SMALL))
    tool = driver.call("desk.read").dispatches[0].intent_id
    used = {name for span in (*of(d, first.intent_id), *of(driver, tool)) for name in span.attributes}
    assert {name for name in used if name.startswith("gen_ai.")} <= KNOWN
    assert all(name.startswith(("gen_ai.", "sluicegate.")) for name in used)


def test_what_is_exported_is_what_was_said(driver: Driver) -> None:
    refused = driver.call("desk.pay", {"value": "no"}).outcomes[-1].origin.intent_id
    found = of(driver, refused)
    to = InMemorySpanExporter()
    assert otel.export(to, found, "prod") == len(found) == len(to.get_finished_spans())
    whole, hop = to.get_finished_spans()[:2]
    assert whole.context is not None and hop.parent is not None and whole.attributes is not None
    assert format(whole.context.trace_id, "032x") == found[0].trace_id
    assert hop.parent.span_id == whole.context.span_id and whole.parent is None
    assert (whole.status.status_code, whole.kind, whole.attributes["error.type"]) == (
        StatusCode.ERROR,
        SpanKind.INTERNAL,
        "forbidden",
    )
    assert (whole.start_time, whole.end_time) == (found[0].start * 1_000, found[0].end * 1_000)
    assert whole.resource.attributes["deployment.environment.name"] == "prod"
    to.shutdown()
    with pytest.raises(Retryable, match="did not take spans"):
        otel.export(to, found, "prod")


def test_what_asks_for_nothing_is_no_span(driver: Driver) -> None:
    opened = decode(0, driver.records[1].offset, driver.records[1].value)
    assert otel.spans_of([opened], driver.keys.open) == []
