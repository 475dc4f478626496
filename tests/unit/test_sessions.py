"""Sessions and deadlines: who may say what the user said, and that nothing begins after nobody waits."""

import pytest
from sluicegate.processors.sessions import sessions
from sluicegate.schemas.records import Intent

from tests.driver import AGENT, SESSION, Driver


def driver() -> Driver:
    d = Driver()
    d.open_session()
    return d


def test_an_agent_cannot_report_its_own_user_messages() -> None:
    d = driver()
    intent = Intent("fake", AGENT, SESSION, "session.user_said", "", b"{}", d.now, None)
    decision = d.feed("intents", intent)
    assert [(o.status, o.reason) for o in decision.outcomes] == [("session_refused", "unknown_kind")]
    session = next(iter(d.state.sessions.values()))
    assert session.user_messages == 0


def test_an_offer_ends_with_the_intents_own_deadline() -> None:
    d = driver()
    deadline = d.now + 1_000_000
    (dispatch,) = d.call(deadline_at=deadline).dispatches
    assert dispatch.not_after == deadline


def test_decide_is_total_for_any_bytes() -> None:
    d = driver()
    for value in (b"", b"\xc3\x01", b"\xc3\x01" + bytes(8), b"\x00" * 300_000):
        decision = d.feed("intents", value)
        assert decision.outcomes[0].status == "unreadable"
        assert decision.dead_letters


def test_no_more_open_sessions_than_a_partition_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    d = driver()

    def step(ident: str, session: str, kind: str) -> tuple[str, str]:
        [outcome] = d.feed("intents", Intent(ident, AGENT, session, kind, "", b"{}", d.now, None)).outcomes
        return outcome.status, outcome.reason

    assert step("o-2", "second", "session.open") == ("opened", "")
    assert step("o-3", "third", "session.open") == ("session_refused", "overloaded")
    assert len(d.state.sessions) == 2
    assert step("c-2", "second", "session.close")[0] == "closed"
    assert step("o-4", "third", "session.open") == ("opened", "")
