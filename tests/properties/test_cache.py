"""The cache over three partitions, whatever arrives in whatever order: of equal calls one runs at a time, and no result
reaches anybody outside its scope, its tenant or its side of the line around secrets.

Agents of two tenants, some of whose sessions saw a secret, ask for a few values; exchanges of different lanes overtake
each other and come twice; runs succeed, fail and are withheld; partitions are dropped and folded again.
"""

from __future__ import annotations

import json
from collections import Counter

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.state import OpenIntent, intent_key
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, agents
from tests.exchange_driver import World
from tests.unit.test_cache import cached_release, intact
from tests.unit.test_cache_homes import NAMES, PARTITIONS

TENANTS = {name: ("acme", "bolt")[n % 2] for n, name in enumerate(NAMES)}
SECRET = set(NAMES[::3])
"""Agents whose session has seen a secret."""
VALUES = "ab"
ROW = next(a for a in agents() if a["agent_id"] == AGENT)

index = st.integers(0, 11)
step = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.tuples(st.just("ask"), st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.tuples(st.just("deliver"), index),
    st.tuples(st.just("deliver"), index),
    st.tuples(st.just("end"), index, st.sampled_from(("finished",) * 4 + ("failed", "withheld"))),
    st.tuples(st.just("end"), index, st.sampled_from(("finished",) * 4 + ("failed", "withheld"))),
    st.tuples(st.just("tick"), index, st.sampled_from((0, 0, 0, 1_000_000, 31_000_000))),
    st.tuples(st.just("again"), index),
    st.tuples(st.just("crash"), index),
)
plans = st.lists(st.lists(step, max_size=12), max_size=8).map(lambda s: [x for part in s for x in part])
scopes = st.sampled_from(("agent", "tenant", "shared:rates"))


def compiled(scope: str) -> CompiledRelease:
    """`desk.read` has the cache; `desk.look` answers with a secret."""
    files = cached_release(scope)
    contract = json.loads(files["contracts/desk.look.json"])
    contract["x-sluicegate"] |= {"class": "read_only", "confidential": {"$": "secret"}}
    files["contracts/desk.look.json"] = json.dumps(contract)
    return compile_release(files)


RELEASES = {scope: compiled(scope) for scope in ("agent", "tenant", "shared:rates")}


def begin(scope: str) -> World:
    w = World(PARTITIONS)
    rows = [{**ROW, "agent_id": name, "tenant": tenant} for name, tenant in TENANTS.items()]
    w.control_event("agents.registered", agents=rows)
    w.deploy(RELEASES[scope])
    for name in NAMES:
        w.on(name).open_session(f"s-{name}", name)
        if name in SECRET:
            looked = w.on(name).call("desk.look", agent=name, session=f"s-{name}")
            w.on(name).finish(looked.dispatches[0], b'{"secret":1}')
    return w


def audience(scope: str, name: str, value: str) -> list[object]:
    """Who may share what: the tool puts it into its answer."""
    return [TENANTS[name], name if scope == "agent" else "", name in SECRET, value]


def running(w: World) -> list[tuple[Driver, r.Dispatch]]:
    """Dispatches of the cached tool whose call has not ended; the last one of each call."""
    found: dict[bytes, tuple[Driver, r.Dispatch]] = {}
    for d in w.drivers:
        for one in d.dispatches:
            key = intent_key(one.tenant, one.agent_id, one.intent_id)
            if one.tool == "desk.read" and isinstance(d.state.intents.get(key), OpenIntent):
                found[key] = (d, one)
    return list(found.values())


def value_of(one: r.Dispatch) -> str:
    return str(orjson.loads(one.arguments)["value"])


def play(w: World, scope: str, what: tuple[object, ...]) -> None:
    match what:
        case ("ask", str(name), str(value)):
            w.on(name).call("desk.read", {"value": value}, agent=name, session=f"s-{name}")
        case ("deliver", int(i)):
            w.deliver(lambda lanes: lanes[i % len(lanes)])
        case ("end", int(i), str(how)) if running(w):
            d, one = running(w)[i % len(running(w))]
            d.now = w.now
            if how == "failed":
                d.receipt(one, "failed", error_class="refused_by_tool")
            else:
                made_for = orjson.dumps({"for": audience(scope, one.agent_id, value_of(one))})
                d.receipt(one, "finished", result=made_for if how == "finished" else b"nonsense")
        case ("tick", int(i), int(ahead)):
            w.tick(i % PARTITIONS, ahead)
        case ("again", int(i)) if w.delivered:
            w.again(w.delivered[i % len(w.delivered)])
        case ("crash", int(i)):
            w.crash(i % PARTITIONS)
            w.restore(i % PARTITIONS)


def one_at_a_time(w: World, scope: str) -> None:
    runs = Counter(orjson.dumps(audience(scope, one.agent_id, value_of(one))) for _, one in running(w))
    assert max(runs.values(), default=0) <= 1, runs


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(scopes, plans)
def test_one_runs_at_a_time_and_nothing_crosses(scope: str, plan: list[tuple[object, ...]]) -> None:
    w = begin(scope)
    for what in plan:
        play(w, scope, what)
        one_at_a_time(w, scope)
    for _ in range(200):  # then everything is answered
        w.settle()
        if not running(w):
            break
        play(w, scope, ("end", 0, "finished"))
        one_at_a_time(w, scope)
    asked = {}
    for d in w.drivers:
        assert [e for e in d.state.intents.values() if isinstance(e, OpenIntent)] == []
        for raw in d.inputs.get("intents", {}).values():
            intent = r_intent(raw)
            asked[intent.agent_id, intent.intent_id] = value_of_intent(intent)
        for reply in d.replies:
            if reply.status == "released" and reply.result not in (None, b'{"secret":1}'):
                value = asked[reply.agent_id, reply.intent_id]
                assert orjson.loads(reply.result)["for"] == audience(scope, reply.agent_id, value)
        intact(d)


def r_intent(raw: bytes) -> r.Intent:
    from sluicegate.schemas import codec

    return codec.decode_as(r.Intent, raw)


def value_of_intent(intent: r.Intent) -> str:
    return str(orjson.loads(intent.arguments).get("value", ""))
