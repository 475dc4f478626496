"""What operators do about agents, keys and modes: each is one control event, or two in one transaction.

Private halves go to files (`keys/files.py`) before their public halves are registered, so that no registered key is
one that nobody has. Never decides what an event means: control's fold does. Next: `control/issuers.py` (whose
tokens are believed), `control/log.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sluicegate.processors.control.control import MAX_AGENTS, Control
from sluicegate.processors.control.policy import OPERATOR, asked, may_set_mode
from sluicegate.processors.control.registry import ACTIVE, RETIRED, SUSPENDED, Key
from sluicegate.processors.modes import MAX_MODES, MODES, SCOPES
from sluicegate.processors.route import valid_id
from sluicegate.processors.transparency.checkpoints import ROLE as CHECKPOINTER
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.streams.control import changes
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import default_path, operator, who
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

FOREVER_US = 2**53 - 1
"""No end: as far as a canonical JSON number goes, the year 2255."""

ROLES = (
    "agent",
    "channel",
    "person",
    "operator",
    "executor",
    "pipeline",
    "attestor",
    "evaluator",
    CHECKPOINTER,
)
"""What a key may be for."""
LOG = "log"
"""Whose keys those that sign checkpoints are."""
MAC_ROLES = ("executor", "pipeline", "evaluator")
"""Roles inside, which share a secret file and sign with HS256."""

LEAD_US = 10_000_000
"""A second key of a role inside is used only after this, and one for checkpoints ends after it at the earliest: by then every
process has read of it (control is polled each 100 ms and counts as stale after 5 s)."""

Event = tuple[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Made:
    """A key that was made: its kid, where its private half is, and the control event that registered it, or with `waits`
    proposed to: so many people it takes."""

    kid: str
    path: Path
    head: int
    waits: int = 0


def _now_us() -> int:
    return time.time_ns() // 1000


async def _append(settings: Settings, keys: Keys, events: list[Event], why: str, head: int) -> int:
    return await control_log.append(settings, keys, events, who=operator(), why=why, expected_head=head)


# -- agents --------------------------------------------------------------------------------------------------------


async def set_status(
    settings: Settings, keys: Keys, agent: str, status: str, why: str, *, dry_run: bool = False
) -> int:
    """Suspend, resume or retire an agent. Raises `Terminal` for one that is unknown, retired, or so already."""
    control = (await control_log.read(settings)).control
    found = control.agents.get(agent)
    if found is None:
        raise Terminal(f"agent `{agent[:80]}` is not registered, see `sluicegate agents list`")
    if found.status == RETIRED:
        raise Terminal(f"agent `{agent}` is retired, and that is for ever, register another id")
    if found.status == status:
        raise Terminal(f"agent `{agent}` is {status} already, nothing to do")
    kind = {SUSPENDED: "agent.suspended", ACTIVE: "agent.resumed", RETIRED: "agent.retired"}[status]
    if dry_run:
        return control.head
    return await _append(settings, keys, [(kind, {"agent_id": agent})], why, control.head)


async def rotate(
    settings: Settings, keys: Keys, agent: str, why: str, *, overlap_us: int, path: Path | None, dry_run: bool = False
) -> tuple[Made | None, list[str]]:  # fmt: skip
    """A new key for an agent; its other valid ones end after the overlap, at once when that is 0.

    Returns what was made (None for a dry run) and the kids that end.
    """
    control = await changes.look(settings)
    if agent not in control.agents or control.agents[agent].status == RETIRED:
        raise Terminal(f"agent `{agent[:80]}` is not registered or is retired, see `sluicegate agents list`")
    now = _now_us()
    old = [
        k for k in control.keys.values() if (k.principal, k.role) == (agent, "agent") and k.not_after > now
    ]
    if dry_run:
        return None, [k.kid for k in old]
    if _people_asked(settings, control, "agent") > 1:
        raise Terminal(
            f"a new key of `{agent}` takes several people, and the old ones would end before it: `keys new`, then `keys revoke`"
        )
    kid = key_files.new_kid(agent)
    where = path or key_files.default_path(settings.home, kid)
    key = key_files.create(where, kid)
    ends = now + overlap_us if overlap_us else 0
    events: list[Event] = [
        ("key.added", _added(Key(kid, agent, "agent", "Ed25519", key.public, 0, FOREVER_US)))
    ]
    events += [("key.revoked", {"kid": k.kid, "at": ends}) for k in old]
    return Made(kid, where, await _append(settings, keys, events, why, control.head)), [k.kid for k in old]


# -- keys ----------------------------------------------------------------------------------------------------------


def _added(key: Key) -> dict[str, object]:
    return {
        "kid": key.kid, "principal": key.principal, "role": key.role, "alg": key.alg, "public": key.public.hex(),
        "not_before": key.not_before, "not_after": key.not_after,
    }  # fmt: skip


def check_key(control: Control, kid: str, principal: str, role: str, valid_us: int) -> None:
    """Raise `Terminal` when such a key would mean nothing, or would come to mean another."""
    if role not in ROLES:
        raise WrongUsage(f"role `{role}` is not one of {', '.join(ROLES)}, choose one")
    if not valid_id(kid) or not valid_id(principal):
        raise WrongUsage(
            f"`{kid[:80]}` or `{principal[:80]}` is not 1 to 256 printable characters, change it"
        )
    if kid in control.keys:
        raise Terminal(
            f"key `{kid}` is registered already, and a kid never means another key, choose another"
        )
    if len(control.keys) >= MAX_AGENTS:
        raise Terminal(f"control holds {MAX_AGENTS} keys already, use another environment")
    if role == OPERATOR and valid_us:
        raise WrongUsage("an operator's key is valid until it is revoked, leave --valid out")
    if role == "agent" and principal not in control.agents:
        raise Terminal(f"agent `{principal}` is not registered: sluicegate agents register {principal}")
    if role in ("person", "operator") and principal not in control.people:
        raise Terminal(f"person `{principal}` is not registered: sluicegate people register {principal}")


def _people_asked(settings: Settings, control: Control, role: str) -> int:
    """How many people a new key of a role takes, before a file is made for it. Raises `Terminal` for who may not."""
    answer = asked(control, who(settings, control), "key.added", {"role": role})
    if answer.reason:
        raise Terminal(f"not permitted: {answer.reason}")
    return answer.quorum


async def new_key(
    settings: Settings, keys: Keys, principal: str, role: str, why: str, *, kid: str = "", path: Path | None = None,
    valid_us: int = 0, dry_run: bool = False,
) -> Made:  # fmt: skip
    """Make a key, keep its secret in a file, register it. `valid_us`: for how long; 0 for ever."""
    control = await changes.look(settings)
    kid = kid or key_files.new_kid(principal)
    check_key(control, kid, principal, role, valid_us)
    mac = role in MAC_ROLES
    if mac and path is not None:
        raise Terminal(
            f"a {role}'s secret goes to keys/mac.json, which our processes share: leave --file out"
        )
    where = settings.home / "keys" / "mac.json" if mac else path or key_files.default_path(settings.home, kid)
    waits = _people_asked(settings, control, role)
    if dry_run:
        return Made(kid, where, control.head, waits if waits > 1 else 0)
    public = b""
    if mac:
        key_files.create_mac(settings.home, kid)
    else:
        public = key_files.create(where, kid).public
    now = _now_us()
    until = now + valid_us if valid_us else FOREVER_US
    others = any(k.role == role and k.not_before <= now < k.not_after for k in control.keys.values())
    begins = now + LEAD_US if mac and others else 0
    body = _added(Key(kid, principal, role, "HS256" if mac else "Ed25519", public, begins, until))
    return Made(kid, where, *await changes.write(settings, keys, control, [("key.added", body)], why))


async def add_key(
    settings: Settings, keys: Keys, kid: str, principal: str, role: str, public: bytes, why: str, *,
    valid_us: int = 0, dry_run: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Register the public key of a private one that is elsewhere; (control head, how many people it takes or 0)."""
    control = await changes.look(settings)
    if role in MAC_ROLES:
        raise Terminal(f"a {role} signs with a shared secret: sluicegate keys new {principal} --role {role}")
    check_key(control, kid, principal, role, valid_us)
    if dry_run:
        return control.head, 0
    until = _now_us() + valid_us if valid_us else FOREVER_US
    body = _added(Key(kid, principal, role, "Ed25519", public, 0, until))
    return await changes.write(settings, keys, control, [("key.added", body)], why)


async def revoke_key(
    settings: Settings, keys: Keys, kid: str, why: str, *, after_us: int = 0, dry_run: bool = False
) -> int:
    """End a key with this event, or after a while. One that signs checkpoints ends at a time: what it signed before stays good."""
    control = (await control_log.read(settings)).control
    key = control.keys.get(kid)
    if key is None:
        raise Terminal(f"key `{kid[:80]}` is not registered, see `sluicegate keys list`")
    if key.role == OPERATOR:
        if after_us:
            raise Terminal("an operator's key ends with the event that revokes it, leave --after out")
        others = [k for k in control.keys.values() if k.role == OPERATOR and k.not_after and k.kid != kid]
        if not any(k.principal in control.people for k in others):
            raise Terminal(f"`{kid}` is the last operator's key, and nobody could change control any more: make another first")  # fmt: skip
    if dry_run:
        return control.head
    if key.role == CHECKPOINTER:
        after_us = max(after_us, LEAD_US)
    at = _now_us() + after_us if after_us else 0
    return await _append(settings, keys, [("key.revoked", {"kid": kid, "at": at})], why, control.head)


def state_of(key: Key, now: int) -> str:
    """`valid`, `revoked`, `ended` or `not yet`, in words for a listing."""
    if key.not_after == 0:
        return "revoked"
    if now >= key.not_after:
        return "ended"
    return "valid" if now >= key.not_before else "not yet"


def first_operator(settings: Settings) -> list[Event]:
    """The first operator's key, for the transaction that makes a signed environment; its file is made here."""
    path = default_path(settings.home)
    key = key_files.load(path) if path.is_file() else key_files.create(path, key_files.new_kid(operator()))
    return [("key.added", _added(Key(key.kid, operator(), "operator", "Ed25519", key.public, 0, FOREVER_US)))]


def first_log_key(settings: Settings) -> list[Event]:
    """The first key that signs checkpoints, for the transaction that makes an environment; its file is made here."""
    kid = key_files.new_kid(LOG)
    key = key_files.create(key_files.default_path(settings.home, kid), kid)
    return [("key.added", _added(Key(kid, LOG, CHECKPOINTER, "Ed25519", key.public, 0, FOREVER_US)))]


async def _may_alone(settings: Settings, role: str) -> bool:
    control = await changes.look(settings)
    answer = asked(control, who(settings, control), "key.added", {"role": role})
    return not answer.reason and answer.quorum <= 1


async def provision(settings: Settings, keys: Keys, control: Control) -> Control:
    """Keys for the roles inside that have none yet, with their secrets in this home; does nothing where keys are.

    Other machines need a copy of `keys/mac.json`. An unsigned environment has a key for checkpoints only.
    """
    wanted = (*MAC_ROLES, CHECKPOINTER) if control.signing == "signed" else (CHECKPOINTER,)
    missing = {role for role in wanted if not any(k.role == role for k in control.keys.values())}
    if not missing:
        return control
    for role in sorted(missing):
        if role == CHECKPOINTER and not await _may_alone(settings, role):
            continue  # an environment from before checkpoints: whoever may makes it, and everything else goes on
        principal = LOG if role == CHECKPOINTER else role
        await new_key(settings, keys, principal, role, "the first key of this role")
    return (await control_log.read(settings)).control


# -- modes ---------------------------------------------------------------------------------------------------------


async def set_mode(
    settings: Settings, keys: Keys, scope: str, value: str, mode: str, why: str, *, dry_run: bool = False
) -> int:
    """Set observe or enforce. Raises `Terminal` when the event would change nothing: not permitted, or not a scope."""
    if scope not in SCOPES or mode not in MODES or not value:
        raise WrongUsage(
            f"`{scope} {value} {mode}` is no setting, write {'|'.join(SCOPES)} ID {'|'.join(MODES)}"
        )
    control = (await control_log.read(settings, with_release=True)).control
    if scope == "environment" and value != control.env:
        raise Terminal(
            f"this environment is `{control.env}`, not `{value}`, set SLUICEGATE_ENV to change another"
        )
    if reason := may_set_mode(control, who(settings, control), scope, value, mode):
        raise Terminal(f"not permitted: {reason}")
    if (scope, value) not in control.modes and len(control.modes) >= MAX_MODES:
        raise Terminal(f"control holds {MAX_MODES} settings already, take some back with `default`")
    if dry_run:
        return control.head
    body: dict[str, object] = {"scope": scope, "value": value, "mode": mode}
    return await _append(settings, keys, [("mode.set", body)], why, control.head)
