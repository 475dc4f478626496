"""What operators do with the kill switch: one control event, and a look at what is in flight.

Never decides what a quarantine stops: `processors/quarantine.py` does. Next: `control_log.py`, `open_intents.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.processors.control import Control
from sluicegate.processors.quarantine import MAX_QUARANTINES, RELEASE, SCOPES, WHY_CHARS
from sluicegate.processors.route import valid_id
from sluicegate.processors.state import OpenIntent as OpenIntent
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.streams import changes, control_log
from sluicegate.streams.keys import Keys
from sluicegate.streams.open_intents import IN_FLIGHT, open_intents
from sluicegate.streams.operations import operator
from sluicegate.streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Row:
    """One quarantine and the calls in flight that are its own."""

    scope: str
    value: str
    why: str
    in_flight: list[OpenIntent]


async def add(
    settings: Settings, keys: Keys, scope: str, value: str, why: str, *, dry_run: bool = False
) -> tuple[int, list[OpenIntent]]:
    """Quarantine something; control's head, and the calls begun before. Raises `Terminal` for what cannot be."""
    control = (await control_log.read(settings)).control
    _check(control, scope, value, why)
    if not dry_run:
        body: dict[str, object] = {"scope": scope, "value": value, "why": why}
        # No expected head: whatever else control says meanwhile, this is meant.
        head = await control_log.append(settings, keys, [("quarantine.added", body)], who=operator(), why=why)
    else:
        head = control.head
    return head, about(scope, value, await open_intents(settings, IN_FLIGHT))


async def lift(
    settings: Settings, keys: Keys, scope: str, value: str, why: str, *, dry_run: bool = False
) -> tuple[int, int]:
    """Lift a quarantine; (control's head, how many people it takes or 0). Raises `Terminal` when there is none, or who may not."""
    control = await changes.look(settings)
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


def _check(control: Control, scope: str, value: str, why: str) -> None:
    if scope not in SCOPES:
        raise WrongUsage(f"scope `{scope[:40]}` is not one of {', '.join(SCOPES)}, choose one")
    if not valid_id(value):
        raise WrongUsage(f"`{value[:80]}` is not 1 to 256 printable characters, change it")
    if scope == RELEASE and value not in control.published:
        raise Terminal(f"release `{value[:80]}` was never published, give its digest")
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
