"""Arguments: canonical bytes as RFC 8785 says, Cedar's types as the contract says, and never an exception."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors import conform as c
from sluicegate.processors.releases.shapes import shape_of

SAFE = c.MAX_SAFE_INTEGER
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
LEAF = st.one_of(
    st.none(), st.booleans(), TEXT, st.integers(-SAFE, SAFE), st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=15
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)


def same(mine: object, theirs: object) -> bool:
    """Equal as JSON: 1 and 1.0 are one number, true is not 1."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(same(mine[k], theirs[k]) for k in mine)
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if isinstance(mine, int | float) and isinstance(
        theirs, int | float
    ):  # 1e17 is written without an exponent
        return isinstance(mine, bool) is isinstance(theirs, bool) and float(mine) == float(theirs)
    return type(mine) is type(theirs) and mine == theirs


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_canonical_bytes_are_rfc8785s_however_the_object_was_written(
    value: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    parsed = c.parse(raw)
    assert not isinstance(parsed, c.Misfit), parsed
    assert parsed[1] == rfc8785.dumps(value)
    assert same(json.loads(parsed[1]), value)


@given(st.dictionaries(TEXT, st.integers(-(2**70), 2**70), min_size=1, max_size=3))
def test_an_integer_without_a_canonical_form_is_refused_not_rounded(value: dict[str, int]) -> None:
    parsed = c.parse(json.dumps(value).encode())
    if all(-SAFE <= v <= SAFE for v in value.values()):
        assert not isinstance(parsed, c.Misfit)
        assert parsed[0] == value
    else:
        # Beyond 64 bits the reader makes a float of it: it must still never come out as another integer.
        assert isinstance(parsed, c.Misfit) or any(isinstance(v, float) for v in parsed[0].values())
        if isinstance(parsed, c.Misfit):
            assert parsed.reason in ("not_representable", "arguments_not_json")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "duplicate_key"),
        (b'{"a":NaN}', "arguments_not_json"),
        (b'{"a":Infinity}', "arguments_not_json"),
        (b'{"a":"\\ud800"}', "arguments_not_json"),
        (b'{"a":"\xff"}', "arguments_not_json"),
        (b"[]", "arguments_not_json"),
        (b"null", "arguments_not_json"),
        (b"", "arguments_not_json"),
        (b'{"a":1}x', "arguments_not_json"),
        (b'{"a":9007199254740992}', "not_representable"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "arguments_too_deep"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "arguments_too_deep"),
    ],
)
def test_what_is_no_canonical_object_is_refused(raw: bytes, reason: str) -> None:
    parsed = c.parse(raw)
    assert isinstance(parsed, c.Misfit)
    assert parsed.reason == reason


def test_64_levels_pass() -> None:
    assert not isinstance(c.parse(b'{"a":' * 64 + b'"x"' + b"}" * 64), c.Misfit)
    assert isinstance(c.parse(b'{"a":' * 65 + b'"x"' + b"}" * 65), c.Misfit)


# -- Cedar's types ----------------------------------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": True,
    "$defs": {"amount": {"type": "number"}},
    "properties": {
        "count": {"type": "integer"},
        "amount": {"$ref": "#/$defs/amount"},
        "name": {"type": "string"},
        "flag": {"type": "boolean"},
        "maybe": {"type": ["number", "null"]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "list": {"type": "array", "items": {"type": "number"}},
        "inner": {"type": "object", "properties": {"n": {"type": "integer"}}},
    },
}
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
TYPER = c.compile_typer(shape_of(SCHEMA))


def decimal(text: str) -> dict[str, Any]:
    return {"__extn": {"fn": "decimal", "arg": text}}


@pytest.mark.parametrize(
    ("args", "typed"),
    [
        ({"count": 5}, {"count": 5}),
        ({"count": 5.0}, {"count": 5}),  # JSON Schema's integer
        ({"amount": 5}, {"amount": decimal("5.0")}),  # a number is a decimal, however it is written
        ({"amount": 5.25}, {"amount": decimal("5.25")}),
        ({"amount": -0.0001}, {"amount": decimal("-0.0001")}),
        ({"amount": 1e3}, {"amount": decimal("1000.0")}),
        ({"name": "5"}, {"name": "5"}),
        ({"flag": True}, {"flag": True}),
        ({"maybe": 1}, {"maybe": decimal("1.0")}),
        ({"maybe": None}, {}),  # null vanishes: `has` is the question
        ({"either": 3}, {"either": 3}),
        ({"either": None}, {}),
        ({"list": [1, 2.5]}, {"list": [decimal("1.0"), decimal("2.5")]}),
        ({"inner": {"n": 1, "undeclared": "x"}}, {"inner": {"n": 1}}),
        ({"undeclared": {"__entity": {"type": "Role", "id": "admin"}}}, {}),  # no argument becomes an entity
    ],
)
def test_values_get_the_type_their_schema_names(args: dict[str, Any], typed: dict[str, Any]) -> None:
    found = c.conform(VALIDATOR, TYPER, json.dumps(args).encode())
    assert isinstance(found, c.Conformed), found
    assert found.cedar == typed
    assert json.dumps(found.cedar) == json.dumps(typed)  # 5 is not 5.0 here


@pytest.mark.parametrize(
    "args", [{"amount": 0.00001}, {"amount": 1e15}, {"amount": 922337203685477.6}, {"list": [1e300]}]
)
def test_a_number_cedar_cannot_hold_is_refused(args: dict[str, Any]) -> None:
    found = c.conform(VALIDATOR, TYPER, json.dumps(args).encode())
    assert isinstance(found, c.Misfit)
    assert found.reason == "not_representable"


@given(st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_exact_or_refused(value: float) -> None:
    try:
        text = c.cedar_decimal(value)["__extn"]["arg"]  # type: ignore[index]
    except c.NotRepresentable:
        assert abs(value) > 9e14 or not math.isclose(round(value, 4), value, rel_tol=0, abs_tol=0)
        return
    assert Decimal(text) == Decimal(repr(value))
    assert len(text.partition(".")[2]) in range(1, 5)


def entities_in(typed: object) -> bool:
    """Whether a typed value holds an escape that Cedar would read as an entity or a function of the caller's choice."""
    if isinstance(typed, dict):
        for key, value in typed.items():
            if key == "__extn":
                return value.get("fn") != "decimal"
            if key.startswith("__") or entities_in(value):
                return True
    return isinstance(typed, list) and any(map(entities_in, typed))


ESCAPES = st.dictionaries(
    st.sampled_from(["__entity", "__extn", "__expr", "type", "id", "fn", "arg"]), JSON, max_size=3
)
OPEN = c.compile_typer(shape_of({"type": "object"}))


@given(st.dictionaries(TEXT, JSON | ESCAPES | st.lists(ESCAPES, max_size=2), max_size=4))
def test_no_argument_becomes_an_entity_or_a_function(value: dict[str, Any]) -> None:
    for typer in (OPEN, TYPER):
        found = c.conform(jsonschema_rs.validator_for({}), typer, json.dumps(value).encode()) if typer is OPEN else (
            c.conform(VALIDATOR, typer, json.dumps(value).encode())
        )  # fmt: skip
        if isinstance(found, c.Conformed):
            assert not entities_in(found.cedar)


RAW = st.one_of(
    st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")),
    OBJECTS.map(lambda o: json.dumps(o).encode()), st.builds(lambda o, at: json.dumps(o).encode()[:at], OBJECTS, st.integers(0, 200)),
    st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), JSON, max_size=4).map(lambda o: json.dumps(o).encode()),
)  # fmt: skip


@given(RAW)
def test_it_never_raises(raw: bytes) -> None:
    found = c.conform(VALIDATOR, TYPER, raw)
    assert isinstance(found, c.Conformed | c.Misfit)
    if isinstance(found, c.Conformed):
        assert same(json.loads(found.canonical), found.args)
