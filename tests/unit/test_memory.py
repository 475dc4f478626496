"""Memory: authorised like any call, done by the ledger, kept apart by scope, and never better than its writer."""

from __future__ import annotations

import json

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors import snapshot
from sluicegate.processors.labels import names_of
from sluicegate.processors.memory.ops import MAX_VALUE_BYTES
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.sessions.session import MAX_SESSION_CELLS
from sluicegate.processors.state import session_key

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_labels import MAIL, read
from tests.unit.test_rederive import check

SCOPE = {"type": "string", "enum": ["session", "agent"]}


def contract(op: str, **more: object) -> str:
    properties = {"scope": SCOPE, "key": {"type": "string", "minLength": 1, "maxLength": 256}, **more}
    return json.dumps(
        {
            "name": f"memory.{op}",
            "inputSchema": {"type": "object", "properties": properties, "required": ["key"]},
            "x-sluicegate": {
                "class": "read_only" if op == "read" else "idempotent",
                "executor": {"kind": "memory", "op": op},
            },
        }
    )


FILES = {
    "contracts/memory.write.json": contract("write", value={}, if_version={"type": "integer", "minimum": 0}),
    "contracts/memory.read.json": contract("read"),
    "contracts/memory.forget.json": contract("forget"),
    "policies/memory.cedar": """
@id("memory-own") permit (principal, action in [Action::"memory.write", Action::"memory.read", Action::"memory.forget"], resource);
@id("memory-no-secrets") forbid (principal, action == Action::"memory.write", resource)
when { context.args.key == "password" };
""",
}


def compiled() -> CompiledRelease:
    return compile_release({**release_files(), **MAIL, **FILES})


COMPILED = compiled()


def driver() -> Driver:
    d = Driver()
    d.deploy(COMPILED)
    d.open_session()
    return d


def answer(decision: Decision) -> dict[str, object]:
    result = decision.replies[-1].result
    assert result is not None
    return dict(orjson.loads(result))


def write(d: Driver, key: str, value: object, **more: object) -> Decision:
    session = str(more.pop("session", SESSION))
    return d.call("memory.write", {"key": key, "value": value, **more}, session=session)


def recall(d: Driver, key: str, scope: str = "session", session: str = SESSION) -> dict[str, object]:
    return answer(d.call("memory.read", {"key": key, "scope": scope}, session=session))


def test_written_read_and_forgotten() -> None:
    d = driver()
    assert recall(d, "colour") == {"found": False, "version": 0}
    decision = write(d, "colour", {"a": [1, "grün"]})
    assert [o.status for o in decision.outcomes] == [
        "routed",
        "permitted",
        "validated",
        "dispatched",
        "claimed",
        "released",
    ]
    assert decision.dispatches == []
    assert recall(d, "colour") == {"found": True, "value": {"a": [1, "grün"]}, "version": 1}
    assert answer(write(d, "colour", "red")) == {"version": 2}
    assert answer(d.call("memory.forget", {"key": "colour"})) == {"forgotten": True}
    assert recall(d, "colour")["found"] is False
    assert answer(d.call("memory.forget", {"key": "colour"})) == {"forgotten": False}
    assert d.state.memory == {} and d.state.open_count == 0


def test_the_same_engine_decides() -> None:
    refused = write(driver(), "password", "x").outcomes[-1]
    assert (refused.status, refused.reason, refused.policies) == (
        "refused",
        "forbidden",
        ["memory-no-secrets"],
    )


def test_compare_and_set() -> None:
    d = driver()
    assert answer(write(d, "n", 1, if_version=0)) == {"version": 1}
    assert write(d, "n", 2, if_version=0).outcomes[-1].reason == "version_conflict"
    assert answer(write(d, "n", 2, if_version=1)) == {"version": 2}
    assert recall(d, "n")["value"] == 2


def test_bounds() -> None:
    d = driver()
    assert write(d, "big", "x" * MAX_VALUE_BYTES).outcomes[-1].reason == "value_too_large"
    for n in range(MAX_SESSION_CELLS):
        write(d, str(n), n)
    assert write(d, "more", 1).outcomes[-1].reason == "memory_full"
    assert answer(write(d, "0", "again")) == {"version": 2}


def test_a_sessions_memory_goes_with_it_and_an_agents_stays() -> None:
    d = driver()
    write(d, "k", "mine")
    write(d, "k", "ours", scope="agent")
    d.open_session("other")
    assert recall(d, "k", session="other")["found"] is False
    assert recall(d, "k", "agent", session="other")["value"] == "ours"
    d.close_session()
    assert len(d.state.memory) == 1
    d.open_session()
    assert recall(d, "k")["found"] is False


def test_a_value_brings_the_labels_its_writer_had_seen() -> None:
    d = driver()
    read(d, "mail.page", "hello")
    write(d, "plan", "do it", scope="agent")
    d.open_session("clean")
    clean = d.state.sessions[session_key(AGENT, "clean")]
    assert names_of(clean.integrity) == []
    recall(d, "plan", "agent", session="clean")
    assert names_of(clean.integrity) == ["web"]


def test_what_was_remembered_grounds_nothing() -> None:
    d = driver()
    write(d, "payee", "mallory")
    recall(d, "payee")
    assert d.call("mail.send", {"to": "mallory"}).outcomes[-1].status == "held"


def test_bytes_that_are_not_at_hand_are_asked_for_and_gone_is_said() -> None:
    d = driver()
    write(d, "k", 1)
    d.library = Library()
    assert recall(d, "k")["value"] == 1
    d.library = Library()
    d.inputs["intents"].clear()
    assert recall(d, "k") == {"found": False, "gone": True, "version": 1}


def test_state_bytes_and_replay() -> None:
    d = driver()
    write(d, "k", 1)
    write(d, "k", 2, scope="agent")
    recall(d, "k")
    data = snapshot.encode(d.state)
    assert snapshot.encode(snapshot.decode(data)) == data
    assert b'"k"' not in data
    tally = check(d)
    assert (tally.differences, tally.same) == ([], tally.inputs - 1)


OPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.sampled_from(["session", "agent"]), st.sampled_from(["x", "y"]),
        st.sampled_from(["write", "read", "forget", "reopen"]),
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None)
@given(OPS)
def test_no_value_is_ever_read_in_another_scope(ops: list[tuple[str, str, str, str]]) -> None:
    d = Driver()
    d.deploy(COMPILED)
    d.open_session("a")
    d.open_session("b")
    model: dict[tuple[str, str], int] = {}
    for n, (session, scope, key, op) in enumerate(ops):
        cell = (session if scope == "session" else "", key)
        if op == "write":
            write(d, key, n, scope=scope, session=session)
            model[cell] = n
        elif op == "read":
            assert recall(d, key, scope, session).get("value") == model.get(cell)
        elif op == "forget":
            d.call("memory.forget", {"key": key, "scope": scope}, session=session)
            model.pop(cell, None)
        else:
            d.close_session(session)
            d.open_session(session)
            model = {c: v for c, v in model.items() if c[0] != session}


IBAN = "GB29 NWBK 6016 1331 9268 19"


def guarded(**rule: object) -> Driver:
    files = {**release_files(), **MAIL, **FILES}
    rules = [{"id": "g", "tools": ["memory.*"], "detect": ["iban"], **rule}]
    files["release.yaml"] += (
        json.dumps({"guardrails": rules})[1:-1].replace('"guardrails"', "guardrails", 1) + "\n"
    )
    d = Driver()
    d.deploy(compile_release(files))
    d.open_session()
    return d


def test_guardrails_stand_before_memory_and_behind_it() -> None:
    note = {"key": "k", "value": {"note": f"pay {IBAN}"}}
    d = guarded(on="call")
    assert d.call("memory.write", note).outcomes[-1].reason == "guardrail"
    d = guarded(on="call", verdict="redact")
    assert d.call("memory.write", note).outcomes[-1].reason == "memory_redacted"
    assert answer(d.call("memory.read", {"key": "k"}))["found"] is False
    d = guarded(on="result")
    assert answer(d.call("memory.write", note)) == {"version": 1}
    withheld = d.call("memory.read", {"key": "k"})
    assert [(o.status, o.reason) for o in withheld.outcomes][-1] == ("withheld", "guardrail")
    assert withheld.replies[-1].result is None
    d = guarded(on="result", verdict="redact")
    d.call("memory.write", note)
    assert answer(d.call("memory.read", {"key": "k"}))["value"] == {"note": "pay [redacted]"}
    check(d)


def test_a_value_that_a_person_edited_is_the_one_remembered() -> None:
    hold = """
@id("memory-asked") @hold("a person looks at what it remembers")
permit (principal, action == Action::"memory.write", resource) when { context.args.key == "asked" };
@id("memory-own") permit (principal, action in [Action::"memory.read", Action::"memory.forget"], resource);
"""
    d = Driver()
    d.deploy(compile_release({**release_files(), **MAIL, **FILES, "policies/memory.cedar": hold}))
    d.open_session()
    write = {"key": "asked", "value": "as the agent had it", "scope": "agent"}
    held = d.call("memory.write", write)
    assert held.outcomes[-1].status == "held"
    done = d.review(held, arguments=orjson.dumps({**write, "value": "as the person had it"}))
    assert done.outcomes[-1].status == "released"
    d.library = Library()
    read_back = d.call("memory.read", {"key": "asked", "scope": "agent"})
    assert orjson.loads(read_back.replies[-1].result or b"")["value"] == "as the person had it"
    assert check(d).differences == []
