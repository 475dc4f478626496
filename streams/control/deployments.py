"""What operators do about releases: deploy, canary, pin, roll back. Each is one control event.

Looks first, says in a sentence what would be without effect, and then appends on the head it looked at: of two operators
at once one is told to look again. Never decides who may write control. Next: `processors/control/deployments.py` (the fold).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import PIN_SCOPES, WHOLE_BP, good_before
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.control.changes import Events, proposals
from sluicegate.streams.control.events import ControlEvent, control_events
from sluicegate.streams.control.operations import Row, bytes_of
from sluicegate.streams.control.operators import operator, who
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

MAX_WHY_CHARS = 500
MIN_PREFIX_CHARS = 6
"""Of a digest that is not written out: 24 bits tell 100 releases apart."""


@dataclass(frozen=True, slots=True)
class Change:
    """A control event that was, or would be, written.

    Attributes:
        head: the control event; with `dry_run` the one it would follow.
        said: what it does, in words.
        waits: it is only proposed: how many people it takes; 0 when it is done.
    """

    head: int
    said: str
    waits: int = 0


Plan = Callable[[Control], tuple[Events, str]]
"""Control now -> the events, and what they do in words. Raises `Terminal` for what would have no effect."""


async def change(settings: Settings, keys: Keys, plan: Plan, why: str, *, dry_run: bool = False) -> Change:
    """Write what `plan` says about control as it stands. Raises `Terminal` when somebody else was first."""
    control = (await control_log.read(settings, with_release=True)).control
    planned, said = plan(control)
    events, waits = proposals(control, planned, who(settings, control), control_log.clock(control))
    if waits:
        said = f"proposed: {said}; it takes {waits} people: sluicegate changes list"
    if dry_run:
        return Change(control.head, said, waits)
    # INVARIANT: of two operators at once one wins (tests/integration/test_deployments.py::test_two_operators_at_once).
    head = await control_log.append(
        settings, keys, events, who=operator(), why=why, expected_head=control.head
    )
    return Change(head, said, waits)


async def known(settings: Settings, what: str, *, dry_run: bool = False) -> tuple[Events, str]:
    """A release folder or built file, stored now, or the digest of one that was published; (events, digest). `dry_run`
    checks it and stores nothing."""
    if releases.is_release(Path(what)):
        digest, published = await bytes_of(settings, Path(what), store=not dry_run)
        return [published], digest
    return [], find((await control_log.read(settings)).control, what)


def find(control: Control, what: str) -> str:
    """The published digest that begins so, or that has this name and version. Raises `Terminal` for none or several."""
    bare = what.removeprefix("sha256:")
    found = [
        digest for digest, name in control.published.items()
        if name == what or (len(bare) >= MIN_PREFIX_CHARS and digest.removeprefix("sha256:").startswith(bare))
    ]  # fmt: skip
    if len(found) != 1:
        few = "is no published release" if not found else "names several releases"
        raise Terminal(f"`{what[:80]}` {few}, see `sluicegate release list`")
    return found[0]


def named(control: Control, digest: str) -> str:
    """A release in words."""
    return f"{control.published.get(digest, 'a release')} ({digest.removeprefix('sha256:')[:12]})"


async def aborted_canary(settings: Settings, digest: str) -> str:
    """That the canary of this release was aborted and nothing was deployed since: when, by whom, why. Else an empty text."""
    control = (await control_log.read(settings)).control
    at = control.withdrawn.get(digest)
    if at is None:
        return ""
    found = [e for e in await control_events(settings, frozenset(("canary.aborted",))) if e.seq == at]
    return was_aborted(named(control, digest), found[0]) if found else ""


def was_aborted(name: str, event: ControlEvent) -> str:
    """An abort in a sentence. Of one by the canary's sessions `canary explain` has the evidence."""
    why = f": {event.why[:MAX_WHY_CHARS]}" if event.why else ""
    more = f", see `sluicegate canary explain {event.seq}`" if "evidence" in event.body else ""
    return f"the canary of {name} was aborted by `{event.who}` at {iso(event.at)}, control event {event.seq}{why}{more}"


def _deployable(control: Control, digest: str) -> None:
    if control.canary is not None:
        raise Terminal("a canary is running, promote or abort it first: sluicegate canary status")
    if digest == control.deployed:
        raise Terminal(f"{named(control, digest)} is deployed already")


def deploy(before: Events, digest: str, *, now: bool) -> Plan:
    """Into force for new sessions; `now` for open ones, too."""

    def plan(control: Control) -> tuple[Events, str]:
        _deployable(control, digest)
        body: Row = {"digest": digest, "now": True} if now else {"digest": digest}
        whom = "every session" if now else "every session that opens from now on"
        return [*before, ("release.deployed", body)], f"{digest} decides {whom}"

    return plan


def _none_before(control: Control) -> str:
    """Why there is no release to go back to by itself, and what can be done instead."""
    if not control.deployed:
        return "nothing is deployed yet, so there is nothing to go back from: sluicegate deploy FOLDER"
    others = [named(control, d) for d in dict.fromkeys(control.previous) if d != control.deployed]
    if not others:
        return (
            f"{named(control, control.deployed)} is the first release that was deployed here, so there is none to go back to: "
            f"deploy another one, or stop it with `sluicegate quarantine add release {control.deployed}`"
        )
    listed = ", ".join(others[-MAX_LISTED:])
    return f"no earlier release is known to be good, all were rolled back ({listed}): name one with --to"


MAX_LISTED = 5
"""Earlier releases that an error names."""


def roll_back(to: str = "") -> Plan:
    """The environment back to an earlier release, and every session off those deployed after it."""

    def plan(control: Control) -> tuple[Events, str]:
        digest = find(control, to) if to else good_before(control)
        if not digest:
            raise Terminal(_none_before(control))
        if digest == control.deployed:
            raise Terminal(f"{named(control, digest)} is deployed already")
        if digest not in control.previous:
            raise Terminal(f"{named(control, digest)} was never deployed here, deploy it: sluicegate deploy")
        said = f"from {named(control, control.deployed)} back to {named(control, digest)}, for every session"
        return [("release.rolled_back", {"to": digest})], said

    return plan


def pin(scope: str, value: str, digest: str) -> Plan:
    """One agent or session decided under one release, whatever else is deployed."""

    def plan(control: Control) -> tuple[Events, str]:
        if scope not in PIN_SCOPES or not value:
            raise WrongUsage(f"`{scope[:40]}` cannot be pinned, pin an {' or a '.join(PIN_SCOPES)}")
        if not control.deployed:
            raise Terminal("nothing is deployed yet, deploy a release before you pin one")
        found = find(control, digest)
        body: Row = {"scope": scope, "value": value, "digest": found}
        return [("release.pinned", body)], f"{scope} `{value}` is decided under {named(control, found)}"

    return plan


def unpin(scope: str, value: str) -> Plan:
    """Take a pin back."""

    def plan(control: Control) -> tuple[Events, str]:
        if (scope, value) not in control.pins:
            raise Terminal(f"{scope} `{value[:80]}` is not pinned, see `sluicegate release list`")
        return [
            ("release.unpinned", {"scope": scope, "value": value})
        ], f"{scope} `{value}` is pinned no more"

    return plan


def start_canary(before: Events, digest: str, weight: str, *, auto: bool = False) -> Plan:
    """Some of the new sessions under another release; `auto`: the judge may end it."""
    weight_bp = weight_of(weight)

    def plan(control: Control) -> tuple[Events, str]:
        if not control.deployed:
            raise Terminal("nothing is deployed yet, a canary needs something to stand against")
        _deployable(control, digest)
        body: Row = {"digest": digest, "weight_bp": weight_bp, **({"auto": True} if auto else {})}
        ends = "; it is promoted or aborted by its sessions" if auto else "; a person promotes or aborts it"
        said = f"{weight_bp / 100:g} % of new sessions are decided under {digest}{ends}"
        return [*before, ("canary.started", body)], said

    return plan


def end_canary(kind: str) -> Plan:
    """`promoted`, `aborted`, `paused` or `resumed`."""
    words = {
        "promoted": "the canary {} is the environment's release",
        "aborted": "sessions of the canary {} go on under the environment's release",
        "paused": "no new session is drawn into the canary {}",
        "resumed": "new sessions are drawn into the canary {} again",
    }

    def plan(control: Control) -> tuple[Events, str]:
        canary = control.canary
        if canary is None:
            raise Terminal("no canary is running, start one: sluicegate canary start FOLDER --weight 10%")
        if kind in ("paused", "resumed"):
            if canary.paused == (kind == "paused"):
                raise Terminal(f"the canary is {kind} already")
            event: tuple[str, Row] = ("canary.paused", {"paused": kind == "paused"})
        else:
            event = (f"canary.{kind}", cast("Row", {"digest": canary.digest}))
        return [event], words[kind].format(named(control, canary.digest))

    return plan


def weight_of(text: str) -> int:
    """`10%` or `0.1` in basis points. Raises `Terminal` outside 0.01 % to 100 %."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    weight_bp = round(share * WHOLE_BP) if 0 < share <= 1 else 0
    if not weight_bp:
        raise WrongUsage(f"`{text[:20]}` is no share of sessions, write e.g. 10%")
    return weight_bp
