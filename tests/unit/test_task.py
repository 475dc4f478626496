"""What a session is for: said once when it opens, never taken from an agent for a channel's word, and read by policies, routes,
prompts and hand-offs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.cases import read_cases
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.rehearsal import ask, run_case
from sluicegate.processors.releases.release import CompiledRelease, build, compile_release
from sluicegate.processors.sessions.library import Library
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams.client import Refused
from sluicegate.streams.commands.explain import _print
from sluicegate.streams.inspect.explain import tell
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.local import Gate

from tests.driver import AGENT, SESSION, Driver, read, release_files
from tests.unit.test_agent_rollback import here
from tests.unit.test_attempts import contract as model
from tests.unit.test_cache import intact
from tests.unit.test_docs import POLICIES, blocks
from tests.unit.test_transcript import CONTRACT as HISTORY

OTHER = "banking-agent-command-r"
TASK = """
task:
  properties:
    kind: {enum: [refund, question]}
    ticket: {type: string, maxLength: 20}
    amount: {type: integer}
  required: [kind]
"""
LOOSE = "task: {properties: {kind: {enum: [refund, question]}}}\n"
POLICY = """
@id("by-task")
permit (principal, action == Action::"desk.wire", resource)
when { context has task && context.task.kind == "refund" && context.task.goal like "*order*" };
@id("by-own-word")
permit (principal, action == Action::"desk.never", resource) when { context has own_task && context.own_task.kind == "refund" };
@id("on") permit (principal, action == Action::"handoff", resource);
@id("history") permit (principal, action == Action::"memory.history", resource);
"""
REFUND: dict[str, object] = {"kind": "refund", "ticket": "T-7", "amount": 3}


def files(task: str = TASK, policy: str = POLICY, **more: str) -> dict[str, str]:
    found = release_files()
    desk = found["policies/desk.cedar"]
    found["policies/desk.cedar"] = desk[: desk.index('@id("desk-wire")')]
    found["release.yaml"] += task
    found["contracts/memory.history.json"] = HISTORY
    return {**found, "policies/task.cedar": policy, **more}


COMPILED = compile_release(files())


def driver(compiled: CompiledRelease = COMPILED) -> Driver:
    d = Driver()
    d.deploy(compiled)
    return d


def open_by_channel(d: Driver, task: object = None, session: str = SESSION, agent: str = AGENT) -> Decision:
    raw = "" if task is None else orjson.dumps(task).decode()
    said = r.Message(
        d.new_id("m"), agent, session, "session.open", d.now, "refund my order", "person-1", task=raw
    )
    return d.feed("messages", said)


def open_by_agent(d: Driver, task: object = None, session: str = SESSION) -> Decision:
    raw = b"{}" if task is None else orjson.dumps({"task": task})
    said = r.Intent(d.new_id(), AGENT, session, "session.open", "", raw, d.now, goal="refund my order")
    return d.feed("intents", said)


def end(decision: Decision) -> tuple[str, str]:
    last = decision.outcomes[-1]
    return last.status, last.reason


def test_a_policy_reads_what_the_channel_said() -> None:
    d = driver()
    assert end(open_by_channel(d, REFUND)) == ("opened", "")
    assert end(d.call("desk.wire")) == ("dispatched", "")
    assert end(open_by_channel(d, {"kind": "question"}, "s-2")) == ("opened", "")
    assert end(d.call("desk.wire", session="s-2")) == ("refused", "no_permit")
    assert end(open_by_channel(d, None, "s-3")) == ("opened", "")
    assert end(d.call("desk.wire", session="s-3")) == ("refused", "no_permit"), (
        "no task, and a field that each has to have"
    )
    intact(d)


def test_what_an_agent_says_of_its_own_session_is_no_channels_word() -> None:
    d = driver()
    assert end(open_by_agent(d, REFUND)) == ("opened", "")
    assert end(d.call("desk.wire")) == ("refused", "no_permit")
    assert end(d.call("desk.never")) == ("dispatched", ""), "it is its own word, where a policy asks for that"
    open_by_channel(d, REFUND, "s-2")
    assert end(d.call("desk.never", session="s-2")) == ("refused", "no_permit"), "nor the other way round"
    intact(d)


def test_it_never_changes() -> None:
    """A message, a second opening, another session of the agent: none of it moves what was said."""
    d = driver()
    open_by_channel(d, {"kind": "question"})
    d.say('{"kind": "refund"}')
    assert end(open_by_channel(d, REFUND)) == ("session_refused", "id_conflict")
    open_by_agent(d, REFUND, "s-2")
    assert end(d.call("desk.wire")) == ("refused", "no_permit")
    intact(d)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "theft"}, "kind"), ({"ticket": "T-7"}, "kind"), ({**REFUND, "tickets": 1}, "tickets"), ([1], "object"),
        ({**REFUND, "ticket": "x" * 5_000}, "4096 bytes"), ({**REFUND, "goal": "mine"}, "goal"),
    ],
)  # fmt: skip
def test_a_task_that_does_not_fit_opens_nothing(task: object, said: str) -> None:
    d = driver()
    for opened in (open_by_channel(d, task), open_by_agent(d, task)):
        assert end(opened) == ("session_refused", "bad_task")
        assert said in d.replies[-1].for_developer
    assert not d.state.sessions


def test_without_a_declaration_there_is_no_task_and_nothing_else_changes() -> None:
    d = driver(compile_release(files("", "")))
    assert end(open_by_channel(d, REFUND)) == ("session_refused", "bad_task")
    odd = r.Intent(d.new_id(), AGENT, SESSION, "session.open", "", b'["task"]', d.now)
    assert end(d.feed("intents", odd)) == ("opened", ""), "what was ignored is ignored"
    assert end(d.call("desk.read")) == ("dispatched", "")


def test_a_goal_is_enough_where_no_field_has_to_be_there() -> None:
    policy = '@id("g") permit (principal, action == Action::"desk.never", resource) when { context has task && context.task.goal == "refund my order" };'
    d = driver(compile_release(files(LOOSE, policy)))
    open_by_channel(d)
    open_by_agent(d, None, "s-2")
    assert end(d.call("desk.never")) == ("dispatched", "")
    assert end(d.call("desk.never", session="s-2")) == ("refused", "no_permit")


def test_what_nobody_can_read_any_more_refuses() -> None:
    """Not as if there were no task: a forbid would be skipped."""
    d = driver()
    open_by_channel(d, REFUND)
    d.library = Library()
    del d.inputs["messages"][d.state.sessions[f"{AGENT}\0{SESSION}"].opened_offset]
    assert end(d.call("desk.read")) == ("refused", "bad_task")


def test_a_release_that_declares_otherwise_refuses_sessions_it_cannot_read() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    d.deploy(compile_release(files(TASK.replace("refund, question", "chat"), "")), now=True)
    assert end(d.call("desk.read")) == ("refused", "bad_task")
    assert "does not fit" in d.replies[-1].for_developer


def test_it_is_read_again_from_the_ledgers_inputs_and_kept_by_snapshots() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    d.state = snapshot.decode(snapshot.encode(d.state))
    d.library = Library()
    assert end(d.call("desk.wire")) == ("dispatched", "")
    intact(d)


def test_a_rollback_of_its_agent_leaves_it_and_older_ledgers_as_they_were() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    d.finish(d.call("desk.read").dispatches[0])
    cut = here(d)
    d.finish(d.call("desk.read").dispatches[0])
    facts = d.roll_back(cut=cut).outcomes[0].facts
    assert isinstance(facts, r.RestoreFacts) and b"opened_offset" in facts.sessions[0]
    assert end(d.call("desk.wire")) == ("dispatched", "")
    old = driver(compile_release(files("", "")))
    open_by_channel(old)
    opened = read(old.records[-1]).facts
    assert type(opened) is r.SessionFacts, "no other facts than before"
    [session] = old.state.sessions.values()
    assert "opened_offset" not in agent_values.plain(session)


def test_a_hand_off_takes_it_along_with_whose_word_it_is() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    open_by_agent(d, REFUND, "own")
    d.hand_off(OTHER, "t-1")
    d.deliver()
    assert end(d.call("desk.wire", agent=OTHER, session="t-1")) == ("dispatched", "")
    assert end(d.call("desk.never", agent=OTHER, session="t-1")) == ("refused", "no_permit")
    d.hand_off(OTHER, "t-2", by="own")
    d.deliver()
    assert end(d.call("desk.wire", agent=OTHER, session="t-2")) == ("refused", "no_permit")
    assert end(d.call("desk.never", agent=OTHER, session="t-2")) == ("dispatched", "")
    open_by_channel(d, None, "none")
    d.hand_off(OTHER, "t-3", by="none")
    d.deliver()
    assert end(d.call("desk.wire", agent=OTHER, session="t-3")) == ("refused", "no_permit")
    assert json.loads(d.transfers[0].task) == {"by": "channel", "goal": "refund my order", "fields": REFUND}
    intact(d)


def test_a_held_call_is_decided_on_it_again() -> None:
    policy = """@id("wire") @hold("a person agrees") permit (principal, action == Action::"desk.wire", resource)
when { context has task && context.task.kind == "refund" };"""
    d = driver(compile_release(files(policy=policy)))
    open_by_channel(d, REFUND)
    held = d.call("desk.wire")
    assert end(held)[0] == "held"
    d.library = Library()
    assert end(d.review(held)) == ("dispatched", "")


def test_the_history_tells_it() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    d.call("memory.history", {})
    [turn] = orjson.loads(d.replies[-1].result or b"")["turns"]
    assert (turn["goal"], turn["task"]) == ("refund my order", REFUND)


def test_a_route_and_a_prompt_read_it() -> None:
    route = {
        "triage": {
            "candidates": [
                {"contract": "model.large", "when": "has(task.kind) && task.kind == 'refund'"},
                {"contract": "model.small"},
            ]
        }
    }
    more = {
        "contracts/model.large.json": model("model.large"), "contracts/model.small.json": model("model.small"),
        "prompts/desk.md": "The task is $task_kind ($task_goal) for $name.",
    }  # fmt: skip
    policy = '@id("t") permit (principal, action == Action::"triage", resource);'
    d = driver(compile_release(files(TASK + f"models: {json.dumps(route)}\n", policy, **more)))
    open_by_channel(d, REFUND)
    open_by_agent(d, REFUND, "own")
    told = {"prompt": "desk", "variables": {"name": "Ana"}, "messages": []}
    [work] = d.call("triage", told, kind="model_call").dispatches
    assert work.candidate == "model.large"
    assert b"The task is refund (refund my order) for Ana." in work.arguments
    plain: dict[str, object] = {"messages": [{"role": "user", "content": "hello"}]}
    [work] = d.call("triage", plain, kind="model_call", session="own").dispatches
    assert work.candidate == "model.small", "an agent's own word chooses no model"
    assert end(d.call("triage", told, kind="model_call", session="own")) == ("refused", "prompt_variables")
    forged = {**told, "variables": {"name": "Ana", "task_kind": "refund"}}
    assert end(d.call("triage", forged, kind="model_call")) == ("refused", "prompt_variables")
    intact(d)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("task: {type: array}\n", "schema of an object"), ("task: {properties: {goal: {type: string}}}\n", "another name"),
        ("task: {properties: {kind: {type: 7}}}\n", "no JSON Schema"), ("task: 7\n", "task"),
    ],
)  # fmt: skip
def test_a_declaration_that_is_none_is_found(task: str, said: str) -> None:
    _, findings = build(files(task, ""))
    assert any("task" in str(f) and said in str(f) for f in findings), findings


@pytest.mark.parametrize(
    "condition",
    [
        'context.task.kind == "refund"',
        'context has task && context.task.kin == "refund"',
        'context has task && context.task.amount == "3"',
    ],
)
def test_a_policy_on_a_task_is_checked(condition: str) -> None:
    """Without `has`, of a field that is not declared, of another type."""
    policy = f'@id("p") permit (principal, action == Action::"desk.read", resource) when {{ {condition} }};'
    _, findings = build(files(policy=policy))
    assert [f for f in findings if f.severity == "error"], condition
    _, findings = build(files("", policy))
    assert [f for f in findings if f.severity == "error"], "nothing is declared"


def test_cases_and_verdicts_have_tasks() -> None:
    rows = """
cases:
  - {name: a refund, goal: my order, task: {kind: refund}, call: desk.wire, expect: permit}
  - {name: a question, goal: my order, task: {kind: question}, call: desk.wire, expect: refuse, reason: no_permit}
  - {name: none, call: desk.wire, expect: refuse}
  - {name: wrong, task: {kind: theft}, call: desk.wire, expect: refuse}
"""
    cases, findings = read_cases(
        {"tests/task.yaml": rows, "tests/bad.yaml": "cases: [{task: x, call: desk.read, expect: permit}]"}, {}
    )
    assert len(findings) == 1 and "`task` is an object" in str(findings[0])
    played = [run_case(COMPILED, case) for case in cases]
    assert [p.difference for p in played[:3]] == ["", "", ""]
    assert "bad_task" in played[3].difference
    agent = Agent(AGENT, "default", "", ())
    assert ask(COMPILED, agent, "desk.wire", b"{}", goal="my order", task={"kind": "refund"}).allowed
    assert not ask(COMPILED, agent, "desk.wire", b"{}", goal="my order", task={"kind": "question"}).allowed


def test_the_sdk_says_it_and_the_agent_reads_it(tmp_path: Path) -> None:
    for path, text in files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    asyncio.run(by_sdk(tmp_path))


async def by_sdk(folder: Path) -> None:
    tools = {"desk.wire": lambda **_: {"ok": True}}
    gate = Gate.local(folder, agents={name: {"roles": ["banking"]} for name in ("a-1", "a-2")}, tools=tools)
    async with gate.agent("a-1") as agent:
        async with agent.session("an order", task={"kind": "refund"}) as session:
            assert session.task == {"kind": "refund"}
            assert await session.call_tool("desk.wire", {}) == {"ok": True}
            turns = await session.history()
            assert isinstance(turns, list) and turns[0]["task"] == {"kind": "refund"}
            about = {"by": "channel", "goal": "an order", "kind": "refund"}
            assert await session.read_task() == about
            handed = await session.hand_on("a-2", goal="something else")
        async with gate.agent("a-2") as other, other.join(handed) as joined:
            assert joined.task is None and await joined.read_task() == about, "whatever the first agent said"
    async with gate.agent("a-1") as agent:
        async with agent.session("an order") as session:
            with pytest.raises(Refused):
                await session.call_tool("desk.wire", {})
        with pytest.raises(Refused) as refused:
            async with agent.session("an order", task={"kind": "theft"}):
                pass
        assert refused.value.reason == "bad_task"


def test_the_pages_example_checks_and_its_cases_pass() -> None:
    task, cases = blocks(POLICIES, "yml")
    found = {
        "release.yaml": f"name: bank\nversion: '1'\nroles: [clerk]\n{task}", "contracts/pay.json": blocks(POLICIES, "json")[0],
        "policies/bank.cedar": blocks(POLICIES, "cedar")[1],
    }  # fmt: skip
    release, findings = check_release(found)
    assert release is not None and findings == []
    rows, unread = read_cases({"tests/task.yaml": cases}, {})
    assert unread == [] and [run_case(release, row).difference for row in rows] == [""] * 3


def test_explain_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    d = driver()
    opened = [open_by_channel(d, REFUND), open_by_agent(d, {"kind": "question"}, "own")]
    d.hand_off(OTHER, "t-1")
    opened.append(d.deliver())
    calls = [
        d.call("desk.read"),
        d.call("desk.read", session="own"),
        d.call("desk.read", agent=OTHER, session="t-1"),
    ]
    events = {e.header.event_id: e for e in ledger(d)}
    told = [
        tell(
            [e for e in events.values() if e.header.intent_id == call.outcomes[0].origin.intent_id],
            events[begun.outcomes[-1].event_id], d.controls, d.keys.open,
        )
        for begun, call in zip(opened, calls, strict=True)
    ]  # fmt: skip
    whole = '{"amount":3,"kind":"refund","ticket":"T-7"}, in the channel\'s words'
    assert told[0].session["task"] == '{"kind":"refund","ticket":"T-7","amount":3}, in the channel\'s words'
    assert [one.session["task"] for one in told[1:]] == ['{"kind":"question"}, in the agent\'s words', whole]
    _print(told[1])
    assert 'task {"kind":"question"}' in " ".join(capsys.readouterr().out.split())


def ledger(d: Driver) -> list[LedgerEvent]:
    read = ((one.offset, codec.decode_as(r.Outcome, one.value)) for one in d.records)
    return [
        LedgerEvent(0, offset, codec.decode_as(r.Header, o.header), codec.decode(o.facts), o.content) for offset, o in read
    ]  # fmt: skip


def test_an_old_hand_off_brings_no_task() -> None:
    d = driver()
    open_by_channel(d, REFUND)
    d.hand_off(OTHER, "t-1")
    old = d.transfers[-1]
    old.task = b""
    assert codec.decode_as(r.Transfer, codec.encode(old)).task == b""
    d.deliver(old)
    assert end(d.call("desk.wire", agent=OTHER, session="t-1")) == ("refused", "no_permit")
