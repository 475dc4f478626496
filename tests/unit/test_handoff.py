"""Hand-offs only narrow: roles, permits of everybody in the chain, labels, budget, depth."""

from __future__ import annotations

import json

import orjson
import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.handoff.delegation import DEFAULT_CALLS, MAX_DEPTH, join_names, names
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.sessions.session import Session, from_mark, mark_of
from sluicegate.processors.state import session_key
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import murmur2, partition_of

from tests.driver import Driver, release_files
from tests.signed_driver import PIPELINE, SignedDriver, key_body
from tests.unit.test_rederive import check

POLICIES = """
@id("all-read") permit (principal, action == Action::"desk.read", resource);
@id("b-set") permit (principal in Role::"b", action == Action::"desk.set", resource);
@id("c-pay") permit (principal in Role::"c", action == Action::"desk.pay", resource);
@id("worker-look") permit (principal == Agent::"worker", action == Action::"desk.look", resource);
@id("b-ask") @hold("somebody agrees") permit (principal in Role::"b", action == Action::"desk.ask", resource);
@id("lead-is-watched") forbid (principal == Agent::"lead", action == Action::"desk.set", resource)
when { context.args has value && context.args.value == "not for lead" };
@id("not-deep") forbid (principal, action == Action::"desk.read", resource)
when { context has delegation && context.delegation.depth > 1 && context.delegation.parent == "worker" };
@id("hand-on") permit (principal, action == Action::"handoff", resource)
when { context.args.max_calls <= 1000 && context.args.agent != "stranger" };
@id("hand-on-never-c") forbid (principal, action == Action::"handoff", resource)
when { context.args.roles.contains("secret") };
"""
MANIFEST = "name: handoffs\nversion: '1'\n"
AGENTS: list[dict[str, object]] = [
    {"agent_id": "lead", "roles": ["a", "b"]},
    {"agent_id": "worker", "roles": ["b", "c"]},
    {"agent_id": "stranger", "roles": ["b"]},
    {"agent_id": "abroad", "roles": ["b"], "tenant": "another"},
]


def desk(extra: str = "") -> dict[str, str]:
    return {**release_files(), "release.yaml": MANIFEST, "policies/desk.cedar": POLICIES + extra}


def driver(kind: type[Driver] = Driver, extra: str = "", manifest: str = "") -> Driver:
    d = kind()
    files = desk(extra)
    files["release.yaml"] += manifest
    d.deploy(compile_release(files), now=True)
    d.control_event("agents.registered", agents=AGENTS)
    if isinstance(d, SignedDriver):
        for agent in AGENTS:
            d.control_event(
                "key.added", **key_body(f"agent:{agent['agent_id']}", str(agent["agent_id"]), "agent")
            )
    d.open_session("s", "lead")
    return d


def hand_on(d: Driver, to: str = "worker", session: str = "w", **terms: object) -> Decision:
    return d.hand_off(
        to, session, agent=str(terms.pop("agent", "lead")), by=str(terms.pop("by", "s")), **terms
    )


def handed(d: Driver, to: str = "worker", session: str = "w", **terms: object) -> Session:
    """Handed on and delivered."""
    assert hand_on(d, to, session, **terms).outcomes[0].status == "delegated", d.replies[-1]
    assert d.deliver().outcomes[0].status == "opened"
    return d.state.sessions[session_key(to, session)]


def reason(decision: Decision) -> str:
    return decision.outcomes[-1].reason


def call(d: Driver, tool: str, arguments: dict[str, object] | None = None, session: str = "w", agent: str = "worker") -> Decision:  # fmt: skip
    return d.call(tool, arguments, agent=agent, session=session)


def test_a_session_is_handed_on() -> None:
    d = driver()
    session = handed(d, max_calls=7, goal="sort the post")
    assert (session.origin, session.chain, session.roles_cap, session.calls_cap) == (
        "handoff",
        "lead",
        "a\nb",
        7,
    )
    assert (session.on_behalf_of, session.subject) == ("person-1", "person-1"), (
        "not what anybody says: the parent's"
    )
    told = {(p.agent_id, p.status): p for p in d.replies[-2:]}
    about = orjson.loads(told["worker", "opened"].result or b"")
    assert about == {
        "from": "lead", "goal": "sort the post", "max_calls": 7, "on_behalf_of": "person-1", "roles": ["a", "b"],
    }  # fmt: skip
    assert told["lead", "opened"].intent_id == d.transfers[0].intent_id
    opened = d.state.sessions[session_key("lead", "s")]
    assert opened.calls_given == 7


def test_a_handoff_only_narrows() -> None:
    """By role, by name, and by what is forbidden to the one who handed on."""
    d = driver()
    handed(d)
    assert call(d, "desk.read").dispatches
    assert call(d, "desk.set").dispatches, "both have role b"
    assert reason(call(d, "desk.pay")) == "no_permit", "role c is not the lead's"
    assert reason(call(d, "desk.look")) == "delegation_exceeded", (
        "permitted to the worker by name, not to the lead"
    )
    assert reason(call(d, "desk.set", {"value": "not for lead"})) == "delegation_exceeded"
    d.open_session("own", "worker")
    for tool in ("desk.pay", "desk.look", "desk.set"):
        assert call(d, tool, session="own").dispatches, "in a session of its own it has all it has"


def test_roles_may_be_named_and_never_added() -> None:
    d = driver()
    assert handed(d, roles=["a", "c"]).roles_cap == "a", "the lead has no role c to give"
    assert reason(call(d, "desk.set")) == "no_permit"


def test_a_role_that_was_taken_away_since_does_not_count() -> None:
    d = driver()
    handed(d)
    d.control_event("agents.registered", agents=[{"agent_id": "lead", "roles": ["a"]}])
    assert reason(call(d, "desk.set")) == "delegation_exceeded"


@pytest.mark.parametrize("event", ["agent.suspended", "agent.retired"])
def test_a_broken_chain_ends_it(event: str) -> None:
    d = driver()
    handed(d)
    d.control_event(event, agent_id="lead")
    assert reason(call(d, "desk.read")) == "delegation_ended"
    assert reason(hand_on(d, "stranger", "x", agent="worker", by="w")) == "delegation_ended"


def test_a_hold_for_anybody_in_the_chain_holds() -> None:
    d = driver(
        extra='@id("worker-asks") permit (principal == Agent::"worker", action == Action::"desk.ask", resource);'
    )
    handed(d)
    held = call(d, "desk.ask")
    assert held.outcomes[-1].status == "held", "the worker may, the lead may only when somebody agrees"
    d.open_session("own", "worker")
    assert call(d, "desk.ask", session="own").dispatches


def test_quarantine_reaches_what_was_handed_on() -> None:
    d = driver()
    handed(d)
    for scope, value, expected in (
        ("agent", "lead", "delegation_ended"), ("session", "w", "quarantined"), ("agent", "worker", "quarantined"),
    ):  # fmt: skip
        d.control_event("quarantine.added", scope=scope, value=value, why="a test")
        assert reason(call(d, "desk.read")) == expected
        d.control_event("quarantine.lifted", scope=scope, value=value)
    assert call(d, "desk.read").dispatches
    for scope, value in (("agent", "lead"), ("session", "s"), ("tool", "handoff"), ("agent", "worker"), ("session", "x")):  # fmt: skip
        d.control_event("quarantine.added", scope=scope, value=value, why="a test")
        assert reason(hand_on(d, session="x")) == "quarantined"
        d.control_event("quarantine.lifted", scope=scope, value=value)
    hand_on(d, session="x")
    d.control_event("quarantine.added", scope="agent", value="worker", why="a test")
    assert reason(d.deliver()) == "quarantined"


# -- who may hand on -----------------------------------------------------------------------------------------------


def test_a_handoff_needs_a_permit_that_names_it() -> None:
    d = driver()
    d.deploy(
        compile_release(
            {**release_files(), "policies/desk.cedar": '@id("all") permit (principal, action, resource);'}
        ),
        now=True,
    )
    assert reason(hand_on(d)) == "no_permit"
    assert not d.transfers


def test_policies_see_the_terms() -> None:
    d = driver()
    assert reason(hand_on(d, max_calls=1001)) == "no_permit"
    assert reason(hand_on(d, "stranger")) == "no_permit"
    assert reason(hand_on(d)) == ""
    d.control_event("agents.registered", agents=[{"agent_id": "lead", "roles": ["b", "secret"]}])
    refused = hand_on(d)
    assert (reason(refused), refused.outcomes[0].policies) == ("forbidden", ["hand-on-never-c"])


def test_observing_does_not_widen_a_handoff() -> None:
    d = driver()
    d.control_event("people.registered", people=[{"person_id": "operator", "roles": ["operator"]}])
    d.control_event("mode.set", scope="agent", value="lead", mode="observe")
    assert reason(hand_on(d, max_calls=1001)) == "no_permit"


def test_a_held_permit_is_none() -> None:
    d = driver()
    files = desk().copy()
    files["policies/desk.cedar"] = POLICIES.replace(
        '@id("hand-on") permit', '@id("hand-on") @hold("ask") permit'
    )
    d.deploy(compile_release(files), now=True)
    assert reason(hand_on(d)) == "forbidden"


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"to": "nobody"}, "unknown_agent"),
        ({"to": "abroad"}, "other_tenant"),
        ({"by": "no such"}, "unknown_session"),
        ({"max_calls": 0}, "schema_violation"),
        ({"max_calls": "7"}, "schema_violation"),
        ({"calls": 7}, "schema_violation"),
        ({"session": "a\nb"}, "bad_identifier"),
        ({"goal": "x" * 5_000}, "too_large"),
    ],
)
def test_what_cannot_be_handed_on(terms: dict[str, object], expected: str) -> None:
    d = driver()
    assert reason(hand_on(d, **terms)) == expected  # type: ignore[arg-type]
    assert not d.transfers
    assert d.replies[-1].status == "refused"


def test_a_suspended_agent_gets_nothing() -> None:
    d = driver()
    d.control_event("agent.suspended", agent_id="worker")
    assert reason(hand_on(d)) == "suspended_agent"
    d.control_event("agent.resumed", agent_id="worker")
    hand_on(d)
    d.control_event("agent.suspended", agent_id="worker")
    assert reason(d.deliver()) == "suspended_agent", "suspended while it was on its way"
    assert [(p.agent_id, p.status) for p in d.replies[-1:]] == [("lead", "refused")]


# -- budget and depth ----------------------------------------------------------------------------------------------


def test_the_budget_is_the_calls_and_what_is_handed_on() -> None:
    d = driver()
    handed(d, max_calls=3)
    assert call(d, "desk.read").dispatches
    assert reason(hand_on(d, "stranger", "x", agent="worker", by="w", max_calls=3)) == "budget_exhausted"
    handed(d, "lead", "back", agent="worker", by="w", max_calls=1)
    assert call(d, "desk.read").dispatches
    assert reason(call(d, "desk.read")) == "budget_exhausted", "two calls, and one handed on"


def test_without_a_word_the_budget_is_what_is_left() -> None:
    d = driver()
    assert handed(d).calls_cap == DEFAULT_CALLS
    handed(d, session="w2", max_calls=4)
    assert handed(d, "lead", "back", agent="worker", by="w2").calls_cap == 4
    assert reason(call(d, "desk.read", session="w2")) == "budget_exhausted"


def test_it_ends_somewhere() -> None:
    d = driver()
    by, agent = "s", "lead"
    for level in range(MAX_DEPTH):
        to = "worker" if agent == "lead" else "lead"
        session = handed(d, to, f"d{level}", agent=agent, by=by, max_calls=50 - level)
        assert len(names(session.chain)) == level + 1
        by, agent = f"d{level}", to
    assert reason(hand_on(d, "lead", "one more", agent=agent, by=by)) == "delegation_too_deep"


def test_policies_see_depth_and_parent() -> None:
    d = driver()
    handed(d)
    handed(d, "lead", "back", agent="worker", by="w", max_calls=2)
    assert reason(call(d, "desk.read", session="back", agent="lead")) == "forbidden"
    assert call(d, "desk.read").dispatches


# -- taint ---------------------------------------------------------------------------------------------------------


def test_labels_travel() -> None:
    """Into the session that is handed on, and into what the other agent remembers."""
    d = driver()
    d.finish(call(d, "desk.read", session="s", agent="lead").dispatches[0], b'{"x":1}')
    before = d.state.sessions[session_key("lead", "s")]
    assert before.integrity
    session = handed(d)
    assert (session.integrity, session.confidentiality) == (before.integrity, before.confidentiality)
    d.feed("intents", d.intent(agent="worker", session="mine", kind="session.open"))
    mine = d.state.sessions[session_key("worker", "mine")]
    assert (mine.integrity, mine.confidentiality) == (before.integrity, before.confidentiality)


def test_handing_on_to_oneself_washes_nothing() -> None:
    d = driver()
    d.finish(call(d, "desk.read", session="s", agent="lead").dispatches[0], b'{"x":1}')
    assert handed(d, "lead", "clean").integrity == d.state.sessions[session_key("lead", "s")].integrity != 0


def test_a_new_session_keeps_what_was_secret() -> None:
    """An agent that saw something secret cannot forget it by a new session id."""
    contract = json.loads(desk()["contracts/desk.read.json"])
    contract["x-sluicegate"]["confidential"] = {"$": "secret"}
    d = driver()
    d.deploy(compile_release({**desk(), "contracts/desk.read.json": json.dumps(contract)}), now=True)
    d.finish(call(d, "desk.read", session="s", agent="lead").dispatches[0], b'{"x":1}')
    d.feed("intents", d.intent(agent="lead", session="new", kind="session.open"))
    assert d.state.sessions[session_key("lead", "new")].confidentiality == 2


@pytest.mark.parametrize("confidentiality", [0, 1, 2])
def test_marks(confidentiality: int) -> None:
    assert from_mark(mark_of(0b10110, confidentiality)) == (0b10110, confidentiality)
    assert from_mark(mark_of(1, confidentiality) | mark_of(2, 1))[1] == max(confidentiality, 1)


# -- the way there -------------------------------------------------------------------------------------------------


def test_a_transfer_counts_once() -> None:
    d = driver()
    handed(d)
    again = d.deliver()
    assert (again.outcomes[0].status, again.outcomes[0].reason) == ("noted", "duplicate")
    d.close_session("w", "worker")
    assert d.deliver().outcomes[0].reason == "duplicate", "a copy does not open it again"


def test_a_session_that_is_open_is_not_handed_on() -> None:
    d = driver()
    d.open_session("w", "worker")
    hand_on(d)
    refused = d.deliver()
    assert (refused.outcomes[0].status, reason(refused)) == ("session_refused", "id_conflict")
    assert d.replies[-1].agent_id == "lead"


def test_an_old_transfer_opens_nothing() -> None:
    d = driver()
    hand_on(d)
    d.now += 25 * 3_600_000_000
    assert reason(d.deliver()) == "too_old"


def test_only_the_pipeline_transfers() -> None:
    """In a signed environment: a record that an agent, or nobody, signed opens nothing."""
    d = driver(SignedDriver)
    hand_on(d)
    transfer = d.transfers[-1]
    for value in (
        codec.encode(transfer),
        d.sign(transfer, "transfers", "agent:lead"),  # type: ignore[attr-defined]
        d.sign(transfer, "dispatches", PIPELINE),  # type: ignore[attr-defined]
    ):
        assert d.feed("transfers", value).outcomes[0].status == "unreadable"
    assert d.deliver().outcomes[0].status == "opened"
    dispatch = call(d, "desk.read").dispatches[0]
    assert dispatch.proof


def test_another_partition_opens_it() -> None:
    """The sender's partition knows nothing of the session; the receiver's has it with all it carries."""
    d = driver()
    hand_on(d)
    other = Driver(partition=partition_of("worker", 7), partitions=7)
    other.deploy(compile_release(desk()), now=True)
    other.control_event("agents.registered", agents=AGENTS)
    other.now = d.now
    assert partition_of("worker", 7) != partition_of("lead", 7), murmur2(b"lead")
    assert other.feed("transfers", d.transfers[0]).outcomes[0].status == "opened"
    assert session_key("worker", "w") not in d.state.sessions
    assert call(other, "desk.set").dispatches


def test_it_is_replayed_and_snapshot_byte_for_byte() -> None:
    d = driver()
    handed(d, max_calls=5)
    call(d, "desk.set")
    call(d, "desk.pay")
    hand_on(d, "nobody")
    found = check(d)
    assert (found.different, found.same > 5) == (0, True)
    again = snapshot.decode(snapshot.encode(d.state))
    assert again.sessions == d.state.sessions
    assert snapshot.encode(again) == snapshot.encode(d.state)


def test_names_are_joined_without_loss() -> None:
    assert names(join_names(["a", "b c", "é"])) == ("a", "b c", "é")
    assert names(join_names([])) == ()
    assert names(join_names(["a\nb", "c", ""])) == ("c",), (
        "what cannot be told apart is left out, which narrows"
    )


def test_no_contract_is_named_like_a_handoff() -> None:
    contract = json.loads(desk()["contracts/desk.read.json"])
    contract["name"] = "handoff"
    with pytest.raises(Terminal, match="hand-offs"):
        compile_release({**desk(), "contracts/desk.read.json": json.dumps(contract)})


def test_a_policy_on_a_term_that_does_not_exist_is_refused() -> None:
    wrong = '@id("w") permit (principal, action == Action::"handoff", resource) when { context.args.max_call < 3 };'
    with pytest.raises(Terminal, match="max_calls"):
        compile_release(desk(wrong))


def test_an_agent_may_not_send_a_transfer_as_an_intent() -> None:
    d = driver()
    hand_on(d)
    refused = d.feed("intents", d.transfers[0]).outcomes[0]
    assert (refused.status, refused.reason) == ("unreadable", "unexpected_type")
    assert isinstance(refused.facts, r.IntakeFacts)


# -- guardrails ----------------------------------------------------------------------------------------------------


def ruled(*rules: dict[str, object]) -> Driver:
    """A driver whose release has these guardrails."""
    return driver(manifest=json.dumps({"guardrails": list(rules)})[1:-1] + "\n")


def about(**fields: object) -> dict[str, object]:
    return {"id": "g", "on": "call", "tools": ["handoff"], **fields}


SECRET = about(detect=["secret"], fields=["args.goal"], say="no keys in goals")


def test_guardrails_refuse_a_handoff() -> None:
    key = "use AKIA" + "QRSTUVWXYZ234567"
    for rule, terms in (
        (SECRET, {"goal": key}),
        (about(when="args.agent == 'worker' && args.max_calls > 5"), {"max_calls": 6}),
        (
            about(when="tool == 'handoff' && session.calls == 0 && args.goal.contains('post')"),
            {"goal": "the post"},
        ),
    ):
        d = ruled(rule)
        refused = hand_on(d, **terms)
        assert [(o.status, o.reason, o.policies) for o in refused.outcomes] == [
            ("session_refused", "guardrail", ["g"])
        ]
        assert (refused.transfers, d.replies[-1].status) == ([], "refused")
        assert "`g`" in d.replies[-1].for_developer
        assert hand_on(d, goal="sort it", max_calls=5).outcomes[0].status == "delegated"
        assert check(d).different == 0


def test_a_guardrail_that_errors_refuses_the_handoff() -> None:
    assert reason(hand_on(ruled(about(when="args.roles[9] == 'a'")))) == "guardrail_error"


def test_rules_about_tools_are_not_about_handoffs() -> None:
    d = ruled({"id": "g", "on": "call", "when": "true"})
    assert hand_on(d).outcomes[0].status == "delegated"
    assert reason(d.call("desk.read", session="s", agent="lead")) == "guardrail"


@pytest.mark.parametrize(
    "fields",
    [{"when": "true", "verdict": "hold"}, {"detect": ["iban"], "verdict": "redact"}, {"plugin": "p"},
     {"when": "true", "mode": "observe"}, {"when": "args.goul == ''"}, {"detect": ["iban"], "fields": ["args.goul"]}],
)  # fmt: skip
def test_what_a_guardrail_cannot_do_about_a_handoff(fields: dict[str, object]) -> None:
    with pytest.raises(Terminal, match="guardrail `g`"):
        ruled(about(**fields))
