"""Structs, Avro files, topics and reason codes name the same things; the wire format is the one that was released."""

from __future__ import annotations

import ast
import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from sluicegate.processors import work
from sluicegate.schemas import codec, records, topics
from sluicegate.schemas.reasons import REASONS
from sluicegate.streams import cli

from tests.golden import make

ROOT = Path(__file__).parents[2]
AVRO = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted((ROOT / "schemas" / "avro").glob("*.avsc"))
}
PYTHON: dict[str, object] = {
    "string": str,
    "bytes": bytes,
    "int": int,
    "long": int,
    "boolean": bool,
    "fixed": bytes,
}


def python_type(avro: object) -> object:
    """The struct's type of an Avro type."""
    if isinstance(avro, list):
        assert avro[0] == "null" and len(avro) == 2, "the compiled encoder knows [null, T] only"
        return typing.cast(type, python_type(avro[1])) | None
    if isinstance(avro, dict):
        return types.GenericAlias(list, (python_type(avro["items"]),)) if avro["type"] == "array" else python_type(avro["type"])  # fmt: skip
    return PYTHON.get(str(avro), bytes)  # a named fixed


# -- structs and schemas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVRO)
def test_a_struct_has_its_schemas_fields_types_and_defaults(name: str) -> None:
    avro = AVRO[name]
    cls = getattr(records, avro["name"])
    hints = typing.get_type_hints(cls)
    assert [f.name for f in dataclasses.fields(cls)] == [f["name"] for f in avro["fields"]]
    assert {n: hints[n] for n in hints} == {f["name"]: python_type(f["type"]) for f in avro["fields"]}
    for mine, theirs in zip(dataclasses.fields(cls), avro["fields"], strict=True):
        if "default" not in theirs:
            assert mine.default is mine.default_factory is dataclasses.MISSING, mine.name
        elif mine.default_factory is not dataclasses.MISSING:
            assert mine.default_factory() == theirs["default"]
        else:
            default = theirs["default"]
            if isinstance(mine.default, bytes):  # Avro writes bytes as the text of the same code points
                default = default.encode("latin-1")
            assert mine.default == default, mine.name


@pytest.mark.parametrize("name", AVRO)
def test_a_schema_is_documented_and_its_name_fits_its_file(name: str) -> None:
    avro = AVRO[name]
    assert avro["namespace"] == "ai.sluicegate"
    assert "".join(part.title() for part in name.split("_")) == avro["name"]
    assert avro["doc"] and all(f.get("doc") for f in avro["fields"])


def test_every_struct_has_a_schema() -> None:
    structs = {c for c in vars(records).values() if dataclasses.is_dataclass(c)}
    assert {s.cls for s in codec.SCHEMAS.values()} == structs
    assert set(codec.NAMES) == set(AVRO)


# -- topics -----------------------------------------------------------------------------------------------------------


def test_topics_accept_schemas_that_exist_from_roles_that_may_write() -> None:
    for topic in topics.TOPICS:
        for schema, signers in topic.accepts:
            assert schema in codec.SCHEMAS, (topic.name, schema)
            assert signers and set(signers) <= set(topic.writers), (topic.name, schema)
    accepting = {t.name for t in topics.TOPICS if t.accepts}
    assert accepting == set(topics.INPUTS)
    assert "pipeline" in set(topics.BY_NAME["outcomes"].writers) & set(topics.BY_NAME["intents"].readers)


def test_only_snapshots_forget_and_the_ledgers_are_kept_for_ever() -> None:
    assert [t.name for t in topics.TOPICS if t.compacted] == ["snapshots"]
    assert {t.name for t in topics.TOPICS if t.retention_ms == -1} == {
        "outcomes", "control", "releases", "snapshots", "checkpoints",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "hash_"),
    # The vectors of Apache Kafka's own test of Utils.murmur2, unsigned.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
     (b"abc", 479470107)],
)  # fmt: skip
def test_murmur2_is_kafkas(key: bytes, hash_: int) -> None:
    assert topics.murmur2(key) == hash_ % 2**32
    assert topics.partition_of(key.decode(), 12) == ((hash_ % 2**32) & 0x7FFFFFFF) % 12


# -- reason codes -----------------------------------------------------------------------------------------------------

REASON_AT = {
    "Refusal": 0,
    "Problem": 0,
    "Misfit": 0,
    "Unreadable": 0,
    "NotReleased": 0,
    "_note": 1,
    "emit": 4,
    "_end": 3,
}
"""Call -> which positional argument is a reason code."""
REASON_FUNCTIONS = {"window", "check_result", "restore_call", "inactive", "unverified"}
"""Functions that answer with a reason code or an empty string."""
REASON_TUPLES = {"_FAILURES", "_WITHHELD"}


def constants(node: ast.AST | None) -> Iterator[str]:
    """The string constants an expression may evaluate to, and the first items of tuples it may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from constants(value)
    elif isinstance(node, ast.Tuple):
        for item in node.elts:
            yield from constants(item)


def reasons_in(tree: ast.Module) -> set[str]:
    """Every string that stands where a reason code is meant."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = REASON_AT.get(name)
            if at is not None and len(node.args) > at:
                found |= set(constants(node.args[at]))
            if at is not None:
                found |= {c for k in node.keywords if k.arg == "reason" for c in constants(k.value)}
        elif isinstance(node, ast.Assign):
            names = {getattr(t, "id", getattr(t, "attr", "")) for t in node.targets}
            if names & ({"reason"} | REASON_TUPLES):
                found |= set(constants(node.value))
        elif isinstance(node, ast.FunctionDef) and node.name in REASON_FUNCTIONS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    found |= set(constants(inner.value))
    return found - {""}


def trees(*folders: str) -> dict[str, ast.Module]:
    return {
        p.relative_to(ROOT).as_posix(): ast.parse(p.read_text("utf-8"))
        for folder in folders
        for p in sorted((ROOT / folder).rglob("*.py"))
        if p.name
        not in ("reasons.py", "model_reasons.py", "verify.py", "verify/lives.py", "verify/reading.py")
    }


def test_every_reason_that_is_given_is_documented() -> None:
    unknown = {name: reasons_in(tree) - set(REASONS) for name, tree in trees("processors", "schemas").items()}
    assert {name: found for name, found in unknown.items() if found} == {}


def test_the_search_for_reasons_finds_those_of_every_stage() -> None:
    """Else the test above would pass by finding nothing."""
    found = {name: reasons_in(tree) for name, tree in trees("processors", "schemas").items()}
    assert found["processors/route.py"] >= {"unknown_tool", "from_the_future", "too_old", "overloaded"}
    assert found["processors/conform.py"] >= {"duplicate_key", "schema_violation", "not_representable"}
    assert found["processors/authorize.py"] >= {"policy_error", "forbidden", "no_permit"}
    assert found["processors/ticks.py"] >= {"approval_expired", "call_in_doubt", "no_executor", "timeout"}
    assert found["processors/receipts.py"] >= {"late", "crashed", "egress_denied", "malformed_result"}
    assert found["processors/intake.py"] >= {"unsigned", "wrong_signer", "too_large"}
    assert found["processors/sessions/sessions.py"] >= {"unknown_kind", "bad_identifier", "id_conflict"}
    assert found["schemas/codec.py"] >= {"not_avro", "unknown_schema", "malformed_record"}
    sample = ast.parse(
        'def f(w):\n    emit(w, "s", "refused", x, "a" if w else "b")\n    reason = "c"\n    Refusal(reason="d")'
    )
    assert reasons_in(sample) == {"a", "b", "c", "d"}


def test_every_documented_reason_can_be_given() -> None:
    given = {
        node.value
        for tree in trees("processors", "schemas", "streams", "executors").values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(REASONS) - given == set()


def test_reasons_say_what_to_do_in_one_line_each() -> None:
    for code, reason in REASONS.items():
        assert code == reason.code and code.isidentifier() and code == code.lower()
        assert reason.for_model.endswith(".") and reason.for_model[0].isupper(), code
        assert reason.remedy and "\n" not in reason.for_model + reason.remedy, code


# -- the released format ------------------------------------------------------------------------------------------------


def test_the_wire_format_is_the_released_one() -> None:
    assert make.golden() == json.loads(make.FILE.read_text("utf-8")), (
        "the wire format changed, see tests/golden/make.py"
    )


@pytest.mark.parametrize("name", codec.NAMES)
def test_released_bytes_are_read(name: str) -> None:
    released = json.loads(make.FILE.read_text("utf-8"))[name]
    assert codec.decode(bytes.fromhex(released["bytes"])) == make.record(name)


@pytest.mark.parametrize("name", codec.OLD)
def test_bytes_of_old_schemas_are_read(name: str) -> None:
    old = json.loads(make.FILE.with_name("old.json").read_text("utf-8"))
    assert set(old) == set(codec.OLD)
    record = codec.decode(bytes.fromhex(old[name]))
    now = codec.SCHEMAS[name.split(".")[0]]
    assert type(record) is now.cls
    assert [codec.OLD[name].prefix[2:].hex()] == [name.split(".")[1]]
    # What was added since has a default in the schema too, as other languages' readers resolve it.
    known = {f["name"] for f in codec.OLD[name].parsed["fields"]}
    assert all("default" in f for f in now.parsed["fields"] if f["name"] not in known)


def rabin(text: str) -> bytes:
    """CRC-64-AVRO as the specification writes it, bit by bit, little-endian."""
    empty = 0xC15D213AA4D7A795
    value = empty
    for byte in text.encode():
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
    return value.to_bytes(8, "little")


def test_fingerprints_are_those_of_the_specification() -> None:
    assert rabin('"int"')[::-1].hex() == "7275d51a3f395c8f"  # Avro's schema-tests.txt
    fastavro = pytest.importorskip("fastavro")
    for name, raw in AVRO.items():
        canonical = fastavro.schema.to_parsing_canonical_form(raw)
        assert codec.SCHEMAS[name].prefix == b"\xc3\x01" + rabin(canonical), name


def test_the_engine_is_the_packages_version() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{work.ENGINE}"\n' in text
    assert cli.app.info.name == "sluicegate"


def test_a_remedy_that_names_the_sdk_names_the_other_doors_too() -> None:
    """Whoever asks over HTTP has no `session.call_model`."""
    named = {
        code: reason.remedy
        for code, reason in REASONS.items()
        if any(word in reason.remedy for word in ("call_tool", "call_model", "agent.session"))
    }
    assert {"wrong_kind", "unknown_session"} <= named.keys()
    assert {code for code, said in named.items() if "/v1/" not in said} == set()
