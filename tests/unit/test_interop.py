"""Other people's cases: RFC 8785's vectors for what we hash, CloudEvents' Kafka cases for what we write into headers."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
import rfc8785
from sluicegate.executors.reports import packed
from sluicegate.processors.conform import Misfit, parse
from sluicegate.schemas import records as r
from sluicegate.streams.transactions import CLOUDEVENTS_VERSION, cloud_event

VECTORS = Path(__file__).parents[1] / "vectors"
JCS = json.loads((VECTORS / "jcs.json").read_text("utf-8"))
CASES = json.loads((VECTORS / "cloudevents_kafka.json").read_text("utf-8"))
REQUIRED = {"id", "source", "specversion", "type"}


@pytest.mark.parametrize("name", sorted(JCS))
def test_canonical_json_is_that_of_rfc_8785(name: str) -> None:
    value, wanted = orjson.loads(JCS[name]["input"]), JCS[name]["output"].encode()
    assert rfc8785.dumps(value) == wanted
    assert rfc8785.dumps(orjson.loads(wanted)) == wanted


def parsed(headers: list[tuple[str, bytes]], value: bytes) -> tuple[dict[str, str], object]:
    """Attributes and data of a Kafka record, by the CloudEvents Kafka protocol binding 1.0.2, sections 3.2 and 3.3."""
    said = {name.lower(): text.decode() for name, text in headers}
    kind = said.get("content-type", "")
    if kind.startswith("application/cloudevents"):
        event = json.loads(value)
        data = event.pop("data")
        return event, data
    attributes = {name.removeprefix("ce_"): text for name, text in said.items() if name.startswith("ce_")}
    if kind:
        attributes["datacontenttype"] = kind
    return attributes, json.loads(value) if kind == "application/json" else value


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["scenario"])
def test_the_reader_of_this_test_passes_the_conformance_cases(case: dict[str, object]) -> None:
    headers = [(name, text.encode()) for name, text in case["headers"].items()]  # type: ignore[attr-defined]
    assert parsed(headers, case["payload"].encode()) == (case["attributes"], case["data"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(set(JCS) - {"arrays"}))
def test_arguments_are_hashed_as_rfc_8785_writes_them(name: str) -> None:
    """Arguments are an object: the arrays' vector is refused, by the same rule that makes the others canonical."""
    found = parse(JCS[name]["input"].encode())
    assert not isinstance(found, Misfit)
    assert found[1] == JCS[name]["output"].encode()


def _written() -> dict[str, tuple[list[tuple[str, bytes]], bytes]]:
    receipt = r.Receipt(b"d" * 16, "i", "a", "s", "finished", 1, "x", 1, 2)
    value, headers = packed(
        receipt, b"/sluicegate/t/executor", None, "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    )
    return {
        "receipt": (list(headers), value),
        "outcome": (
            list(cloud_event(b"e" * 16, b"/sluicegate/t/ledger", b"ai.sluicegate.outcome")),
            b"\xc3\x01",
        ),
    }


@pytest.mark.parametrize("name", sorted(_written()))
def test_our_headers_are_binary_mode_as_the_cases_have_it(name: str) -> None:
    headers, value = _written()[name]
    attributes, data = parsed(headers, value)
    assert attributes.keys() >= REQUIRED and all(attributes[name] for name in REQUIRED)
    assert attributes["specversion"] == CLOUDEVENTS_VERSION.decode() == "1.0"
    assert (attributes["datacontenttype"], data) == ("application/avro", value)
    assert all(
        name == name.lower() and name.removeprefix("ce_").isalnum()
        for name, _ in headers
        if name.startswith("ce_")
    )
