"""The conversation so far, told again: only what was released to this session, bounded, and never what was taken out."""

from __future__ import annotations

import json

from sluicegate.processors.agents.values import plain, session_from
from sluicegate.processors.ended import Ended
from sluicegate.processors.labels import names_of
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay.transcript import MAX_TURNS
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import HOUR_US, session_key

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_cache import intact
from tests.unit.test_labels import MAIL
from tests.unit.test_memory import IBAN, answer

CONTRACT = json.dumps(
    {
        "name": "memory.history",
        "inputSchema": {"type": "object", "properties": {"limit": {"type": "integer"}}},
        "x-sluicegate": {"class": "read_only", "executor": {"kind": "memory", "op": "history"}},
    }
)
POLICY = '@id("history") permit (principal, action == Action::"memory.history", resource);'


def driver(**rule: object) -> Driver:
    files = {
        **release_files(),
        **MAIL,
        "contracts/memory.history.json": CONTRACT,
        "policies/memory.cedar": POLICY,
    }
    if rule:
        rules = [{"id": "g", "tools": ["mail.*"], "detect": ["iban"], "on": "result", **rule}]
        files["release.yaml"] += "guardrails: " + json.dumps(rules) + "\n"
    d = Driver()
    d.deploy(compile_release(files))
    d.open_session()
    return d


def turns(d: Driver, session: str = SESSION, **args: object) -> list[dict[str, object]]:
    found = answer(d.call("memory.history", args, session=session))["turns"]
    assert isinstance(found, list)
    return [{k: v for k, v in turn.items() if k != "at"} for turn in found]


def page(d: Driver, text: str, session: str = SESSION) -> None:
    d.finish(d.call("mail.page", {}, session=session).dispatches[0], json.dumps({"text": text}).encode())


def test_what_was_said_and_answered_in_order() -> None:
    d = driver()
    d.say("look at the page")
    page(d, "hello")
    d.call("desk.never")
    expected = [
        {"role": "user", "goal": "pay my rent"},
        {"role": "user", "text": "look at the page"},
        {"role": "tool", "tool": "mail.page", "result": {"text": "hello"}},
    ]
    assert turns(d) == expected
    d.library = Library()
    assert turns(d) == expected
    assert turns(d, limit=1) == expected[-1:]
    assert answer(d.call("memory.history", {"limit": 1}))["more"] is True
    intact(d)


def test_another_session_is_never_told_of() -> None:
    d = driver()
    page(d, "mine")
    d.open_session("other")
    assert turns(d, "other") == [{"role": "user", "goal": "pay my rent"}]
    session = d.state.sessions[session_key(AGENT, "other")]
    assert names_of(session.integrity) == []


def test_what_was_taken_out_or_withheld_is_not_told_later() -> None:
    d = driver(verdict="redact")
    page(d, f"pay {IBAN}")
    assert turns(d)[-1]["result"] == {"text": "pay [redacted]"}
    d.deploy(driver().control.release, now=True)  # type: ignore[arg-type]
    assert turns(d)[-1]["result"] == {"text": "pay [redacted]"}
    d = driver()
    page(d, f"pay {IBAN}")
    d.deploy(driver(verdict="withhold").control.release, now=True)  # type: ignore[arg-type]
    assert turns(d)[-1] == {"role": "tool", "tool": "mail.page", "withheld": "guardrail"}
    intact(d)


def test_what_was_taken_out_stays_out_when_the_id_is_forgotten() -> None:
    d = driver(verdict="redact")
    page(d, f"pay {IBAN}")
    d.deploy(driver().control.release, now=True)  # type: ignore[arg-type]
    for _ in range(2):
        d.now += 23 * HOUR_US
        d.say("still there?")
    remembered = [entry for entry in d.state.intents.values() if isinstance(entry, Ended) and entry.redacted]
    assert not remembered
    assert turns(d)[1]["result"] == {"text": "pay [redacted]"}
    restored = session_from(plain(d.state.sessions[session_key(AGENT, SESSION)]))
    assert restored == d.state.sessions[session_key(AGENT, SESSION)]
    intact(d)


def test_gone_is_said_and_bounds_hold() -> None:
    d = driver()
    for n in range(MAX_TURNS + 5):
        d.say(f"{n} " + "x" * 2_000)
    assert len(turns(d, limit=MAX_TURNS + 5)) < MAX_TURNS
    assert turns(d, limit=1)[0]["text"].startswith(f"{MAX_TURNS + 4} ")  # type: ignore[attr-defined]
    d.library = Library()
    d.inputs["messages"].clear()
    assert turns(d, limit=2) == [{"role": "user", "gone": True}] * 2
