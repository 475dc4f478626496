"""What operators do with the kill switch: one control event, and a look at what is in flight.

Never decides what a quarantine stops: `processors/control/quarantine.py` does; never refuses a name because nobody knows it: what
is about to appear has to be stopped, too. Next: `control/log.py`, `inspect/open_intents.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import in_use
from sluicegate.processors.control.quarantine import (
    AGENT,
    MAX_QUARANTINES,
    RELEASE,
    SCOPES,
    SESSION,
    WHY_CHARS,
)
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.route import valid_id
from sluicegate.processors.state import OpenIntent as OpenIntent
from sluicegate.schemas.errors import SluicegateError, Terminal, WrongUsage
from sluicegate.streams.cli_words import near_names
from sluicegate.streams.control import changes, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.deployments import find
from sluicegate.streams.control.operations import operator
from sluicegate.streams.inspect.open_intents import IN_FLIGHT, folded_partitions, open_intents
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

MAX_RELEASES_READ = 20
"""How many are looked at for a tool that nobody knows: 20 x 0.1 s, after it was stopped."""
MAX_COMPARED = 20_000
"""Names that are compared for the nearest, some 20 µs each: 0.4 s."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quarantine and the calls in flight that are its own."""

    scope: str
    value: str
    why: str
    in_flight: list[OpenIntent]


@dataclass(frozen=True, slots=True)
class Stopped:
    """What became of an `add`.

    Attributes:
        head: control's head.
        value: what is stopped: of a release its whole digest.
        in_flight: the calls begun before.
        unknown: that nothing of this name is known here, and what is nearest; empty when something is.
    """

    head: int
    value: str
    in_flight: list[OpenIntent]
    unknown: str


async def add(
    settings: Settings, keys: Keys, scope: str, value: str, why: str, *, dry_run: bool = False
) -> Stopped:
    """Quarantine something. Raises `Terminal` for what cannot be."""
    control = (await control_log.read(settings)).control
    value = whole(control, scope, value)
    _check(control, scope, value, why)
    if not dry_run:
        body: dict[str, object] = {"scope": scope, "value": value, "why": why}
        # No expected head: whatever else control says meanwhile, this is meant.
        head = await control_log.append(settings, keys, [("quarantine.added", body)], who=operator(), why=why)
    else:
        head = control.head
    # Only now whether it exists: nothing is asked before it is stopped.
    calls, sessions = await _open(settings)
    known = await _known(settings, control, scope, value, calls, sessions)
    return Stopped(head, value, about(scope, value, calls), hint_of(scope, value, known))


async def lift(
    settings: Settings, keys: Keys, scope: str, value: str, why: str, *, dry_run: bool = False
) -> tuple[int, int]:
    """Lift a quarantine; (control's head, how many people it takes or 0). Raises `Terminal` when there is none, or who may not."""
    control = await changes.look(settings)
    value = whole(control, scope, value)
    if (scope, value) not in control.quarantines:
        raise Terminal(f"{scope} `{value[:80]}` is not quarantined, see `sluicegate quarantine list`")
    if dry_run:
        return control.head, 0
    body: dict[str, object] = {"scope": scope, "value": value}
    return await changes.write(settings, keys, control, [("quarantine.lifted", body)], why)


async def look(settings: Settings) -> list[Row]:
    """Every quarantine, sorted, with its calls in flight."""
    control = (await control_log.read(settings)).control
    if not control.quarantines:
        return []
    entries = await open_intents(settings, IN_FLIGHT)
    return [
        Row(scope, value, why, about(scope, value, entries))
        for (scope, value), why in sorted(control.quarantines.items())
    ]


def whole(control: Control, scope: str, value: str) -> str:
    """The digest of a release that is named by its name and version, or by how its digest begins; else the value itself."""
    if scope == RELEASE and value not in control.published:
        with contextlib.suppress(Terminal):
            return find(control, value)
    return value


async def _open(settings: Settings) -> tuple[list[OpenIntent], set[str]]:
    calls: list[OpenIntent] = []
    sessions: set[str] = set()
    async for state in folded_partitions(settings):
        calls += [e for e in state.intents.values() if type(e) is OpenIntent and e.state in IN_FLIGHT]
        sessions |= {one.session_id for one in state.sessions.values()}
    return sorted(calls, key=lambda e: (e.issued_at, e.agent_id, e.intent_id)), sessions


async def _known(
    settings: Settings, control: Control, scope: str, value: str, calls: list[OpenIntent], sessions: set[str]
) -> Collection[str]:
    """The names of a scope, as far as it takes to find this one among them."""
    if scope == AGENT:
        return control.agents
    if scope == RELEASE:
        return control.published
    if scope == SESSION:
        return sessions
    names = {name for entry in calls for name in (entry.tool, entry.candidate) if name}
    for digest in releases_to_look_at(control):
        if value in names:
            break
        with contextlib.suppress(SluicegateError):  # its bytes are gone: what it names is not known any more
            names |= compile_release(await releases.fetch(settings, digest), proven=True).tools.keys()
    return names


def releases_to_look_at(control: Control) -> list[str]:
    """The deployed one first, what sessions may stand on next, the rest as they were published last."""
    ordered = (
        control.deployed, *sorted(in_use(control)), *reversed(control.previous), *reversed(control.published)
    )  # fmt: skip
    return list(dict.fromkeys(filter(None, ordered)))[:MAX_RELEASES_READ]


def hint_of(scope: str, value: str, known: Collection[str]) -> str:
    """That nothing is known by this name, with the nearest; empty when something is."""
    if value in known:
        return ""
    what = "no open session" if scope == SESSION else f"no {scope}"
    near = near_names(value, islice(known, MAX_COMPARED))
    hint = f": did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""
    return f"{what} `{value[:80]}` is known here{hint}"


def _check(control: Control, scope: str, value: str, why: str) -> None:
    if scope not in SCOPES:
        raise WrongUsage(f"scope `{scope[:40]}` is not one of {', '.join(SCOPES)}, choose one")
    if not valid_id(value):
        raise WrongUsage(f"`{value[:80]}` is not 1 to 256 printable characters, change it")
    if len(why) > WHY_CHARS:
        raise WrongUsage(f"the reason has {len(why)} characters, at most {WHY_CHARS} are kept, shorten it")
    if (scope, value) not in control.quarantines and len(control.quarantines) >= MAX_QUARANTINES:
        raise Terminal(f"{MAX_QUARANTINES} are quarantined already, lift some or quarantine the release")


def about(scope: str, value: str, entries: list[OpenIntent]) -> list[OpenIntent]:
    """Those of the calls that a quarantine is about; a tool is also the candidate that a call of an alias asks now."""

    def mine(entry: OpenIntent) -> tuple[str, ...]:
        return {
            "agent": (entry.agent_id,), "tool": (entry.tool, entry.candidate), "session": (entry.session_id,),
            "release": (entry.release,),
        }[scope]  # fmt: skip

    return [entry for entry in entries if value in mine(entry)]
