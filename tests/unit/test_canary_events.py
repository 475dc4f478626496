"""The judge's events in control's fold: about its own canary only, once, and bounded though the sentinel writes them."""

from __future__ import annotations

import pytest
from sluicegate.processors.control import deployments
from sluicegate.processors.control.deployments import MAX_PAUSES

from tests.driver import Driver, release

ONE, TWO, THREE = (release(edition=e) for e in ("1", "two", "three"))


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.deploy(ONE)
    driver.publish(TWO)
    driver.publish(THREE)
    return driver


def start(d: Driver, **more: object) -> int:
    d.control_event("canary.started", digest=TWO.digest, weight_bp=1_000, **more)
    assert d.control.canary is not None
    return d.control.canary.started


def test_what_a_judge_found_out_about_one_canary_never_ends_the_next(d: Driver) -> None:
    first = start(d, auto=True)
    d.control_event("canary.aborted", canary=first, digest=TWO.digest)
    assert d.control.canary is None
    second = start(d, auto=True)
    for kind in ("canary.aborted", "canary.promoted"):
        d.control_event(kind, canary=first, digest=TWO.digest)
    d.control_event("canary.paused", canary=first, paused=True)
    assert d.control.canary is not None and not d.control.canary.paused and d.control.deployed == ONE.digest
    d.control_event("canary.promoted", canary=second, digest=TWO.digest)
    assert d.control.deployed == TWO.digest
    d.control_event("canary.aborted", canary=second, digest=TWO.digest)  # the slower of two watchers
    assert d.control.deployed == TWO.digest and TWO.digest not in d.control.withdrawn


def test_an_operators_word_is_about_the_one_that_runs(d: Driver) -> None:
    start(d)
    d.control_event("canary.aborted", digest=TWO.digest)
    assert d.control.canary is None


@pytest.mark.parametrize("kind", ["canary.aborted", "canary.promoted", "canary.paused"])
def test_the_sentinel_ends_only_what_was_started_so(d: Driver, kind: str) -> None:
    body: dict[str, object] = {"canary": start(d), "digest": TWO.digest, "paused": True}
    before = d.control.canary
    d.control_event(kind, who="sentinel", **body)
    assert d.control.canary == before  # a person ends a manual canary
    d.control_event("canary.aborted")
    body["canary"] = start(d, auto=True)
    before = d.control.canary
    d.control_event(kind, who="sentinel", **{k: v for k, v in body.items() if k != "canary"})
    assert d.control.canary == before  # and a sentinel names which one it judged
    d.control_event(kind, who="sentinel", **body)
    assert d.control.canary != before


def test_the_fold_keeps_what_the_judge_needs(d: Driver) -> None:
    d.control_event("release.pinned", scope="agent", value="early", digest=THREE.digest)
    started = start(d, auto=True)
    d.control_event("canary.paused", paused=True)
    d.control_event("canary.paused", paused=True)  # changes nothing
    d.control_event("canary.paused", paused=False)
    d.control_event("release.pinned", scope="session", value="late", digest=THREE.digest)
    d.control_event("release.unpinned", scope="session", value="late")
    canary = d.control.canary
    assert canary is not None and canary.auto and canary.control == ONE.digest and canary.at > 0
    assert canary.pauses == (started + 1, started + 3)
    assert canary.pinned == {("agent", "early"): started, ("session", "late"): started + 4}


def test_pauses_are_bounded(d: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PAUSES % 2
    monkeypatch.setattr(deployments, "MAX_PAUSES", 3)
    start(d)
    for n in range(8):
        d.control_event("canary.paused", paused=n % 2 == 0)
    canary = d.control.canary
    assert canary is not None and len(canary.pauses) == 3 and not canary.paused
