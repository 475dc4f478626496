"""Deployments: which release decides a session, and the control events that change it.

    pin of the session ▸ pin of its agent ▸ the release it began under ▸ canary arm ▸ environment

A session is drawn into an arm once, when it opens, and stays on its release until that is withdrawn: by a rollback, by
the canary's abort, or by `KEPT_DEPLOYMENTS` later deployments. Quarantine comes before all of this (`control/quarantine.py`).
Each decision sees control as if its session's release were the one deployed (`view`). Pure; who may deploy is said by
`control/policy.py`. Next: `control/control.py` (the fold), `pipeline.py` (who asks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

KEPT_DEPLOYMENTS = 100
"""Earlier deployments remembered: what a session may still stand on and a rollback may go back to. A compiled release of
60 policies is about 2 MB, and only those that sessions use are at hand."""

MAX_PINS = 10_000
"""Pins in one control ledger, about 250 bytes each: 2.5 MB. More are not folded."""

WHOLE_BP = 10_000
"""A weight in basis points: all sessions."""

DEPLOYING = ("release.deployed", "release.rolled_back", "release.pinned", "canary.started", "canary.promoted")
"""Events that `control.cedar` may ask for a permit. Aborting and pausing a canary and unpinning take something back, and
are never asked."""

MOVING = (*DEPLOYING, "release.unpinned", "canary.paused", "canary.aborted")
"""Events that change which release decides for whom: what was proposed before one of them is void (`control/changes.py`)."""

JUDGED = ("canary.aborted", "canary.promoted", "canary.paused")
"""What the judge of a canary may do by itself where it was started so."""

MAX_PAUSES = 199
"""Pauses and resumptions of one canary that the judge tells apart. Odd: what opens after the last one is not judged."""

PIN_SCOPES = ("agent", "session")


@dataclass(frozen=True, slots=True)
class Canary:
    """A release that some of the new sessions are decided under.

    Attributes:
        weight_bp: how many of 10,000 new sessions.
        started: control event that began it; part of the draw, so that another canary draws other sessions.
        paused: no new session is drawn; those drawn stay.
        auto: the judge may end it by itself (`canary/judge.py`, `watch/canary_watcher.py`).
        control: the release it stands against, deployed when it began.
        at: time of the event that began it, in microseconds.
        pauses: control events that paused and resumed it, in turn.
        held: the judge paused it for a person to decide; it does so once.
        pinned: (agent | session, id) -> since which control event it was pinned while the canary ran.
    """

    digest: str
    weight_bp: int
    started: int
    paused: bool = False
    auto: bool = False
    control: str = ""
    at: int = 0
    pauses: tuple[int, ...] = ()
    held: bool = False
    pinned: Mapping[tuple[str, str], int] = field(default_factory=dict)


def drawn(canary: Canary, agent_id: str, session_id: str) -> bool:
    """Whether a session that opens now belongs to the canary's arm: by hash, the same however often it is asked."""
    text = f"{canary.started}\0{agent_id}\0{session_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") * WHOLE_BP >> 64 < canary.weight_bp


class Standing(Protocol):
    """What a session stands on: a `Session`, or what `ledger verify` knows of one."""

    @property
    def release(self) -> str: ...

    @property
    def opened_head(self) -> int: ...


def release_for(control: Control, agent_id: str, session_id: str, session: Standing | None) -> str:
    """The digest that decides for this session; `session` None: it is about to open."""
    pins = control.pins
    if pins:
        pinned = pins.get(("session", session_id)) or pins.get(("agent", agent_id))
        if pinned:
            return pinned
    canary = control.canary
    if session is None:
        if canary is not None and not canary.paused and drawn(canary, agent_id, session_id):
            return canary.digest
        return control.deployed
    release = session.release
    if not release or release == control.deployed:
        return control.deployed
    # INVARIANT: nothing is decided under a withdrawn release (tests/unit/test_deployments.py::test_rollback_ends_stickiness).
    if control.withdrawn.get(release, -1) >= session.opened_head:
        return control.deployed
    known = release in control.previous or (canary is not None and canary.digest == release)
    return release if known else control.deployed


def view(control: Control, digest: str) -> Control:
    """Control as a session of that release sees it. Raises `LookupError` when it is not at hand."""
    if digest == control.deployed:
        return control
    found = control.views.get(digest)
    if found is None:
        found = control.views[digest] = replace(control, deployed=digest, release=control.releases[digest])
    return found


def in_use(control: Control) -> set[str]:
    """Digests that a new session may be decided under."""
    canary = {control.canary.digest} if control.canary is not None else set()
    return {digest for digest in {control.deployed, *control.pins.values(), *canary} if digest}


def good_before(control: Control) -> str:
    """The last known good release: deployed before the present one, and never rolled back. Empty: there is none."""
    for digest in reversed(control.previous):
        if digest != control.deployed and digest not in control.aborted:
            return digest
    return ""


def stands(control: Control, digest: str) -> list[str]:
    """What stands on a release now, in words: `deployed`, `canary 10 %`, pins; else what became of it."""
    found = ["deployed"] if digest == control.deployed else []
    if control.canary is not None and control.canary.digest == digest:
        found.append(f"canary {control.canary.weight_bp / 100:g} %")
    found += [f"{scope} {value}" for (scope, value), one in sorted(control.pins.items()) if one == digest]
    if digest in control.attested:
        found.append(f"ran in {control.attested[digest].env}")
    if digest in control.aborted:
        found.append("rolled back")
    elif digest in control.previous and digest != control.deployed:
        found.append("was deployed")
    return found


# -- steps of the fold: each changes the new `Control` ---------------------------------------------------------------


def deployed(new: Control, body: Body, who: str) -> None:
    """`release.deployed` {digest, now}: for every session that opens from now on; `now`: for those open already, too.

    Ends a canary without a word on it.
    """
    digest = str(body["digest"])
    _stand(new, digest)
    new.canary = None
    if body.get("now"):
        earlier = sorted({*new.previous} - {digest})
        new.withdrawn = {**new.withdrawn, **dict.fromkeys(earlier, new.head)}


def rolled_back(new: Control, body: Body, who: str) -> None:
    """`release.rolled_back` {to}: back to an earlier release; those deployed after it are withdrawn from every session."""
    to = str(body["to"])
    if to not in new.previous or to == new.deployed:
        return
    at = len(new.previous) - 1 - new.previous[::-1].index(to)
    arm = {new.canary.digest} if new.canary is not None else set()
    later = {new.deployed, *new.previous[at + 1 :], *arm} - {to}
    new.withdrawn = {**new.withdrawn, **dict.fromkeys(sorted(later), new.head)}
    new.aborted |= later
    new.canary = None
    _stand(new, to)


def pinned(new: Control, body: Body, who: str) -> None:
    """`release.pinned` {scope, value, digest}. Nothing while nothing is deployed: budgets are the deployed release's."""
    key = (str(body["scope"]), str(body["value"]))
    fits = new.deployed and key[0] in PIN_SCOPES and key[1] and str(body["digest"]) in new.published
    if fits and (key in new.pins or len(new.pins) < MAX_PINS):
        new.pins = {**new.pins, key: str(body["digest"])}
        if new.canary is not None and key not in new.canary.pinned:
            new.canary = replace(new.canary, pinned={**new.canary.pinned, key: new.head})


def unpinned(new: Control, body: Body, who: str) -> None:
    """`release.unpinned` {scope, value}."""
    gone = (str(body["scope"]), str(body["value"]))
    new.pins = {key: digest for key, digest in new.pins.items() if key != gone}


def canary_started(new: Control, body: Body, who: str) -> None:
    """`canary.started` {digest, weight_bp, auto?}. A second one changes nothing."""
    digest, weight = str(body["digest"]), cast(int, body["weight_bp"])
    if new.canary is None and digest in new.published and digest != new.deployed and 0 < weight <= WHOLE_BP:
        new.canary = Canary(
            digest, weight, new.head, auto=bool(body.get("auto")), control=new.deployed, at=new.at,
            pinned=dict.fromkeys(new.pins, new.head),
        )  # fmt: skip
        new.withdrawn = {d: at for d, at in new.withdrawn.items() if d != digest}


def canary_paused(new: Control, body: Body, who: str) -> None:
    """`canary.paused` {paused, canary?}: or resumed."""
    canary, paused = new.canary, bool(body["paused"])
    if canary is not None and _meant(canary, body):
        pauses = canary.pauses
        if paused != canary.paused and len(pauses) < MAX_PAUSES:
            pauses = (*pauses, new.head)
        held = canary.held or (paused and "canary" in body)
        new.canary = replace(canary, paused=paused, pauses=pauses, held=held)


def canary_promoted(new: Control, body: Body, who: str) -> None:
    """`canary.promoted` {canary?}: it becomes the environment's release; sessions of the other arm stay where they are."""
    if new.canary is not None and _meant(new.canary, body):
        _stand(new, new.canary.digest)
        new.canary = None


def canary_aborted(new: Control, body: Body, who: str) -> None:
    """`canary.aborted` {canary?}: its sessions go on under the environment's release."""
    if new.canary is not None and _meant(new.canary, body):
        new.withdrawn = {**new.withdrawn, new.canary.digest: new.head}
        new.canary = None


def _meant(canary: Canary, body: Body) -> bool:
    """Whether an event is about this canary. An operator's word is about the one that runs; the judge names its own, so that
    what it found out about one never ends the next."""
    # INVARIANT: two watchers, or one that starts anew, end one canary once (tests/unit/test_canary_events.py).
    return body.get("canary", canary.started) == canary.started


def judged(control: Control, kind: str, body: Mapping[str, object]) -> bool:
    """Whether an event is the verdict on the canary that runs, which may be given without a person."""
    canary = control.canary
    return canary is not None and canary.auto and kind in JUDGED and body.get("canary") == canary.started


def _stand(new: Control, digest: str) -> None:
    if new.deployed:
        new.previous = (*new.previous, new.deployed)[-KEPT_DEPLOYMENTS:]
    new.deployed, new.deployed_at = digest, new.at
    new.aborted = frozenset(d for d in new.aborted if d != digest and d in new.previous)
    new.withdrawn = {d: at for d, at in new.withdrawn.items() if d != digest and d in new.previous}
    if new.release is not None and new.release.digest != digest:
        new.release = None
