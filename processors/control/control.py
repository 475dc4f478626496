"""The fold of the `control` ledger: who exists, which keys are valid, what is observed or stopped, which release is deployed.

Control is a ledger partition of its own with the same records; its bodies are canonical JSON in `ControlFacts`.
Never decides about intents; `pipeline.py` reads this. An event nobody was permitted to write, or of a form this
version does not know, changes nothing. Next: `control/registry.py` (what it holds), `modes.py`, `control/policy.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from sluicegate.processors import erasure, modes
from sluicegate.processors.agents import orders as agent_orders
from sluicegate.processors.agents.orders import AgentOrders
from sluicegate.processors.control import api_keys, attestation, authority, changes, deployments, quarantine
from sluicegate.processors.control import orders as rollbacks
from sluicegate.processors.control import policy as control_policy
from sluicegate.processors.control.api_keys import ApiKey
from sluicegate.processors.control.attestation import Attested
from sluicegate.processors.control.changes import Change
from sluicegate.processors.control.deployments import Canary
from sluicegate.processors.control.orders import Orders
from sluicegate.processors.control.registry import (
    ACTIVE,
    OPERATOR_ROLE,
    RETIRED,
    SUSPENDED,
    Agent,
    Issuer,
    Key,
    Person,
)
from sluicegate.processors.drift import alarm_events
from sluicegate.processors.drift.alarm_events import Alarm, Bounds
from sluicegate.processors.seam import generations
from sluicegate.processors.seam.generations import Generation
from sluicegate.schemas.records import ControlFacts

if TYPE_CHECKING:
    from sluicegate.processors.releases.release import CompiledRelease

__all__ = ["Agent", "Control", "Issuer", "Key", "Person", "fold"]

MAX_AGENTS = 1_000_000
"""Agents in one control ledger: about 500 bytes each. Keys count as much."""

MAX_PEOPLE = 100_000
"""People in one control ledger: about 400 bytes each, 40 MB; `sluicegate people register` stops there."""

MAX_LIFTED = 10_000
"""Accounts whose freeze was ever lifted, about 200 bytes each: a person writes each."""

MAX_ISSUERS = 100
"""Issuers of tokens: a few kB of keys each."""

Body = dict[str, object]


@dataclass(slots=True)
class Control:
    """Control as of `head`. A new object per event: decisions may keep the one they were made under."""

    head: int = -1
    log_id: bytes = b""
    """Of the generation that decides, as `partitions`; control's own is `own_log`."""
    env: str = ""
    partitions: int = 0
    signing: str = "dev"
    agents: dict[str, Agent] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    operated: bool = False
    """Whether an operator's key was ever registered: from then on a signed environment takes their events only."""
    issuers: dict[str, Issuer] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    """By id; read by gateways (`api_keys.opened`)."""
    modes: dict[tuple[str, str], str] = field(default_factory=dict)
    """(agent | tool | environment | policy, its id) -> observe | enforce; read by `modes.mode_for`."""
    quarantines: dict[tuple[str, str], str] = field(default_factory=dict)
    """(agent | tool | session | release, its id) -> why; read by `quarantine.quarantined`."""
    orders: Orders = field(default_factory=dict)
    """Calls that operators ordered to be taken back; read by `quarantine.quarantined`."""
    agent_orders: AgentOrders = field(default_factory=dict)
    """Agents that were ordered back to an earlier point; read by `agents/restore.py`."""
    lifted: dict[str, int] = field(default_factory=dict)
    """Account of a budget -> the event that lifted its freeze; read by `budget_state.frozen`."""
    published: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    """Published digest -> the digest it was derived from, where it says so."""
    deployed: str = ""
    deployed_at: int = 0
    """Time of the event that deployed it, in microseconds: what came before is what the sentinel compares with."""
    previous: tuple[str, ...] = ()
    canary: Canary | None = None
    pins: dict[tuple[str, str], str] = field(default_factory=dict)
    """(agent | session, its id) -> digest; read, like the three above, by `deployments.release_for`."""
    withdrawn: dict[str, int] = field(default_factory=dict)
    """Digest -> the control event that ended it for sessions that stood on it."""
    aborted: frozenset[str] = frozenset()
    """Digests that were rolled back: nothing goes back to them."""
    moved: int = -1
    """The newest event that changed which release decides for whom."""
    attested: Mapping[str, Attested] = field(default_factory=dict)
    """Digest -> another environment's word that it ran there; read by `control/policy.py`."""
    changes: Mapping[int, Change] = field(default_factory=dict)
    """Proposed events that wait for more people, by the event that proposed them; see `control/changes.py`."""
    at: int = 0
    """Time of the newest event, in microseconds; never runs backwards. What bounds automatic actions goes by it."""
    alarms: Mapping[str, Alarm] = field(default_factory=dict)
    """The sentinel's, by id; these three are read by `drift/alarm_events.py`."""
    bounds: Bounds = field(default_factory=Bounds)
    acts: tuple[int, ...] = ()
    """Times of the automatic actions of the last day."""
    reviews: Mapping[str, str] = field(default_factory=dict)
    """Agent -> why every call of it needs a person; read by `authorize.py`."""
    erased: erasure.Erased = field(default_factory=dict)
    """Subjects whose keys were destroyed; read by `erasure.erased_by`."""
    generations: tuple[Generation, ...] = ()
    """Those that were started, the first one from genesis."""
    repartition: Generation | None = None
    """The one that is begun and not started: nothing new is permitted meanwhile."""
    release: CompiledRelease | None = None
    """The compiled form of `deployed`, attached by the reader; not part of the fold."""
    mac_keys: dict[str, bytes] = field(default_factory=dict)
    """Secrets of MAC keys by kid, attached by the reader in signed mode; not part of the fold."""
    releases: Mapping[str, CompiledRelease] = field(default_factory=dict)
    """Those at hand, by digest, attached by the reader; not part of the fold."""
    views: dict[str, Control] = field(default_factory=dict, init=False)
    """See `deployments.view`; every new object begins without."""

    @property
    def own_log(self) -> bytes:
        """The log id of the control ledger itself: that of the first generation."""
        return generations.first(self).log_id


def fold(control: Control, seq: int, facts: ControlFacts, at: int = 0) -> Control:
    """Control after one event, decided `at` microseconds. Unknown kinds change nothing, so an older worker can read a newer ledger.

    For the kinds in `ASKS_RELEASE` the release must be attached to `control`, since its `control.cedar` is asked.
    """
    new = replace(control, head=seq, at=max(control.at, at))
    if control_policy.not_signed(control, seq, facts):
        return new
    body = cast(Body, json.loads(facts.body))
    if not authority.unauthorised(new, facts, body):
        perform(new, facts.kind, body, facts.who)
    return new


def refusal(control: Control, seq: int, facts: ControlFacts, at: int = 0) -> str:
    """Why `fold` leaves an event out although it can be read, in words; else empty. Asks what `fold` asks."""
    new = replace(control, head=seq, at=max(control.at, at))
    reason = control_policy.not_signed(control, seq, facts)
    return reason or authority.unauthorised(new, facts, cast(Body, json.loads(facts.body)))


def fold_any(control: Control, seq: int, facts: ControlFacts, at: int = 0) -> tuple[Control, str]:
    """As `fold`, for who reads what others wrote: an event of another form changes nothing, and in what it is wrong is said.

    Only the first event, which names the log, has to be one. Raises for that as `fold` does.
    """
    try:
        return fold(control, seq, facts, at), ""
    except Exception as error:  # all readers do the same: whatever a body leads to follows from its bytes
        # INVARIANT: no event stops those who follow control (tests/unit/test_control_reader.py).
        if seq == 0:
            raise
        return replace(control, head=seq, at=max(control.at, at)), type(error).__name__


def perform(new: Control, kind: str, body: Body, who: str) -> None:
    """What an event changes, whoever was asked before."""
    step = _STEPS.get(kind)
    if step is not None:
        step(new, body, who)
        alarm_events.acted(new, who, kind, body)
        if kind in deployments.MOVING:
            new.moved = new.head


def _change_agreed(new: Control, body: Body, who: str) -> None:
    change = changes.agree(new, body, who)
    if change is not None:
        perform(new, change.kind, dict(change.body), change.who)


ASKS_RELEASE = frozenset((authority.MODE_SET, *control_policy.GOVERNED, *changes.KINDS))
"""Kinds whose fold asks the release that was deployed before them."""


def _genesis(new: Control, body: Body, who: str) -> None:
    new.log_id = bytes.fromhex(str(body["log_id"]))
    new.env, new.partitions = str(body["env"]), cast(int, body["partitions"])
    new.signing = str(body["signing"])
    new.generations = (Generation(0, new.log_id, new.partitions, new.head, new.head),)
    if body.get("operator"):  # whoever made the environment is its first operator
        first = Person(str(body["operator"]), "", (OPERATOR_ROLE,))
        new.people = {first.person_id: first}


def _agents_registered(new: Control, body: Body, who: str) -> None:
    new.agents = dict(new.agents)
    for row in cast("list[Body]", body["agents"]):
        agent = Agent(
            str(row["agent_id"]), str(row.get("tenant", "default")), str(row.get("team", "")), _roles(row),
            str(row.get("status", ACTIVE)),
        )  # fmt: skip
        known = new.agents.get(agent.agent_id)
        if known is not None:
            # INVARIANT: registering again never resumes (tests/unit/test_control.py::test_register_again_never_resumes).
            agent = replace(agent, status=known.status)
        new.agents[agent.agent_id] = agent


def _people_registered(new: Control, body: Body, who: str) -> None:
    rows = [
        Person(str(row["person_id"]), str(row.get("name", "")), _roles(row))
        for row in cast("list[Body]", body["people"])
    ]
    new.people = {**new.people, **{person.person_id: person for person in rows}}


def _people_removed(new: Control, body: Body, who: str) -> None:
    gone = {str(one) for one in cast("list[object]", body["people"])}
    new.people = {k: v for k, v in new.people.items() if k not in gone}


def _status(status: str) -> Callable[[Control, Body, str], None]:
    def step(new: Control, body: Body, who: str) -> None:
        agent = new.agents.get(str(body["agent_id"]))
        # INVARIANT: nothing follows `retired` (tests/unit/test_control.py::test_retired_is_for_ever).
        if agent is not None and agent.status != RETIRED:
            new.agents = {**new.agents, agent.agent_id: replace(agent, status=status)}

    return step


def _key_added(new: Control, body: Body, who: str) -> None:
    kid = str(body["kid"])
    # INVARIANT: a kid never comes to mean another key (tests/unit/test_control.py::test_kid_is_never_reused).
    if kid not in new.keys:
        key = Key(
            kid, str(body["principal"]), str(body["role"]), str(body["alg"]), bytes.fromhex(str(body["public"])),
            cast(int, body["not_before"]), cast(int, body["not_after"]),
        )  # fmt: skip
        new.keys = {**new.keys, kid: key}
        new.operated = new.operated or key.role == control_policy.OPERATOR


def _key_revoked(new: Control, body: Body, who: str) -> None:
    """`at`: when it ends, in microseconds; 0 ends it with this very event, whatever any clock says."""
    kid, at = str(body["kid"]), cast(int, body.get("at", 0))
    key = new.keys.get(kid)
    if key is not None:
        new.keys = {**new.keys, kid: replace(key, not_after=min(key.not_after, at))}


def _issuer_added(new: Control, body: Body, who: str) -> None:
    """Adding an issuer again replaces its keys: that is how they are rotated."""
    keys = tuple(str(key) for key in cast("list[object]", body["keys"]))
    issuer = Issuer(
        str(body["issuer"]),
        str(body["audience"]),
        keys,
        str(body.get("prefix", "")),
        body.get("discover") is True,
    )
    if issuer.issuer in new.issuers or len(new.issuers) < MAX_ISSUERS:
        new.issuers = {**new.issuers, issuer.issuer: issuer}


def _issuer_removed(new: Control, body: Body, who: str) -> None:
    new.issuers = {k: v for k, v in new.issuers.items() if k != str(body["issuer"])}


def _mode_set(new: Control, body: Body, who: str) -> None:
    new.modes = modes.with_mode(new.modes, str(body["scope"]), str(body["value"]), str(body["mode"]))


def _quarantine_added(new: Control, body: Body, who: str) -> None:
    scope, value, why = str(body["scope"]), str(body["value"]), str(body.get("why", ""))
    new.quarantines = quarantine.with_quarantine(new.quarantines, scope, value, why)
    new.orders = rollbacks.without_leave(new.orders, scope, value)


def _quarantine_lifted(new: Control, body: Body, who: str) -> None:
    new.quarantines = quarantine.without(new.quarantines, str(body["scope"]), str(body["value"]))


def _rollback_ordered(new: Control, body: Body, who: str) -> None:
    new.orders = rollbacks.with_order(new.orders, body, new.quarantines, new.head, who)


def _agent_rolled_back(new: Control, body: Body, who: str) -> None:
    new.agent_orders = agent_orders.with_order(new.agent_orders, body, new.head, who)


def _rollback_ended(new: Control, body: Body, who: str) -> None:
    new.orders = rollbacks.with_end(new.orders, body)


def _budget_lifted(new: Control, body: Body, who: str) -> None:
    """An overrun froze it before this event; a later one freezes it again."""
    account = str(body["account"])
    if account in new.lifted or len(new.lifted) < MAX_LIFTED:
        new.lifted = {**new.lifted, account: new.head}


def _published(new: Control, body: Body, who: str) -> None:
    digest, parent = str(body["digest"]), str(body.get("parent", ""))
    new.published = {**new.published, digest: f"{body['name']} {body['version']}"}
    if parent:
        new.parents = {**new.parents, digest: parent}


_STEPS: dict[str, Callable[[Control, Body, str], None]] = {
    "genesis": _genesis,
    "agents.registered": _agents_registered,
    "agent.suspended": _status(SUSPENDED),
    "agent.resumed": _status(ACTIVE),
    "agent.retired": _status(RETIRED),
    "people.registered": _people_registered,
    "people.removed": _people_removed,
    "key.added": _key_added,
    "key.revoked": _key_revoked,
    api_keys.ADDED_KIND: api_keys.added,
    api_keys.REVOKED_KIND: api_keys.revoked,
    "issuer.added": _issuer_added,
    "issuer.removed": _issuer_removed,
    "mode.set": _mode_set,
    "quarantine.added": _quarantine_added,
    "quarantine.lifted": _quarantine_lifted,
    rollbacks.ORDERED_KIND: _rollback_ordered,
    rollbacks.ENDED_KIND: _rollback_ended,
    agent_orders.ROLLED_BACK_KIND: _agent_rolled_back,
    "budget.lifted": _budget_lifted,
    "release.published": _published,
    "release.deployed": deployments.deployed,
    "release.rolled_back": deployments.rolled_back,
    "release.pinned": deployments.pinned,
    "release.unpinned": deployments.unpinned,
    "canary.started": deployments.canary_started,
    "canary.paused": deployments.canary_paused,
    "canary.promoted": deployments.canary_promoted,
    "canary.aborted": deployments.canary_aborted,
    attestation.KIND: attestation.attest,
    erasure.KIND: erasure.step,
    changes.PROPOSED: changes.propose,
    changes.AGREED: _change_agreed,
    changes.WITHDRAWN: changes.withdraw,
    **generations.STEPS,
    **alarm_events.STEPS,
}
"""Kind -> what it changes in the new `Control`. Steps replace maps, never change them: the old one is still in use."""


def _roles(row: Body) -> tuple[str, ...]:
    return tuple(str(r) for r in cast("list[object]", row.get("roles", [])))
