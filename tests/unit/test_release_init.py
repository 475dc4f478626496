"""`release init`: first contracts from every source compile and check, and what was guessed is marked."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.first_contracts import (
    Found,
    Inferred,
    contract_of,
    from_observed,
    guess_protected,
    modern,
    release_files,
)
from sluicegate.processors.releases.openapi import from_openapi
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import mcp_tools
from sluicegate.streams.cli import app
from sluicegate.streams.control.releases import read_folder
from typer.testing import CliRunner

TOOLS = [
    {"name": "get_balance", "description": "Read.", "inputSchema": None, "annotations": {"readOnlyHint": True}},
    {
        "name": "send-money/now",
        "inputSchema": {
            "properties": {"iban": {"type": "string"}, "totalAmount": {"type": "number"}, "note": {"type": "string"}},
            "required": ["iban", "totalAmount"],
            "minProperties": 0,
        },
    },
]  # fmt: skip


def check(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The contracts, by tool; fails on any error."""
    release, findings = check_release(files)
    assert release is not None and [str(f) for f in findings if f.severity == "error"] == []
    assert {f.rule for f in findings} <= {"guessed", "nobody-may-call"}
    assert len([f for f in findings if f.rule == "guessed"]) == len(release.tools)
    return {name: json.loads(files[tool.path]) for name, tool in release.tools.items()}


def init(tmp_path: Path, *options: str) -> dict[str, dict[str, Any]]:
    answer = CliRunner().invoke(app, ["release", "init", str(tmp_path / "made"), *options])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return check(read_folder(tmp_path / "made"))


def test_from_an_mcp_catalogue_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": TOOLS}}))
    made = init(tmp_path, "--from-mcp", str(tmp_path / "tools.json"), "--prefix", "bank.", "--role", "clerk")
    balance, money = made["bank.get_balance"]["x-sluicegate"], made["bank.send-money/now"]["x-sluicegate"]
    assert (balance["class"], balance["guessed"]) == ("read_only", ["class", "executor"])
    assert money["class"] == "irreversible"
    assert money["protected"] == {"iban": "account", "totalAmount": "amount"} and money["measures"] == [
        "totalAmount"
    ]
    assert money["guessed"] == ["class", "executor", "protected"]
    assert money["executor"]["url"] == "${TOOLS_URL}/send-money/now"
    assert yaml.safe_load((tmp_path / "made" / "release.yaml").read_text()) == {
        "name": "made",
        "version": "1",
        "roles": ["clerk"],
    }


SERVER = """
import json, sys
print("starting", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    tools = json.loads(sys.argv[1])
    result = {"tools": tools[:1], "nextCursor": "2"} if not asked["params"].get("cursor") else {"tools": tools[1:]}
    if asked["method"] == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": "other", "result": {}}), flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def test_from_an_mcp_server_that_is_a_command(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    command = f"{sys.executable} {script} '{json.dumps(TOOLS)}'"
    assert set(init(tmp_path, "--from-mcp", command)) == {"get_balance", "send-money/now"}


@pytest.mark.parametrize("command", ["/nowhere/at/all", f"{sys.executable} -c pass", "", "a 'b"])
def test_a_command_that_is_no_server(command: str) -> None:
    with pytest.raises(Terminal):
        mcp_tools.list_tools(command)


class _Mcp(BaseHTTPRequestHandler):
    """A small streamable-HTTP MCP server: JSON for the greeting, an event stream for the tools."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method = asked["method"]
        if method == "tools/list" and self.headers.get("mcp-session-id") != "s-1":
            self.send_error(400)
            return
        if self.path == "/broken":
            self._answer("text/plain", "no json")
        elif method == "tools/list":
            text = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": TOOLS}})
            self._answer("text/event-stream", f"event: message\ndata: {text}\n\n")
        else:
            self._answer(
                "application/json", json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": {}})
            )

    def _answer(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("mcp-session-id", "s-1")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Mcp)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_from_an_mcp_server_over_http(server: str, tmp_path: Path) -> None:
    assert set(init(tmp_path, "--from-mcp", f"{server}/mcp")) == {"get_balance", "send-money/now"}
    with pytest.raises(Terminal, match="no JSON"):
        mcp_tools.list_tools(f"{server}/broken")


API = """
openapi: 3.0.3
servers: [{url: "https://api.example/v1"}]
paths:
  /orders/{order_id}:
    parameters:
      - {name: order_id, in: path, required: true, schema: {type: string}}
    get:
      operationId: get_order
      summary: One order.
      parameters:
        - {name: fields, in: query, schema: {type: array, items: {type: string}}}
        - {name: X-Trace, in: header, schema: {type: string}}
    patch:
      requestBody:
        content:
          application/json:
            schema: {$ref: "#/components/schemas/Change"}
  /upload:
    put:
      requestBody: {content: {application/json: {schema: {type: array}}}}
components:
  schemas:
    Change:
      type: object
      required: [amount]
      properties:
        amount: {type: number, minimum: 0, exclusiveMinimum: true, example: 5}
        note: {type: string, nullable: true}
        kind: {type: string, enum: [a, b], nullable: true}
        address: {$ref: "#/components/schemas/Address"}
        properties: {type: string}
    Address:
      type: object
      properties:
        city: {type: string}
        inner: {$ref: "#/components/schemas/Address", nullable: true}
"""


def test_from_an_openapi_document(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(API)
    made = init(tmp_path, "--from-openapi", str(tmp_path / "api.yaml"))
    read, change = made["get_order"], made["patch_orders_order_id"]
    assert read["x-sluicegate"]["class"] == "read_only" and change["x-sluicegate"]["class"] == "irreversible"
    assert read["x-sluicegate"]["executor"] == {
        "kind": "http", "method": "GET", "url": "https://api.example/v1/orders/{order_id}",
    }  # fmt: skip
    assert read["inputSchema"]["required"] == ["order_id"] and "X-Trace" in read["description"]
    assert change["inputSchema"]["required"] == ["amount", "order_id"]
    assert change["x-sluicegate"]["protected"] == {"order_id": "exact", "amount": "amount"}
    validator = jsonschema_rs.validator_for(change["inputSchema"])
    assert not validator.is_valid({"order_id": "1", "amount": 0})  # exclusive, as OpenAPI 3.0 says it
    good = {"order_id": "1", "amount": 2, "note": None, "kind": None, "address": {"inner": {"city": "x"}}}
    assert validator.is_valid(good) and not validator.is_valid({**good, "more": 1})
    assert "no JSON object" in made["put_upload"]["description"]


@pytest.mark.parametrize("document", [{}, [], {"swagger": "2.0"}, None, {"openapi": "2"}])
def test_what_is_no_openapi(document: object) -> None:
    with pytest.raises(Terminal, match="OpenAPI 3"):
        from_openapi(document, "")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["string", "object", "#/components/schemas/a"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "$ref", "properties", "paths", "get", "/a", "parameters", "name", "in", "schema", "servers",
                         "requestBody", "content", "application/json", "components", "schemas", "a", "required", "nullable", "enum"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_document_gives_tools_or_a_sentence(document: Any) -> None:
    whole = {**document, "openapi": "3.1.0"} if isinstance(document, dict) else document
    try:
        for found in from_openapi(whole, ""):
            json.dumps(contract_of(found))
    except Terminal:
        pass


def test_from_a_python_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '''
from datetime import date
def _hidden(a): pass
def pay(iban: str, amount: float, *, memo: str | None = None) -> dict:
    """Pay somebody.

    More words.
    """
'''
    (tmp_path / "init_tools_1.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = init(tmp_path, "--from-python", "init_tools_1")
    assert list(made) == ["pay"] and made["pay"]["description"] == "Pay somebody."
    assert made["pay"]["x-sluicegate"]["executor"] == {"kind": "python", "entry": "init_tools_1:pay"}
    assert made["pay"]["inputSchema"]["required"] == ["iban", "amount"]
    assert made["pay"]["x-sluicegate"]["guessed"] == ["class", "protected"]


@pytest.mark.parametrize("body", ["def f(*a): pass", "def f(a, /): pass", "def f(a: 'Nowhere'): pass", "1/0"])
def test_a_module_that_makes_no_tools(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"init_tools_{crc32(body.encode())}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = CliRunner().invoke(app, ["release", "init", str(tmp_path / "made"), "--from-python", name])
    assert isinstance(answer.exception, Terminal) and name in str(answer.exception)


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.sampled_from(["x", "", "y"])
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "amount", "to"]), VALUES, max_size=4), min_size=1, max_size=6
)


@given(CALLS)
def test_every_observed_call_fits_its_inferred_contract(calls: list[dict[str, Any]]) -> None:
    seen = Inferred()
    for arguments in calls:
        seen.add(arguments)
    (found,) = from_observed({"t": seen}, "http://x/{name}")
    contract = check(release_files("r", [found]))["t"]
    assert contract["x-sluicegate"]["guessed"][:3] == ["class", "executor", "inputSchema"]
    validator = jsonschema_rs.validator_for({"additionalProperties": False, **contract["inputSchema"]})
    assert all(validator.is_valid(c) for c in calls)


def test_protected_arguments_are_guessed_by_their_names() -> None:
    names = {"iban": "string", "orderId": "string", "paid": "string", "amount": "string", "price_total": "number",
             "links": "array", "note": "string", "user_email": "string", "isId": "boolean"}  # fmt: skip
    shape = shape_of({"properties": {n: {"type": t} for n, t in names.items()}})
    assert guess_protected(shape) == {
        "iban": "account", "orderId": "exact", "price_total": "amount", "links": "links", "user_email": "exact",
    }  # fmt: skip
    assert guess_protected(shape_of({"properties": {"channel": {"enum": ["a", "b"]}}})) == {}


def test_nothing_is_written_over_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    command = ["release", "init", str(tmp_path / "made"), "--from-mcp", str(tmp_path / "tools.json")]
    answer = CliRunner().invoke(app, [*command, "--dry-run"])
    assert answer.exit_code == 0 and "would write" in answer.output and not (tmp_path / "made").exists()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "--force" in str(CliRunner().invoke(app, command).exception)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert "give one of" in str(CliRunner().invoke(app, [*command, "--from-ledger"]).exception)


def test_two_tools_of_one_name_and_none() -> None:
    tool = Found("a b", "", {"type": "object"}, {"kind": "http", "url": "http://x/"})
    with pytest.raises(Terminal, match="stands twice"):
        release_files("r", [tool, tool])
    with pytest.raises(Terminal, match="no tool"):
        release_files("r", [])


def test_bounds_of_older_drafts() -> None:
    old = {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False}
    assert modern({"properties": {"minimum": old}}) == {
        "properties": {"minimum": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9}}
    }
