"""What operators do to control: deploy a release, register agents and people. Each is one chained event or a few.

Never decides who may; `control.cedar` comes with the deployment controls. Next: `control/log.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import yaml
from sluicegate.processors.control.control import MAX_AGENTS, MAX_PEOPLE
from sluicegate.processors.control.registry import RETIRED
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.route import valid_id
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.streams.control import changes, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import operator as operator
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

AGENTS_PER_EVENT = 1_000
"""About 150 bytes each: well below the limit of one control event."""

Row = dict[str, object]


async def deploy(settings: Settings, keys: Keys, folder: Path, why: str) -> tuple[str, int]:
    """Check, publish and deploy a release folder; (digest, control head). Raises `Terminal` when it does not check."""
    digest, published = await bytes_of(settings, folder)
    events = [published, ("release.deployed", cast("Row", {"digest": digest}))]
    return digest, await control_log.append(settings, keys, events, who=operator(), why=why)


async def publish(settings: Settings, keys: Keys, folder: Path, why: str) -> tuple[str, int]:
    """Check and publish a release folder, and put nothing into force; (digest, control head). Raises as `deploy`."""
    digest, published = await bytes_of(settings, folder)
    return digest, await control_log.append(settings, keys, [published], who=operator(), why=why)


async def bytes_of(settings: Settings, path: Path, *, store: bool = True) -> tuple[str, tuple[str, Row]]:
    """A release folder or a built file, checked and put on its topic; its digest, and the event that says so."""
    return await bytes_in(settings, releases.read_release(path), store=store)


async def bytes_in(
    settings: Settings, files: dict[str, str], *, store: bool = True
) -> tuple[str, tuple[str, Row]]:
    """As `bytes_of`, of files that were read already. `store` False: checked only."""
    compiled = compile_release(files)
    digest = await releases.publish(settings, files) if store else compiled.digest
    body: Row = {"digest": digest, "name": compiled.name, "version": compiled.version}
    if compiled.parent:
        body["parent"] = compiled.parent
    return digest, ("release.published", body)


async def register_agents(settings: Settings, keys: Keys, rows: list[Row], why: str) -> tuple[int, int]:
    """Register agents, or change what is registered; (control head, how many people it takes or 0).

    Raises `Terminal` for an id that cannot be one, that a person has, or that is retired.
    """
    control = await changes.look(settings)
    for row in rows:
        agent_id = str(row["agent_id"])
        if not valid_id(agent_id):
            raise WrongUsage(
                f"the agent id `{agent_id[:80]}` is not 1 to 256 printable characters, change it"
            )
        if agent_id in control.people:
            raise Terminal(f"`{agent_id}` is a person, and an agent never reviews, choose another id")
        known = control.agents.get(agent_id)
        if known is not None and known.status == RETIRED:
            raise Terminal(f"agent `{agent_id}` is retired, and that is for ever, choose another id")
    if len(control.agents.keys() | {str(row["agent_id"]) for row in rows}) > MAX_AGENTS:
        raise Terminal(f"control holds at most {MAX_AGENTS} agents, use another environment for more")
    events = [("agents.registered", body) for body in _bodies(rows)]
    return await changes.write(settings, keys, control, events, why)


async def register_people(
    settings: Settings, keys: Keys, rows: list[Row], why: str, *, dry_run: bool = False
) -> tuple[int, int]:
    """Register people who review, or change them; (control head, how many people it takes or 0). Raises `Terminal` for an id that cannot
    be one, or that an agent has: an agent never reviews."""
    control = await changes.look(settings)
    for row in rows:
        person_id, roles = str(row["person_id"]), cast("list[str]", row["roles"])
        if not valid_id(person_id) or not all(valid_id(r) and not r.split()[1:] for r in roles):
            raise WrongUsage(f"`{person_id[:80]}` or its roles are not 1 to 256 printable characters, and a role has no spaces")  # fmt: skip
        if person_id in control.agents:
            raise Terminal(f"`{person_id}` is an agent, and an agent never reviews, choose another id")
    if len(control.people.keys() | {str(row["person_id"]) for row in rows}) > MAX_PEOPLE:
        raise Terminal(f"control holds {MAX_PEOPLE} people already, remove some first")
    if dry_run:
        return control.head, 0
    event: tuple[str, Row] = ("people.registered", {"people": rows})
    return await changes.write(settings, keys, control, [event], why)


async def remove_people(
    settings: Settings, keys: Keys, people: list[str], why: str, *, dry_run: bool = False
) -> int:
    """Remove people; returns the control head. Raises `Terminal` for one who is not registered."""
    control = (await control_log.read(settings)).control
    if unknown := [p for p in people if p not in control.people]:
        raise Terminal(f"`{unknown[0][:80]}` is not registered, see `sluicegate people list`")
    if dry_run:
        return control.head
    event: tuple[str, Row] = ("people.removed", {"people": people})
    return await control_log.append(settings, keys, [event], who=operator(), why=why)


def _bodies(rows: list[Row]) -> Iterator[Row]:
    for at in range(0, len(rows), AGENTS_PER_EVENT):
        yield {"agents": rows[at : at + AGENTS_PER_EVENT]}


def read_agents(path: Path) -> list[Row]:
    """Rows of an `agents.yaml`: `agents: {id: {tenant, team, roles}}`. Raises `Terminal` for another shape."""
    try:
        agents = yaml.safe_load(path.read_text("utf-8"))["agents"]
        return [{"agent_id": agent_id, **about} for agent_id, about in agents.items()]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise Terminal(
            f"`{path}` is no agent registry, it needs `agents: {{id: {{tenant, team, roles}}}}`"
        ) from error
