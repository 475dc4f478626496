"""What a request of the kind `http` carries: as the contract says it, from arguments that are values only."""

from __future__ import annotations

import json

import pytest
from sluicegate.executors.adapter import Failed, Finished
from sluicegate.executors.http_body import ENCODINGS, MAX_BODY_BYTES, BadBody, compile_body
from sluicegate.executors.http_template import METHODS, WITH_BODY
from sluicegate.processors.releases import http_check
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.findings import Finding
from sluicegate.processors.releases.release import build

from tests.unit.test_http_adapter import Tool, answering

REFUND = {
    "refund": {"amount": "{amount}", "note": "asked for by {who}", "for": ["{order}", "{line}"]},
    "source": "agent",
}


def filled(shape: object, arguments: dict[str, object], encoding: str = "json") -> str:
    body, _ = compile_body({"body": shape, "encoding": encoding})
    assert body is not None
    return body.filled(arguments).decode()


def test_arguments_stand_where_the_contract_puts_them() -> None:
    arguments: dict[str, object] = {"amount": 12.5, "who": "Ann", "order": 7, "line": {"n": 1}, "other": True}
    assert json.loads(filled(REFUND, arguments)) == {
        "refund": {"amount": 12.5, "note": "asked for by Ann", "for": [7, {"n": 1}]},
        "source": "agent",
    }
    assert json.loads(filled("{line}", arguments)) == {"n": 1}
    assert json.loads(filled({"x": 3, "y": None, "z": "{}"}, {})) == {"x": 3, "y": None, "z": "{}"}


def test_what_names_a_missing_argument_is_left_out() -> None:
    assert json.loads(filled(REFUND, {"order": 7})) == {"refund": {"for": [7]}, "source": "agent"}
    with pytest.raises(BadBody, match="needs the argument"):
        filled("{line}", {})


@pytest.mark.parametrize("said", ["{amount}", '"}, "x": {"y": "', "{who}{amount}", "\\u0022", "{{amount}}"])
def test_an_argument_is_a_value_and_never_a_template(said: str) -> None:
    found = json.loads(filled({"a": "{who}", "b": "by {who}"}, {"who": said, "amount": 12}))
    assert found == {"a": said, "b": f"by {said}"}


def test_a_form() -> None:
    arguments: dict[str, object] = {"price": "p&1=2", "n": 2, "on": True, "tags": ["a", "b"], "no": None}
    shape = {"items[0][price]": "{price}", "items[0][n]": "{n}", "on": "{on}", "tag": "{tags}", "no": "{no}"}
    assert filled(shape, arguments, "form") == (
        "items%5B0%5D%5Bprice%5D=p%261%3D2&items%5B0%5D%5Bn%5D=2&on=true&tag=a&tag=b"
    )
    body, kind = compile_body({"encoding": "form"})
    assert body is not None and kind == ENCODINGS["form"]
    assert body.filled({"a": "x y", "b": {"c": 1}}) == b"a=x%20y&b=%7B%22c%22%3A1%7D"


def test_bounds() -> None:
    with pytest.raises(BadBody, match="more than"):
        filled({"a": "{x}", "b": "{x}"}, {"x": "y" * (MAX_BODY_BYTES // 2)})
    deep: object = "{x}"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadBody, match="levels"):
        compile_body({"body": deep})


@pytest.mark.parametrize(
    ("executor", "arguments", "media_type", "body"),
    [
        ({"body": {"id": "{id}"}}, {"id": 7, "more": 1}, "application/json", b'{"id":7}'),
        ({"encoding": "form"}, {"id": 7, "to": "a b"}, ENCODINGS["form"], b"id=7&to=a%20b"),
        ({"url": "${TOOLS_URL}/x/{id}", "body": {"v": "{v}"}}, {"id": 7, "v": [1]}, "application/json", b'{"v":[1]}'),
        ({"body": {"a": "{a}"}, "headers": {"content-type": "application/vnd.api+json"}}, {"a": 1},
         "application/vnd.api+json", b'{"a":1}'),
    ],
)  # fmt: skip
def test_a_request_carries_it(
    executor: dict[str, object], arguments: dict[str, object], media_type: str, body: bytes
) -> None:
    tool = Tool(answering(body=b"1"))

    async def scenario(tool: Tool) -> None:
        assert isinstance(await tool.call(arguments, **executor), Finished)

    tool.run(scenario)
    assert tool.bodies == [body]
    assert tool.requests[0].headers.getall("Content-Type") == [media_type]


@pytest.mark.parametrize(
    "executor",
    [
        {"method": "GET", "body": {"a": 1}},
        {"encoding": "xml"},
        {"encoding": "form", "body": ["{a}"]},
        {"body": "{nothing}"},
        {"body": {"key": "${secret:env:SLUICEGATE_SECRET_SHOP}"}},
    ],
)
def test_what_makes_no_body_sends_nothing(executor: dict[str, object]) -> None:
    tool = Tool(answering(body=b"1"))

    async def scenario(tool: Tool) -> None:
        answer = await tool.call({"a": 1}, **executor)
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("crashed", False)

    tool.run(scenario)
    assert tool.requests == []


# -- what a release check finds ---------------------------------------------------------------------------------------


def findings(schema: dict[str, object] | None = None, **executor: object) -> list[Finding]:
    contract = {
        "name": "shop.refund",
        "inputSchema": {
            "type": "object", "properties": {"order": {"type": "string"}, "amount": {"type": "integer"}},
            **(schema or {}),
        },
        "x-sluicegate": {"executor": {"kind": "http", "url": "${SHOP}/orders/{order}", **executor}},
    }  # fmt: skip
    files = {
        "release.yaml": "name: r\nversion: '1'\n",
        "contracts/refund.json": json.dumps(contract, indent=1),
        "policies/all.cedar": '@id("all") permit (principal, action, resource);',
    }
    found = [f for f in check_release(files)[1] if f.severity == "error"]
    compiled, _ = build(files, proven=True)
    assert compiled is not None, "what was published stays readable"
    return found


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ({"url": "${SHOP}/orders/{oder}"}, "`url` names `{oder}`, but inputSchema has no `oder`, did you mean `order`"),
        ({"body": {"x": ["{amuont}"]}}, "`body` names `{amuont}`, but inputSchema has no `amuont`, did you mean `amount`"),
        ({"header": {"X": "y"}}, "nothing reads `header`, did you mean `headers`?"),
        ({"method": "FETCH"}, "not `FETCH`"),
        ({"method": "DELETE", "body": {}}, "`DELETE` carries no body"),
        ({"encoding": "xml"}, "`encoding` is one of json, form"),
        ({"encoding": "form", "body": "{order}"}, "a form's `body` is an object"),
        ({"body": {"k": "${secret:env:SLUICEGATE_SECRET_X}"}}, "`body` holds `${`"),
        ({"result": "data/0"}, "`result` is no JSON pointer"),
    ],
)  # fmt: skip
def test_what_could_never_be_called_is_found_with_its_line(executor: dict[str, object], words: str) -> None:
    [one] = findings(**executor)
    assert (one.rule, one.file) == ("executor", "contracts/refund.json")
    assert one.line > 1 and words in one.sentence


def test_what_may_be_meant_is_taken() -> None:
    assert findings(owner="desk 4", notes="ask Ann") == []
    assert findings(body={"a": "{order} {amount}", "b": "{}"}, encoding="form", result="/data") == []
    assert findings({"additionalProperties": True}, url="${SHOP}/{more}") == []
    assert findings({"patternProperties": {"^x": {}}}, url="${SHOP}/{xy}") == []
    assert findings({"anyOf": [{}]}, url="${SHOP}/{more}") == []


def test_check_and_executor_know_the_same_words() -> None:
    assert (http_check.METHODS, http_check.BODIES) == (METHODS, WITH_BODY)
    assert tuple(ENCODINGS) == http_check.ENCODINGS
