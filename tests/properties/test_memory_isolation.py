"""Nothing that is remembered in one scope is ever told in another: 50 agents, 200 sessions and 3 tenants over three
partitions, whatever is asked, overtakes or dies in between.

Every value names the owner of the scope it was written in: a session, an agent, or a tenant and a shared scope. So an answer
that holds a value of another owner shows by itself, whichever way it came: a read, a search, an append onto somebody's
value, an answer that reached the wrong intent. Policies let every second agent into `shared:ops`, and nobody into
`shared:board` but one role; every agent tries both.

A model, kept apart from the product, says what each scope holds once everything has settled; each read is compared with it.
docs/memory.md describes this test. The gateway is not in it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sluicegate.processors.memory import cells
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, agents, read, release_files
from tests.exchange_driver import World
from tests.unit.test_shared_memory import ACTIONS, FILES

PARTITIONS = 3
TENANTS = ("acme", "bolt", "core")
AGENTS = [f"agent-{n:02}" for n in range(50)]
TENANT = {name: TENANTS[n % 3] for n, name in enumerate(AGENTS)}
SESSIONS = [(name, f"s{n}") for name in AGENTS for n in range(4)]
OPS = {name for n, name in enumerate(AGENTS) if n % 2}
BOARD = set(AGENTS[:6])
SHARED = ("shared:ops", "shared:board")
ROW = next(a for a in agents() if a["agent_id"] == AGENT)
KEYS = ("k", "l")

COMPILED = compile_release(
    {
        **release_files(),
        **FILES,
        "policies/memory.cedar": f"""
@id("own") permit (principal, action in [{ACTIONS}], resource)
when {{ context.memory.scope == "session" || context.memory.scope == "agent" }};
@id("ops") permit (principal in Role::"retail", action in [{ACTIONS}], resource) when {{ context.memory.scope == "shared:ops" }};
@id("board") permit (principal in Role::"slack", action in [{ACTIONS}], resource)
when {{ context.memory.scope == "shared:board" }};
""",
    }
)


def may(agent: str, scope: str) -> bool:
    """What the policies above say."""
    return scope not in SHARED or (agent in OPS if scope == "shared:ops" else agent in BOARD)


def owner(agent: str, session: str, scope: str) -> str:
    """Who may be told what is written in a scope; it stands in every value."""
    if scope == "session":
        return f"{agent}/{session}"
    return agent if scope == "agent" else f"{TENANT[agent]}/{scope}"


@dataclass
class Asked:
    """One operation, as the model remembers it."""

    agent: str
    session: str
    op: str
    scope: str
    key: str
    value: str


@dataclass
class Town:
    """The world, and what was asked in it."""

    w: World
    asked: dict[tuple[str, str], Asked] = field(default_factory=dict)
    open: set[tuple[str, str]] = field(default_factory=set)
    n: int = 0

    def driver(self, agent: str) -> Driver:
        return self.w.on(agent)

    def ask(self, agent: str, session: str, op: str, scope: str, key: str) -> None:
        d = self.driver(agent)
        if (agent, session) not in self.open:
            d.open_session(session, agent)
            self.open.add((agent, session))
        self.n += 1
        value = f"<{owner(agent, session, scope)}|{self.n}>"
        args: dict[str, object] = {"scope": scope}
        name = {"find": "search", "mark": "write"}.get(op, op)
        if op == "mark":  # a search tells keys
            key = f"<{owner(agent, session, scope)}|{key}>"
        if op == "find":
            args["words"] = "shared" if self.n % 2 else agent
        elif op != "search":
            args["key"] = key
        if name in ("write", "append"):
            args["value"] = [value] if name == "write" else value
        intent = d.intent(f"memory.{name}", args, agent=agent, session=session)
        self.asked[agent, intent.intent_id] = Asked(agent, session, name, scope, key, value)
        d.feed("intents", intent)

    def close(self, agent: str, session: str) -> None:
        if (agent, session) in self.open:
            self.driver(agent).close_session(session, agent)
            self.open.discard((agent, session))


def town() -> Town:
    w = World(PARTITIONS)
    rows = [
        {
            **ROW,
            "agent_id": name,
            "tenant": TENANT[name],
            "roles": ["banking"] + ["retail"] * (name in OPS) + ["slack"] * (name in BOARD),
        }
        for name in AGENTS
    ]
    w.control_event("agents.registered", agents=rows)
    w.deploy(COMPILED)
    return Town(w)


def play(t: Town, rng: random.Random, steps: int) -> None:
    """Random operations of random sessions, with exchanges that overtake each other, come twice, and partitions that die."""
    for _ in range(steps):
        agent, session = rng.choice(SESSIONS)
        dice = rng.random()
        if dice < 0.70:
            op = rng.choice(("write", "write", "mark", "append", "read", "read", "search", "find", "forget"))
            t.ask(agent, session, op, rng.choice(("session", "agent", *SHARED, *SHARED)), rng.choice(KEYS))
        elif dice < 0.90:
            t.w.deliver(lambda lanes: rng.choice(lanes))
        elif dice < 0.93 and t.w.delivered:
            t.w.again(rng.choice(t.w.delivered))
        elif dice < 0.96:
            t.w.tick(rng.randrange(PARTITIONS))
        elif dice < 0.98:
            t.close(agent, session)
        else:
            index = rng.randrange(PARTITIONS)
            rng.choice((t.w.crash, t.w.restore))(index)
    t.w.settle()


def nothing_crosses(t: Town) -> Counter[str]:
    """Look at every reply there was. The answer: what was seen, so that a test can say that it looked at something."""
    seen: Counter[str] = Counter()
    for d in t.w.drivers:
        for reply in d.replies:
            one = t.asked.get((reply.agent_id, reply.intent_id))
            if one is None:
                continue
            assert reply.session_id == one.session
            seen[f"{one.op} {reply.status}"] += 1
            if not may(one.agent, one.scope):
                assert reply.status == "refused" and reply.result is None
                seen["not permitted"] += 1
            elif reply.result is not None:
                mine = f"<{owner(one.agent, one.session, one.scope)}|"
                text = reply.result.decode()
                assert text.count("<") == text.count(mine), (one, text)
                seen["values"] += text.count("<")
                seen[f"values {one.scope}"] += text.count("<")
    return seen


def as_the_model_says(t: Town) -> None:
    """Once all is quiet: what each scope holds is what its own ledger's order of writes makes of it."""
    held = expected(t)
    for agent, session in SESSIONS[::7]:
        for scope in ("session", "agent", *SHARED):
            for key in KEYS if may(agent, scope) else ():
                t.ask(agent, session, "read", scope, key)
                t.w.settle()
                reply = t.driver(agent).replies[-1]
                assert (reply.intent_id, reply.status) == (list(t.asked)[-1][1], "released")
                answer = orjson.loads(reply.result or b"")
                mine = owner(agent, session, scope)
                assert answer.get("value", []) == held.get((mine, key), []), (agent, session, scope, key)


def expected(t: Town) -> dict[tuple[str, str], list[str]]:
    """(owner, key) -> what it holds, from the order in which the ledgers say that operations were done."""
    held: dict[tuple[str, str], list[str]] = {}
    for d in t.w.drivers:
        for record in d.records:
            event = read(record)
            h, facts = event.header, event.facts
            if h.status == "closed":
                for key in KEYS:
                    held.pop((f"{h.agent_id}/{h.session_id}", key), None)
            if not isinstance(facts, r.CellFacts | r.MemoryFacts) or h.reason:
                continue
            who = h.agent_id, h.intent_id
            if isinstance(facts, r.CellFacts):
                if facts.home != d.partition:
                    continue  # its home says it
                who = facts.writer, facts.made_by
            one = t.asked.get(who)
            if one is None:
                continue
            at = owner(one.agent, one.session, one.scope), one.key
            if one.op == "append":
                held[at] = [*held.get(at, []), one.value]
            elif one.op in ("write", "forget"):
                held[at] = [one.value] if one.op == "write" else []
    return held


@settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)  # a seed does not shrink
@given(st.integers(0, 2**32))
def test_no_value_is_told_in_another_scope(seed: int) -> None:
    t, rng = town(), random.Random(seed)
    play(t, rng, 1_500)
    seen = nothing_crosses(t)
    as_the_model_says(t)
    nothing_crosses(t)
    for index, d in enumerate(t.w.drivers):
        t.w.crash(index)
        assert [e for e in d.state.intents.values() if isinstance(e, OpenIntent)] == []
    assert seen["not permitted"] > 5 and seen["read released"] > 5, seen


def test_every_session_of_every_agent_takes_part() -> None:
    """One long run in which all 200 sessions speak, and values of every kind of scope are read."""
    t, rng = town(), random.Random(7)
    for agent, session in SESSIONS:
        for scope in ("session", "agent", *SHARED):
            t.ask(agent, session, "write", scope, "k")
    play(t, rng, 1_500)
    seen = nothing_crosses(t)
    as_the_model_says(t)
    assert all(seen[f"values {scope}"] > 8 for scope in ("session", "agent", *SHARED)), seen
    for index in range(PARTITIONS):
        t.w.crash(index)


@pytest.mark.parametrize("broken", ["tenant", "session", "shelf"])
def test_it_turns_red_when_scopes_are_mixed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of the proof: leave a tenant or a session out of what names a cell, and the test fails."""
    real, shelf = cells.cell_key, cells.shelf_of

    def wrong(scope: str, agent_id: str, session_id: str, key: str, tenant: str = "") -> bytes:
        if broken == "tenant":
            tenant = ""
        elif broken == "session":
            session_id = ""
        return real(scope, agent_id, session_id, key, tenant)

    def wrong_shelf(scope: str, agent_id: str, tenant: str) -> str:
        return shelf(scope, agent_id, "") if broken == "shelf" else shelf(scope, agent_id, tenant)

    monkeypatch.setattr("sluicegate.processors.memory.ops.cell_key", wrong)
    monkeypatch.setattr("sluicegate.processors.memory.ops.shelf_of", wrong_shelf)
    monkeypatch.setattr("sluicegate.processors.memory.cells.shelf_of", wrong_shelf)
    t, rng = town(), random.Random(7)
    for agent, session in SESSIONS:
        for scope in ("session", "agent", *SHARED):
            t.ask(agent, session, "write", scope, "k")
    with pytest.raises(AssertionError):
        play(t, rng, 600)
        nothing_crosses(t)
