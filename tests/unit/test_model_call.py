"""A model call through the stages and the SDK: an intent like any other, and never mixed up with a tool call."""

from __future__ import annotations

import json
from functools import cache

import orjson
import pytest
from sluicegate.processors.releases.release import CompiledRelease, build, compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch, Intent
from sluicegate.streams.client import AgentClient, Refused, Session, Withheld

from tests.client_gate import Gate, in_session
from tests.driver import Driver, read, release_files

MODEL = {
    "name": "model.triage",
    "inputSchema": {
        "type": "object",
        "properties": {
            "messages": {
                "type": "array",
                "maxItems": 100,
                "items": {
                    "type": "object",
                    "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
                },
            },
            "max_tokens": {"type": "integer"},
        },
        "required": ["messages"],
    },
    "x-sluicegate": {
        "executor": {
            "kind": "model",
            "url": "https://models.invalid/v1",
            "model": "gpt-4.1-2025-04-14",
            "api_key": "env:MODEL_KEY",
            "max_tokens": 256,
        }
    },
}
POLICY = """
@id("triage")
permit (principal, action == Action::"model.triage", resource) when { context.args has max_tokens && context.args.max_tokens <= 100 };
"""
MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = orjson.dumps(
    {"text": "hi", "tool_calls": [], "finish_reason": "stop", "served_model": "gpt-4.1-2025-04-14",
     "usage": {"input_tokens": 1, "output_tokens": 1}}
)  # fmt: skip


def files(**executor: object) -> dict[str, str]:
    contract = json.loads(json.dumps(MODEL))
    contract["x-sluicegate"]["executor"].update(executor)
    return {
        **release_files(),
        "contracts/model.triage.json": json.dumps(contract),
        "policies/model.cedar": POLICY,
    }


@cache
def release() -> CompiledRelease:
    return compile_release(files())


def driver() -> Driver:
    d = Driver()
    d.deploy(release())
    return d


def asked(**more: object) -> dict[str, object]:
    return {"messages": MESSAGES, "max_tokens": 50, **more}


def test_a_model_call_is_decided_dispatched_and_recorded() -> None:
    d = driver()
    d.open_session()
    decision = d.call("model.triage", asked(), kind="model_call")
    assert [(o.stage, o.status) for o in decision.outcomes] == [
        ("route", "routed"), ("authorize", "permitted"), ("validate", "validated"), ("plan", "dispatched"),
    ]  # fmt: skip
    assert decision.outcomes[1].policies == ["triage"]
    (dispatch,) = decision.dispatches
    assert (dispatch.tool, dispatch.tool_class) == ("model.triage", "read_only")
    assert orjson.loads(dispatch.executor)["api_key"] == "env:MODEL_KEY"
    (released,) = d.finish(dispatch, ANSWER).outcomes
    assert (released.status, d.replies[-1].result) == ("released", ANSWER)
    assert read(d.records[-1]).header.labels == ["unknown", "c:internal"]


def test_the_policy_decides() -> None:
    d = driver()
    d.open_session()
    decision = d.call("model.triage", asked(max_tokens=101), kind="model_call")
    assert (decision.outcomes[-1].status, decision.outcomes[-1].reason) == ("refused", "no_permit")


@pytest.mark.parametrize(
    ("tool", "kind"),
    [("model.triage", "tool_call"), ("desk.read", "model_call"), ("desk.local", "model_call")],
)
def test_a_model_is_no_tool_and_a_tool_no_model(tool: str, kind: str) -> None:
    d = driver()
    d.open_session()
    decision = d.call(tool, asked() if tool == "model.triage" else {}, kind=kind)
    (refused,) = decision.outcomes
    assert (refused.stage, refused.status, refused.reason) == ("route", "refused", "wrong_kind")
    assert not decision.dispatches


def test_a_changed_model_is_withheld() -> None:
    d = driver()
    d.open_session()
    (dispatch,) = d.call("model.triage", asked(), kind="model_call").dispatches
    decision = d.receipt(dispatch, "failed", error_class="model_changed", error="another", sent=True)
    assert [(o.status, o.reason) for o in decision.outcomes] == [("withheld", "model_changed")]
    assert d.replies[-1].result is None


def test_the_sdk_asks_by_alias() -> None:
    def execute(d: Driver, work: Dispatch) -> object:
        return d.finish(work, ANSWER)

    gate = Gate(driver=driver(), execute=execute)  # type: ignore[arg-type]

    async def body(agent: AgentClient, session: Session) -> object:
        return await session.call_model("model.triage", MESSAGES, max_tokens=50, intent_id="my-id")

    assert in_session(gate, body) == orjson.loads(ANSWER)
    intent = gate.of(Intent)[1]
    assert (intent.intent_id, intent.kind, intent.tool) == ("my-id", "model_call", "model.triage")
    assert orjson.loads(intent.arguments) == asked()


def test_the_sdk_says_why_not() -> None:
    gate = Gate(
        driver=driver(),
        execute=lambda d, work: d.receipt(work, "failed", error_class="model_changed", sent=True),
    )

    async def body(agent: AgentClient, session: Session) -> None:
        with pytest.raises(Withheld) as raised:
            await session.call_model("model.triage", MESSAGES, max_tokens=50)
        assert raised.value.reason == "model_changed"
        with pytest.raises(Refused) as refused:
            await session.call_tool("model.triage", {"messages": MESSAGES})  # type: ignore[dict-item]
        assert refused.value.reason == "wrong_kind"

    in_session(gate, body)


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ({"api_key": "sk-a-real-key"}, "no reference to a secret"),
        ({"model": ""}, "needs `model`"),
        ({"url": 7}, "needs `url`"),
        ({"retries": 6}, "from 0 to 5"),
        ({"kind": "mcp", "pinned": "sha256:" + "0" * 64, "tool": ""}, "needs `tool`"),
        ({"kind": "mcp", "tool": "t", "pinned": "sha256:0"}, "64 hex digits"),
        ({"kind": "mcp", "tool": "t"}, "64 hex digits"),
        (
            {"kind": "mcp", "tool": "t", "pinned": "sha256:" + "0" * 64, "command": "c"},
            "either `url` or `command`",
        ),
        ({"kind": "sql", "database": "d"}, "needs `statement`"),
        ({"kind": "sql", "statement": "s"}, "needs `database`"),
        ({"kind": "sql", "database": "d", "statement": "s", "write": "yes"}, "`write` is true or false"),
        ({"retries": "2"}, "from 0 to 5"),
    ],
)
def test_the_release_says_what_an_executor_cannot_mean(executor: dict[str, object], said: str) -> None:
    with pytest.raises(Terminal) as raised:
        compile_release(files(**executor))
    assert said in str(raised.value) and "sk-a-real-key" not in str(raised.value)
    compiled, _ = build(files(**executor), proven=True)
    assert compiled is not None


def test_retries_of_a_class_that_never_repeats_are_a_fault_of_the_contract() -> None:
    changed = {k: v.replace('"kind": "http"', '"kind": "http", "retries": 1') for k, v in files().items()}
    _, findings = build(changed)
    wrong = [f for f in findings if f.rule == "executor"]
    assert wrong and all("leave it out" in str(f) for f in wrong)
    assert not [f for f in wrong if "desk.read" in str(f) or "desk.set" in str(f)]
    assert [f for f in wrong if "desk.pay" in str(f)]
