"""Control's fold: registration, status, keys, people, and who may set a mode."""

from __future__ import annotations

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.policy import may_set_mode
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, release, release_files
from tests.signed_driver import SignedDriver

SECRET = bytes(range(32))
FOREVER = 2**53 - 1


def folded(*events: tuple[str, dict[str, object]], who: str = "operator", start: Control | None = None) -> Control:  # fmt: skip
    control = start or Control()
    for kind, body in events:
        facts = r.ControlFacts(kind, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
        control = control_fold.fold(control, control.head + 1, facts)
    return control


def agent(agent_id: str = "a", **more: object) -> tuple[str, dict[str, object]]:
    return "agents.registered", {"agents": [{"agent_id": agent_id, **more}]}


def person(person_id: str, *roles: str) -> tuple[str, dict[str, object]]:
    return "people.registered", {"people": [{"person_id": person_id, "roles": list(roles)}]}


def mode(scope: str, value: str, to: str) -> tuple[str, dict[str, object]]:
    return "mode.set", {"scope": scope, "value": value, "mode": to}


def key(kid: str = "k", principal: str = "a", role: str = "agent", secret: bytes = SECRET) -> tuple[str, dict[str, object]]:  # fmt: skip
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
    return "key.added", {
        "kid": kid, "principal": principal, "role": role, "alg": "Ed25519", "public": public, "not_before": 0,
        "not_after": FOREVER,
    }  # fmt: skip


# -- agents and people ---------------------------------------------------------------------------------------------


def test_status_follows_the_events() -> None:
    about = {"agent_id": "a"}
    seen = []
    control = folded(agent())
    for kind in ("agent.suspended", "agent.resumed", "agent.retired"):
        control = folded((kind, about), start=control)
        seen.append(control.agents["a"].status)
    assert seen == ["suspended", "active", "retired"]


def test_retired_is_for_ever() -> None:
    control = folded(
        agent(), ("agent.retired", {"agent_id": "a"}), ("agent.resumed", {"agent_id": "a"}), agent()
    )
    assert control.agents["a"].status == "retired"


def test_register_again_never_resumes() -> None:
    """`agents register --file` is run again and again; it changes roles, never a suspension."""
    control = folded(agent(roles=["one"]), ("agent.suspended", {"agent_id": "a"}), agent(roles=["two"]))
    assert (control.agents["a"].status, control.agents["a"].roles) == ("suspended", ("two",))


def test_a_status_of_nobody_changes_nothing() -> None:
    control = folded(("agent.suspended", {"agent_id": "nobody"}), ("people.removed", {"people": ["nobody"]}))
    assert (control.agents, control.people, control.head) == ({}, {}, 1)


def test_the_maker_of_an_environment_is_its_first_operator() -> None:
    body: dict[str, object] = {
        "log_id": "00",
        "env": "e",
        "partitions": 1,
        "signing": "dev",
        "operator": "olga",
    }
    assert folded(("genesis", body)).people["olga"].roles == ("operator",)


@pytest.mark.parametrize(("event", "reason"), [("agent.suspended", "suspended_agent"), ("agent.retired", "retired_agent")])  # fmt: skip
def test_an_inactive_agent_begins_nothing(event: str, reason: str) -> None:
    """No new call, no new session, no approval, no second offer; what an executor holds may still report."""
    d = Driver()
    d.open_session()
    d.call("desk.set")
    running = d.call("desk.pay").dispatches[0]
    held = d.call("desk.ask")
    d.control_event(event, agent_id=AGENT)
    assert d.call().outcomes[0].reason == reason
    assert d.open_session("another").outcomes[0].reason == reason
    assert "permitted" not in [o.status for o in d.review(held).outcomes]
    again = d.tick(8_000_000)
    assert ([o.status for o in again.outcomes], again.outcomes[0].reason) == (["expired"], reason)
    assert d.finish(running, b"{}").outcomes[0].status == "released"


# -- keys ----------------------------------------------------------------------------------------------------------


def test_kid_is_never_reused() -> None:
    first = folded(key())
    assert folded(key(principal="mallory", secret=bytes(32)), start=first).keys == first.keys


def test_revoking_never_extends() -> None:
    control = folded(key(), ("key.revoked", {"kid": "k", "at": 5}), ("key.revoked", {"kid": "k", "at": 9}))
    assert control.keys["k"].not_after == 5


def test_a_revoked_key_is_refused_from_that_event_on() -> None:
    """Whatever the clocks say: such bytes are taken before the event and refused after it."""
    d = SignedDriver()
    d.open_session()
    assert d.call().outcomes[0].status == "routed"
    d.control_event("key.revoked", kid=f"agent:{AGENT}")
    refused = d.call().outcomes[0]
    assert (refused.status, refused.reason) == ("unreadable", "key_not_valid")


def test_a_revoked_key_is_no_stranger_in_dev_either() -> None:
    """An unsigned environment takes what it cannot check, but not what a revoked key signed."""
    d = Driver()
    d.open_session()
    d.control_event(*key(principal=AGENT)[:1], **key(principal=AGENT)[1])
    for until, status in ((FOREVER, "routed"), (0, "unreadable")):
        d.control_event("key.revoked", kid="k", at=until)
        value = signing.sign(codec.encode(d.intent()), "k", "Ed25519", SECRET, "test/intents", d.now)
        assert d.feed("intents", value).outcomes[0].status == status


def test_a_held_call_of_a_revoked_key_is_not_approved() -> None:
    d = SignedDriver()
    d.open_session()
    held = d.call("desk.ask")
    d.control_event("key.revoked", kid=f"agent:{AGENT}")
    refused = d.review(held).outcomes[-1]
    assert (refused.status, refused.reason) == ("refused", "key_not_valid")


def test_rotation_overlaps() -> None:
    """Both keys are valid until the old one ends; then the new one alone."""
    d = SignedDriver()
    d.open_session()
    ends = d.now + 60_000_000
    new = bytes(range(32, 64))
    d.control_event(*key("new", AGENT, secret=new)[:1], **key("new", AGENT, secret=new)[1])
    d.control_event("key.revoked", kid=f"agent:{AGENT}", at=ends)
    for now, old_status in ((d.now, "routed"), (ends, "unreadable")):
        d.now = now
        assert d.call().outcomes[0].status == old_status
        value = signing.sign(codec.encode(d.intent()), "new", "Ed25519", new, "test/intents", d.now)
        assert d.feed("intents", value).outcomes[0].status == "routed"


# -- modes ---------------------------------------------------------------------------------------------------------


def test_only_an_operator_observes() -> None:
    start = folded(person("olga", "operator"), person("rita", "reviewer"))
    for who, taken in (("olga", True), ("rita", False), ("nobody", False)):
        control = folded(mode("agent", "a", "observe"), who=who, start=start)
        assert (("agent", "a") in control.modes) is taken
        assert (may_set_mode(start, who, "agent", "a", "observe") == "") is taken


def test_a_removed_operator_observes_nothing() -> None:
    control = folded(person("olga", "operator"), ("people.removed", {"people": ["olga"]}))
    assert not folded(mode("agent", "a", "observe"), who="olga", start=control).modes


def test_anybody_may_tighten_but_not_take_it_back() -> None:
    """`default` may loosen: an explicit enforce is what holds an observed environment."""
    control = folded(mode("tool", "t", "enforce"), mode("tool", "t", "default"), who="nobody")
    assert control.modes == {("tool", "t"): "enforce"}


CONTROL_CEDAR = """
@id("observe-tools")
permit (principal in Role::"on-call", action == Action::"mode.set", resource is Tool)
when { context.mode == "observe" };
@id("never-this")
forbid (principal, action == Action::"mode.set", resource == Tool::"desk.pay");
@id("erring")
forbid (principal in Role::"unlucky", action, resource) when { context.nothing == 1 };
"""


def test_control_cedar_decides_where_the_release_has_one() -> None:
    d = Driver()
    d.deploy(compile_release({**release_files(), "control.cedar": CONTROL_CEDAR}, proven=True))
    start = folded(person("olga", "operator"), person("otto", "on-call"), person("ute", "on-call", "unlucky"), start=d.control)  # fmt: skip
    assert start.release is not None

    def taken(who: str, scope: str, value: str) -> bool:
        return bool(folded(mode(scope, value, "observe"), who=who, start=start).modes)

    assert taken("otto", "tool", "desk.set")
    assert not taken("otto", "tool", "desk.pay")
    assert not taken("otto", "environment", "test")
    assert not taken("olga", "tool", "desk.set"), "the role operator counts only without a control.cedar"
    assert not taken("ute", "tool", "desk.set"), "a policy that errs refuses"
    assert "never-this" in may_set_mode(start, "otto", "tool", "desk.pay", "observe")


DEPLOYERS = """
@id("leads-deploy") permit (principal in Role::"lead", action in [Action::"release.deployed", Action::"release.rolled_back"], resource);
@id("small-canaries") permit (principal, action == Action::"canary.started", resource) when { context.weight_bp <= 1000 };
"""


def test_control_cedar_says_who_deploys_where_it_names_the_event() -> None:
    d = Driver()
    d.deploy(compile_release({**release_files(), "control.cedar": DEPLOYERS}))
    d.publish(release(edition="two"))
    start = folded(person("lea", "lead"), person("otto", "on-call"), start=d.control)
    two = release(edition="two").digest

    def after(kind: str, who: str, **body: object) -> Control:
        return folded((kind, body), who=who, start=start)

    assert after("release.deployed", "lea", digest=two).deployed == two
    for who in ("otto", "nobody"):
        assert after("release.deployed", who, digest=two).deployed != two
    assert after("canary.started", "otto", digest=two, weight_bp=1_000).canary is not None
    assert after("canary.started", "otto", digest=two, weight_bp=1_001).canary is None
    pinned = after("release.pinned", "nobody", scope="agent", value="a", digest=two)
    assert pinned.pins, "no policy names pins, so whoever may write control may pin"


BY_TWO = """
@id("both-by-two") @quorum("2") permit (principal in Role::"lead", action in [Action::"mode.set", Action::"release.deployed"], resource);
"""
OBSERVE_ALONE = """
@id("observe-alone") permit (principal in Role::"lead", action == Action::"mode.set", resource);
"""


def test_a_mode_is_never_set_past_a_quorum() -> None:
    """A mode is no change that several people agree to: a permit that asks for two does not let one observe."""
    for text, taken in ((BY_TWO, False), (BY_TWO + OBSERVE_ALONE, True)):
        d = Driver()
        d.deploy(compile_release({**release_files(), "control.cedar": text}))
        start = folded(person("lea", "lead"), start=d.control)
        assert bool(folded(mode("agent", AGENT, "observe"), who="lea", start=start).modes) is taken
        assert (may_set_mode(start, "lea", "agent", AGENT, "observe") == "") is taken


def test_events_of_no_form_change_no_mode() -> None:
    start = folded(person("olga", "operator"))
    for bad in (mode("planet", "a", "observe"), mode("tool", "", "observe"), mode("tool", "t", "sleep")):
        assert not folded(bad, who="olga", start=start).modes
