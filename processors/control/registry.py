"""Who exists: agents, people and their keys, as control's fold keeps them.

Plain records; who may do what is said by policies, never here. A record on a topic names only an id: tenant, team,
roles and status come from this registry. Next: `control/control.py` (the fold that fills it), `intake.py` (who checks keys).
"""

from __future__ import annotations

from dataclasses import dataclass

ACTIVE, SUSPENDED, RETIRED = "active", "suspended", "retired"
"""The status of an agent. Only `active` may ask; `retired` is for ever, so that an id never comes to mean another."""

OPERATOR_ROLE = "operator"
"""People of this role may change control where the release has no `control.cedar`."""

MANAGING = ("people.registered", "key.added", "api_key.added")
"""Events that make people and keys, which `control.cedar` may ask for a permit: else whoever may write control could be
two people. Removing and revoking take something back, and are never asked."""


ERASING = ("subject.erased",)
"""Events that destroy what was said about people, for ever (`erasure.py`): `control.cedar` may ask for a permit, and for a second
person."""


GUARDING = (
    "agents.registered", "agent.rolled_back", "quarantine.lifted", "review.ended", "alarm.acked", "alarms.bounded", "release.attested",
    "generation.begun", "generation.started",
)  # fmt: skip
"""Further events that `control.cedar` may ask for a permit: they give agents roles, take agents back, end what protects, widen what
is done without a person, vouch for a release, or stop all new calls and lead the log on elsewhere. Their opposites (quarantine,
review, suspend, a repartition called off) are never asked."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent."""

    agent_id: str
    tenant: str
    team: str
    roles: tuple[str, ...]
    status: str = ACTIVE


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may review held calls, or operates. `name` is shown only; `roles` are what `@reviewers` asks for."""

    person_id: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who may say, by tokens, for whom a session is.

    Attributes:
        issuer: the tokens' `iss`.
        audience: must be among their `aud`.
        keys: public JWKs as JSON.
        prefix: put before their `sub`, so that two issuers never name the same person by accident.
        discover: whether its newest keys may be asked of itself; what is decided and replayed goes by `keys` alone.
    """

    issuer: str
    audience: str
    keys: tuple[str, ...]
    prefix: str = ""
    discover: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key bound to a principal and a role.

    Attributes:
        public: the Ed25519 public key; empty for a MAC key, whose secret stays in the processes' own key file.
        not_before, not_after: microseconds; valid from the first until before the second.
    """

    kid: str
    principal: str
    role: str
    alg: str
    public: bytes
    not_before: int
    not_after: int


def inactive(agent: Agent | None) -> str:
    """The reason why an agent may not ask, or an empty string."""
    if agent is None:
        return "unknown_agent"
    return {ACTIVE: "", RETIRED: "retired_agent"}.get(agent.status, "suspended_agent")
