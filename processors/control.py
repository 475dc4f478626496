"""The fold of the `control` ledger: who exists, which keys are valid, which release is deployed.

Control is a ledger partition of its own with the same records; its bodies are canonical JSON in `ControlFacts`.
Never decides anything; `pipeline.py` reads this. Next: `authenticate.py` (keys), `release.py` (what a release is).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from sluicegate.schemas.records import ControlFacts

if TYPE_CHECKING:
    from sluicegate.processors.release import CompiledRelease

MAX_AGENTS = 1_000_000
"""Agents in one control ledger: about 500 bytes each."""

MAX_PEOPLE = 100_000
"""People in one control ledger: about 400 bytes each, 40 MB; `sluicegate people register` stops there."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent."""

    agent_id: str
    tenant: str
    team: str
    roles: tuple[str, ...]
    status: str = "active"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may review held calls. `name` is shown only; `roles` are what `@reviewers` asks for."""

    person_id: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A key bound to a principal and a role; `secret` is the Ed25519 public key, or empty for a MAC key that
    stays in the processes' own key file."""

    kid: str
    principal: str
    role: str
    alg: str
    public: bytes
    not_before: int
    not_after: int


@dataclass(slots=True)
class Control:
    """Control as of `head`. A new object per event: decisions may keep the one they were made under."""

    head: int = -1
    log_id: bytes = b""
    env: str = ""
    partitions: int = 0
    signing: str = "dev"
    agents: dict[str, Agent] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    deployed: str = ""
    previous: tuple[str, ...] = ()
    release: CompiledRelease | None = None
    """The compiled form of `deployed`, attached by the reader; not part of the fold."""
    mac_keys: dict[str, bytes] = field(default_factory=dict)
    """Secrets of MAC keys by kid, attached by the reader in signed mode; not part of the fold."""


def fold(control: Control, seq: int, facts: ControlFacts) -> Control:
    """Control after one event. Unknown kinds change nothing, so an older worker can read a newer ledger."""
    body = cast("dict[str, object]", json.loads(facts.body))
    new = replace(control, head=seq)
    kind = facts.kind
    if kind == "genesis":
        new.log_id = bytes.fromhex(str(body["log_id"]))
        new.env, new.partitions, new.signing = (
            str(body["env"]),
            cast(int, body["partitions"]),
            str(body["signing"]),
        )
    elif kind == "agents.registered":
        new.agents = dict(control.agents)
        for row in cast("list[dict[str, object]]", body["agents"]):
            agent = _agent(row)
            new.agents[agent.agent_id] = agent
    elif kind == "key.added":
        key = Key(
            str(body["kid"]), str(body["principal"]), str(body["role"]), str(body["alg"]),
            bytes.fromhex(str(body["public"])), cast(int, body["not_before"]), cast(int, body["not_after"]),
        )  # fmt: skip
        new.keys = {**control.keys, key.kid: key}
    elif kind == "key.revoked":
        kid, at = str(body["kid"]), cast(int, body["at"])
        if kid in control.keys:
            new.keys = {**control.keys, kid: replace(control.keys[kid], not_after=at)}
    elif kind == "people.registered":
        rows = [_person(row) for row in cast("list[dict[str, object]]", body["people"])]
        new.people = {**control.people, **{person.person_id: person for person in rows}}
    elif kind == "people.removed":
        gone = {str(one) for one in cast("list[object]", body["people"])}
        new.people = {k: v for k, v in control.people.items() if k not in gone}
    elif kind == "release.published":
        new.published = {**control.published, str(body["digest"]): f"{body['name']} {body['version']}"}
    elif kind == "release.deployed":
        if control.deployed:
            new.previous = (*control.previous, control.deployed)[-100:]
        new.deployed = str(body["digest"])
        if new.release is not None and new.release.digest != new.deployed:
            new.release = None
    return new


def _agent(row: dict[str, object]) -> Agent:
    return Agent(
        str(row["agent_id"]), str(row.get("tenant", "default")), str(row.get("team", "")),
        tuple(str(r) for r in cast("list[object]", row.get("roles", []))), str(row.get("status", "active")),
    )  # fmt: skip


def _person(row: dict[str, object]) -> Person:
    roles = tuple(str(r) for r in cast("list[object]", row.get("roles", [])))
    return Person(str(row["person_id"]), str(row.get("name", "")), roles)
