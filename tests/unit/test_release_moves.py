"""What a rollback of a release would change, said before: held to what the fold and the sessions then do."""

from __future__ import annotations

from sluicegate.processors.control.deployments import good_before, release_for
from sluicegate.processors.releases.moves import Move, after_it, moves
from sluicegate.processors.releases.release import CompiledRelease, compile_release

from tests.driver import AGENT, Driver, release_files


def edition(text: str) -> CompiledRelease:
    files = dict(release_files())
    files["release.yaml"] += f"\n# {text}\n"
    return compile_release(files)


def test_what_is_said_is_what_happens() -> None:
    d, (one, two, three) = Driver(), [edition(text) for text in ("one", "two", "three")]
    d.deploy(one)
    d.open_session("old")
    d.deploy(two)
    for name in ("new", "pinned", "other"):
        d.open_session(name)
    d.control_event("release.published", digest=three.digest, name="r", version="3")
    d.control_event("release.pinned", scope="session", value="pinned", digest=two.digest)
    d.control_event("canary.started", digest=three.digest, weight_bp=10_000)
    d.control.releases = {r.digest: r for r in (one, two, three)}
    d.open_session("arm")
    before, to = d.control, good_before(d.control)
    assert to == one.digest
    after = after_it(before, "release.rolled_back", {"to": to}, "olga", d.now)
    sessions = list(d.state.sessions.values())
    found = moves(before, after, sessions)
    assert found == [
        Move("new sessions", "all but pinned", two.digest, one.digest),
        Move("new sessions", "100 % canary", three.digest, one.digest),
        *sorted(
            [
                Move("open sessions", f"agent {AGENT}", two.digest, one.digest, 2),
                Move("open sessions", f"agent {AGENT}", three.digest, one.digest, 1),
            ]
        ),
        Move("release", two.digest, "deployed", "withdrawn"),
    ]
    d.control_event("release.rolled_back", to=to)
    under = {s.session_id: release_for(d.control, s.agent_id, s.session_id, s) for s in sessions}
    assert under == {**dict.fromkeys(("old", "new", "other", "arm"), one.digest), "pinned": two.digest}
    assert (after.deployed, after.withdrawn.keys()) == (d.control.deployed, d.control.withdrawn.keys())
    assert moves(after, after, sessions) == []
