"""Shared memory: one home a scope decides every compare-and-set, tenants are apart, and what is pieced together or searched
is bounded and keeps its labels."""

from __future__ import annotations

import json

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.labels import names_of
from sluicegate.processors.memory import ops as memory_ops
from sluicegate.processors.memory.cells import MAX_PIECES
from sluicegate.processors.memory.memory import ANSWER_US
from sluicegate.processors.memory.ops import MAX_EXAMINED, MAX_VALUE_BYTES, joined
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.lineage import Lineage, cascade
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import OpenIntent, session_key

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.driver import read as read_record
from tests.exchange_driver import World
from tests.unit.test_cache import intact
from tests.unit.test_cache_homes import NAMES, PARTITIONS, ROW, named
from tests.unit.test_labels import MAIL, read
from tests.unit.test_memory import FILES as OWN
from tests.unit.test_memory import answer

SCOPE = "shared:prices"
OPS = ("write", "append", "read", "search", "forget")


def contract(op: str) -> str:
    text, number = {"type": "string", "maxLength": 256}, {"type": "integer", "minimum": 0}
    properties = {
        "scope": {"type": "string", "pattern": "^(session|agent|shared:.*)$"}, "key": text, "prefix": text, "words": text,
        "value": {}, "if_version": number, "limit": number, "before": number, "as": {"enum": ["list", "text"]},
    }  # fmt: skip
    reads = op in ("read", "search")
    return json.dumps(
        {
            "name": f"memory.{op}",
            "inputSchema": {"type": "object", "properties": properties},
            "x-sluicegate": {
                "class": "read_only" if reads else "idempotent",
                "executor": {"kind": "memory", "op": op},
            },
        }
    )


ACTIONS = ", ".join(f'Action::"memory.{op}"' for op in OPS)
POLICIES = f"""
@id("memory-own") permit (principal, action in [{ACTIONS}], resource);
@id("memory-shared") permit (principal, action in [{ACTIONS}], resource)
when {{ context.memory.scope == "{SCOPE}" }};
@id("memory-closed") forbid (principal, action in [{ACTIONS}], resource)
when {{ context.memory.scope == "{SCOPE}" && context.memory.key like "closed*" }};
"""
FILES = {**{f"contracts/memory.{op}.json": contract(op) for op in OPS}, "policies/memory.cedar": POLICIES}


def compiled(policies: str = POLICIES) -> CompiledRelease:
    return compile_release({**release_files(), **MAIL, **FILES, "policies/memory.cedar": policies})


COMPILED = compiled()


def world(**tenants: str) -> World:
    """Three partitions with two agents each, of one tenant unless said otherwise."""
    w = World(PARTITIONS)
    rows = [{**ROW, "agent_id": name, "tenant": tenants.get(name, "acme")} for name in NAMES]
    w.control_event("agents.registered", agents=rows)
    w.deploy(COMPILED)
    for name in NAMES:
        w.on(name).open_session(f"s-{name}", name)
    return w


def ask(w: World, name: str, op: str, key: str = "", *, settle: bool = True, **more: object) -> str:
    """One operation; its intent id."""
    args = {"scope": SCOPE, **({"key": key} if op != "search" else {}), **more}
    d = w.on(name)
    intent = d.intent(f"memory.{op}", args, agent=name, session=f"s-{name}")
    d.feed("intents", intent)
    if settle:
        w.settle()
    return intent.intent_id


def told(w: World, name: str, intent_id: str) -> tuple[str, str, object]:
    """(status, reason, answer) of the last reply to an intent."""
    reply = [x for x in w.on(name).replies if x.intent_id == intent_id][-1]
    return reply.status, reply.reason, orjson.loads(reply.result) if reply.result else None


def said(w: World, name: str, op: str, key: str = "", **more: object) -> dict[str, object]:
    """The released answer of one operation."""
    status, reason, found = told(w, name, ask(w, name, op, key, **more))
    assert (status, reason) == ("released", ""), (status, reason)
    assert isinstance(found, dict)
    return found


def everything_holds(w: World) -> None:
    for index, d in enumerate(w.drivers):
        intact(d)
        w.crash(index)
        w.restore(index)
        data = snapshot.encode(d.state)
        assert snapshot.encode(snapshot.decode(data)) == data
        assert [e for e in d.state.intents.values() if isinstance(e, OpenIntent)] == []


@pytest.mark.parametrize("writer", range(PARTITIONS))
def test_what_one_writes_all_of_its_tenant_read(writer: int) -> None:
    w = world()
    version = said(w, named(writer), "write", "steel", value={"eur": 7})["version"]
    for name in NAMES:
        found = said(w, name, "read", "steel")
        assert found == {"found": True, "value": {"eur": 7}, "version": version}
    assert said(w, named(writer), "forget", "steel") == {"forgotten": True}
    assert said(w, NAMES[0], "read", "steel") == {"found": False, "version": 0}
    everything_holds(w)


def test_of_two_that_compare_one_wins_wherever_they_live() -> None:
    w = world()
    first = said(w, NAMES[0], "write", "n", value=0)["version"]
    ids = [(name, ask(w, name, "write", "n", settle=False, value=name, if_version=first)) for name in NAMES]
    w.settle()
    ends = [told(w, name, intent) for name, intent in ids]
    assert sorted(status for status, _, _ in ends) == ["failed"] * 5 + ["released"]
    assert {reason for _, reason, _ in ends} == {"", "version_conflict"}
    (winner,) = [name for (name, _), end in zip(ids, ends, strict=True) if end[0] == "released"]
    assert said(w, NAMES[1], "read", "n")["value"] == winner
    everything_holds(w)


def test_a_version_never_comes_again() -> None:
    w = world()
    old = said(w, NAMES[0], "write", "k", value="a", if_version=0)["version"]
    said(w, NAMES[1], "forget", "k")
    new = said(w, NAMES[2], "write", "k", value="b", if_version=0)["version"]
    assert new != old
    late = ask(w, NAMES[0], "write", "k", value="c", if_version=old)
    assert told(w, NAMES[0], late)[:2] == ("failed", "version_conflict")


def test_tenants_do_not_meet() -> None:
    w = world(**dict.fromkeys(NAMES[::2], "bolt"))
    for name in NAMES[:2]:
        said(w, name, "write", "k", value=name)
    for n, name in enumerate(NAMES):
        assert said(w, name, "read", "k")["value"] == NAMES[n % 2]
        rows = said(w, name, "search")["found"]
        assert isinstance(rows, list) and len(rows) == 1
    everything_holds(w)


def test_cedar_decides_by_scope_and_key() -> None:
    w = world()
    assert told(w, NAMES[0], ask(w, NAMES[0], "read", "closed-1"))[:2] == ("refused", "forbidden")
    other = ask(w, NAMES[0], "read", "k", scope="shared:wages")
    assert told(w, NAMES[0], other)[:2] == ("refused", "scope_not_permitted")
    odd = ask(w, NAMES[0], "read", "k", scope="shared:Not A Name")
    assert told(w, NAMES[0], odd)[0] == "refused"


def test_a_name_that_is_none_is_refused_even_where_policies_permit_it() -> None:
    d = Driver()
    d.deploy(compiled(POLICIES.replace(f'when {{ context.memory.scope == "{SCOPE}" }}', 'when { context.memory.scope != "x" }', 1)))  # fmt: skip
    d.open_session()
    done = d.call("memory.write", {"scope": "shared:Not A Name", "key": "k", "value": 1})
    assert (done.outcomes[-1].status, done.outcomes[-1].reason) == ("failed", "bad_scope")


def test_a_permit_that_says_nothing_of_scopes_shares_nothing() -> None:
    policy = f'@id("memory-all") permit (principal, action in [{ACTIONS}], resource);'
    d = Driver()
    d.deploy(compiled(policy))
    d.open_session()
    refused = d.call("memory.write", {"scope": SCOPE, "key": "k", "value": 1}).outcomes[-1]
    assert (refused.status, refused.reason, refused.policies) == (
        "refused",
        "scope_not_permitted",
        ["memory-all"],
    )
    assert answer(d.call("memory.write", {"key": "k", "value": 1})) == {"version": 1}
    has = 'context.args has scope && context.args.scope != "agent"'
    d.deploy(compiled(policy.replace("resource);", f"resource) when {{ {has} }};")), now=True)
    assert d.call("memory.write", {"scope": SCOPE, "key": "k", "value": 1}).outcomes[-1].status == "released"


def test_a_value_brings_its_labels_to_another_agent() -> None:
    w = world()
    reader = next(name for name in NAMES if w.at(name) != w.at(SCOPE))
    writer = next(name for name in NAMES if w.at(name) not in (w.at(SCOPE), w.at(reader)))
    d = w.on(writer)
    got = d.call("mail.page", {}, agent=writer, session=f"s-{writer}")
    d.finish(got.dispatches[0], b'{"text":"hello"}')
    said(w, writer, "write", "plan", value="do it")
    session = w.on(reader).state.sessions[session_key(reader, f"s-{reader}")]
    before = session.integrity
    said(w, reader, "read", "plan")
    assert "web" in names_of(session.integrity) and "web" not in names_of(before)


def test_a_home_that_is_away_is_waited_for_and_no_write_is_said_not_to_have_happened() -> None:
    w = world()
    name = next(n for n in NAMES if w.at(n) != w.at(SCOPE))
    wrote = ask(w, name, "write", "k", settle=False, value=1)
    reads = ask(w, name, "read", "k", settle=False)
    d = w.on(name)
    assert {e.state for e in d.state.intents.values() if isinstance(e, OpenIntent)} == {"waiting"}
    d.tick(310_000_000)
    assert told(w, name, reads)[:2] == ("expired", "home_silent")
    d.tick(ANSWER_US)
    assert told(w, name, wrote)[:2] == ("in_doubt", "call_in_doubt")
    intact(d)
    w.settle()  # then the home is back: too late to act, and what ended stays
    assert told(w, name, reads)[0] == "expired"
    assert told(w, name, wrote)[0] == "in_doubt"
    assert said(w, NAMES[1], "read", "k")["found"] is False


def test_a_home_does_not_act_after_the_deadline_and_says_so() -> None:
    w = world()
    name = next(n for n in NAMES if w.at(n) != w.at(SCOPE))
    wrote = ask(w, name, "write", "k", settle=False, value=1)
    w.drivers[w.at(SCOPE)].now = w.now + 301_000_000
    w.settle()
    assert told(w, name, wrote)[:2] == ("expired", "deadline_passed")
    assert said(w, name, "read", "k")["found"] is False
    everything_holds(w)


def test_an_exchange_that_comes_twice_writes_once() -> None:
    w = world()
    name = next(n for n in NAMES if w.at(n) != w.at(SCOPE))
    said(w, name, "append", "log", value="one")
    for exchange in list(w.delivered):
        w.again(exchange)
    w.settle()
    assert said(w, name, "read", "log")["value"] == ["one"]
    everything_holds(w)


def test_a_repeated_intent_gets_the_answer_again() -> None:
    w = world()
    name = next(n for n in NAMES if w.at(n) != w.at(SCOPE))
    said(w, name, "write", "k", value="v")
    d = w.on(name)
    intent = d.intent("memory.read", {"scope": SCOPE, "key": "k"}, agent=name, session=f"s-{name}")
    d.feed("intents", intent)
    w.settle()
    first = told(w, name, intent.intent_id)
    w.on(name).feed("intents", intent)
    assert told(w, name, intent.intent_id) == first
    intact(w.on(name))


# -- append and search, in one partition ------------------------------------------------------------------------------


@pytest.fixture
def d() -> Driver:
    made = Driver()
    made.deploy(COMPILED)
    made.open_session()
    return made


def do(d: Driver, op: str, **args: object) -> Decision:
    return d.call(f"memory.{op}", args)


@pytest.mark.parametrize("scope", ["session", "agent", SCOPE])
def test_append(d: Driver, scope: str) -> None:
    assert answer(do(d, "append", scope=scope, key="list", value=1))["version"]
    do(d, "append", scope=scope, key="list", value={"b": 1, "a": [2]})
    assert answer(do(d, "read", scope=scope, key="list"))["value"] == [1, {"a": [2], "b": 1}]
    do(d, "append", scope=scope, key="text", value="one ", **{"as": "text"})
    do(d, "append", scope=scope, key="text", value="zwei ü")
    assert answer(do(d, "read", scope=scope, key="text"))["value"] == "one zwei ü"
    for whole, item, after in (([1], 2, [1, 2]), ([], "x", ["x"]), ("a", "b", "ab")):
        do(d, "write", scope=scope, key="whole", value=whole)
        do(d, "append", scope=scope, key="whole", value=item)
        assert answer(do(d, "read", scope=scope, key="whole"))["value"] == after
    do(d, "write", scope=scope, key="n", value=7)
    assert do(d, "append", scope=scope, key="n", value=8).outcomes[-1].reason == "not_appendable"
    assert do(d, "append", scope=scope, key="text", value=8).outcomes[-1].reason == "not_appendable"
    assert do(d, "append", scope=scope, key="new", value=8, **{"as": "text"}).outcomes[-1].reason == "not_appendable"  # fmt: skip
    version = answer(do(d, "read", scope=scope, key="list"))["version"]
    assert do(d, "append", scope=scope, key="list", value=2, if_version=0).outcomes[-1].reason == "version_conflict"  # fmt: skip
    assert do(d, "append", scope=scope, key="list", value=2, if_version=version).outcomes[-1].status == "released"  # fmt: skip
    assert answer(do(d, "forget", scope=scope, key="list")) == {"forgotten": True}
    do(d, "write", scope=scope, key="text", value="new")
    assert d.state.pieces == sum(len(c.pieces) for c in d.state.memory.values()) == 1
    intact(d)


def test_what_is_appended_is_bounded(d: Driver) -> None:
    do(d, "write", key="k", value="x" * (MAX_VALUE_BYTES - 100))
    assert do(d, "append", key="k", value="y" * 200).outcomes[-1].reason == "value_too_large"
    assert do(d, "append", key="k", value="y" * 50).outcomes[-1].status == "released"
    for n in range(MAX_PIECES):
        last = do(d, "append", key="many", value=n)
    assert last.outcomes[-1].status == "released"
    assert do(d, "append", key="many", value=1).outcomes[-1].reason == "value_too_large"
    assert answer(do(d, "read", key="many"))["value"] == list(range(MAX_PIECES))


def test_an_appended_value_has_the_labels_of_all_its_pieces(d: Driver) -> None:
    do(d, "append", scope="agent", key="log", value="clean")
    read(d, "mail.page", "hello")
    do(d, "append", scope="agent", key="log", value="tainted")
    cell = next(c for c in d.state.memory.values())
    assert "web" in names_of(cell.integrity)
    d.open_session("other")
    clean = d.state.sessions[session_key(AGENT, "other")]
    clean.integrity = 0
    do_other = d.call("memory.append", {"scope": "agent", "key": "log", "value": "more"}, session="other")
    assert do_other.outcomes[-1].status == "released"
    assert "web" in names_of(next(c for c in d.state.memory.values()).integrity)


def test_a_piece_that_is_gone_is_said(d: Driver) -> None:
    do(d, "append", key="log", value="one")
    do(d, "append", key="log", value="two")
    d.library = Library()
    first = next(c for c in d.state.memory.values()).offset
    del d.inputs["intents"][first]
    found = answer(do(d, "read", key="log"))
    assert found == {"found": False, "gone": True, "version": 2}
    do(d, "write", key="plain", value=[1])
    d.library = Library()
    d.inputs["intents"].clear()
    assert do(d, "append", key="plain", value=2).outcomes[-1].reason == "value_gone"


@pytest.mark.parametrize("scope", ["session", "agent", SCOPE])
def test_search(d: Driver, scope: str) -> None:
    for n in range(5):
        do(d, "write", scope=scope, key=f"note-{n}", value={"text": f"Number {n}, says Übermut"})
    do(d, "write", scope=scope, key="other", value="number 9")
    do(d, "write", scope=scope, key="note-0", value="rewritten")
    found = answer(do(d, "search", scope=scope, prefix="note-"))
    rows = found["found"]
    assert isinstance(rows, list)
    assert [r["key"] for r in rows] == ["note-0", "note-4", "note-3", "note-2", "note-1"]  # newest first
    assert set(rows[0]) == {"key", "version", "bytes", "written_at"}
    words = answer(do(d, "search", scope=scope, words="übermut NUMBER 3"))["found"]
    assert [r["key"] for r in words] == ["note-3"]  # type: ignore[attr-defined]
    page = answer(do(d, "search", scope=scope, limit=4))
    rest = answer(do(d, "search", scope=scope, limit=4, before=page["before"]))
    keys = [r["key"] for part in (page, rest) for r in part["found"]]  # type: ignore[attr-defined]
    assert sorted(keys) == ["note-0", "note-1", "note-2", "note-3", "note-4", "other"]
    assert "before" not in rest
    d.library = Library()
    d.inputs["intents"].pop(max(d.inputs["intents"]) - 6, None)
    intact(d)


def test_a_search_looks_at_a_bounded_number_and_says_where_to_go_on(d: Driver) -> None:
    for n in range(MAX_EXAMINED + 5):
        do(d, "write", scope="agent", key=f"k-{n}", value=n)
    found = answer(do(d, "search", scope="agent", words="0"))
    assert found["examined"] == MAX_EXAMINED and found["found"] == []
    rest = answer(do(d, "search", scope="agent", words="0", before=found["before"]))
    assert [r["key"] for r in rest["found"]] == ["k-0"]  # type: ignore[attr-defined]


def test_a_search_finds_nothing_of_others(d: Driver) -> None:
    do(d, "write", key="mine", value=1)
    do(d, "write", scope="agent", key="ours", value=1)
    d.open_session("other")
    found = answer(d.call("memory.search", {"scope": "session"}, session="other"))
    assert found["found"] == []
    d.close_session()
    d.open_session()
    assert answer(do(d, "search"))["found"] == []
    assert [r["key"] for r in answer(do(d, "search", scope="agent"))["found"]] == ["ours"]  # type: ignore[attr-defined]


def test_a_miss_tells_of_secrets_too(d: Driver) -> None:
    """Who asks for words learns of every value looked at whether they are in it."""
    d.state.sessions[session_key(AGENT, SESSION)].confidentiality = 2
    do(d, "write", scope="agent", key="k", value="the code is 1234")
    d.open_session("other")
    other = d.state.sessions[session_key(AGENT, "other")]
    other.confidentiality = other.integrity = 0
    d.call("memory.search", {"scope": "agent", "words": "nothing"}, session="other")
    assert other.confidentiality == 2


def test_pieces_joined() -> None:
    assert joined("list", [b"[]", b"1"]) == b"[1]"
    assert joined("list", [b"[0]", b"1", b"2"]) == b"[0,1,2]"
    assert joined("items", [b'"a"']) == b'["a"]'
    assert joined("text", [b'"a\\n"', b'"b"']) == b'"a\\nb"'
    assert memory_ops.said_in(None) is None and memory_ops.said_in(b"x") is None


def test_old_contracts_write_what_they_wrote() -> None:
    """A ledger of an earlier version decides alike: facts of its operations keep their type."""
    d = Driver()
    d.deploy(compile_release({**release_files(), **MAIL, **OWN}))
    d.open_session()
    for op, more in (("write", {"value": [1]}), ("read", {}), ("forget", {})):
        done = d.call(f"memory.{op}", {"key": "k", "scope": "agent", **more})
        assert type(done.outcomes[-1].facts).__name__ == "MemoryFacts"


def test_what_was_read_of_a_write_follows_from_it_in_every_partition() -> None:
    w = world()
    wrote = ask(w, NAMES[0], "append", "log", value="one")
    reads = {(name, ask(w, name, "read", "log")) for name in NAMES}
    said(w, NAMES[1], "write", "log", value=["new"])
    later = ask(w, NAMES[2], "read", "log")
    lineage = Lineage("acme")
    for d in w.drivers:
        for record in d.records:
            event = read_record(record)
            lineage.take(d.partition, record.offset, event.header, event.facts)
    found = cascade(lineage, (NAMES[0], wrote))
    assert found.everywhere
    followed = {key for key, links in found.links.items() if links[0].how == "memory"}
    assert followed == reads and (NAMES[2], later) not in followed


def roll_back(w: World, name: str, cut: int) -> None:
    """An operator takes an agent back to a position of its partition; the owner takes the order in."""
    w.control_event("agent.rolled_back", agent_id=name, why="a test", cut=cut)
    w.on(name).restore(w.on(name).control.head)


def test_what_agents_share_does_not_go_back_with_one_of_them() -> None:
    w = world()
    for name in NAMES:
        d = w.on(name)
        d.call("memory.append", {"scope": "agent", "key": "own", "value": 1}, agent=name, session=f"s-{name}")
        cut = d.state.seq - 1
        said(w, name, "write", name, value="shared")
        d.call("memory.append", {"scope": "agent", "key": "own", "value": 2}, agent=name, session=f"s-{name}")
        late = ask(w, name, "append", "log", settle=False, value=name)
        roll_back(w, name, cut)
        w.settle()
        assert told(w, name, late)[0] in ("withheld", "released")
        assert said(w, name, "read", name)["value"] == "shared"
        own = answer(d.call("memory.read", {"scope": "agent", "key": "own"}, agent=name, session=f"s-{name}"))
        assert own["value"] == [1]
    assert said(w, NAMES[0], "read", "log")["value"] == NAMES
    everything_holds(w)
