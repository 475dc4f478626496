"""Receipts: what may move an intent, and what is only noted."""

from tests.driver import Driver


def driver() -> Driver:
    d = Driver()
    d.open_session()
    d.say("please")
    return d


def statuses(decision: object) -> list[tuple[str, str]]:
    return [(o.status, o.reason) for o in decision.outcomes]


def test_end_without_claim_is_noted() -> None:
    d = driver()
    (dispatch,) = d.call("desk.pay", {"value": "1"}).dispatches
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("noted", "late")]
    assert statuses(d.claim(dispatch)) == [("claimed", "")]
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("released", "")]


def test_a_read_ends_without_a_claim() -> None:
    d = driver()
    (dispatch,) = d.call("desk.read", {"value": "1"}).dispatches
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("released", "")]
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("noted", "late")]


def test_an_irreversible_claim_without_receipt_is_in_doubt_and_a_late_receipt_resolves_it() -> None:
    d = driver()
    (dispatch,) = d.call("desk.pay", {"value": "1"}).dispatches
    d.claim(dispatch)
    assert statuses(d.tick(ahead_us=3_600_000_000)) == [("in_doubt", "call_in_doubt")]
    assert d.tick(ahead_us=3_600_000_000).outcomes == []
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("released", "")]


def test_an_idempotent_claim_without_receipt_is_offered_again_with_the_same_key() -> None:
    d = driver()
    (first,) = d.call("desk.set", {"value": "1"}).dispatches
    d.claim(first)
    decision = d.tick(ahead_us=60_000_000)
    (second,) = decision.dispatches
    assert statuses(decision) == [("dispatched", "")]
    assert (second.idempotency_key, second.arguments, second.attempt) == (
        first.idempotency_key,
        first.arguments,
        2,
    )


def test_a_result_that_is_not_json_or_too_large_is_withheld() -> None:
    d = driver()
    for result, reason in ((b"{", "malformed_result"), (b'"' + b"x" * 70_000 + b'"', "result_too_large")):
        (dispatch,) = d.call("desk.read", {"value": "1"}).dispatches
        assert statuses(d.receipt(dispatch, "finished", result=result)) == [("withheld", reason)]
        assert d.replies[-1].result is None


def test_an_unclaimed_offer_expires_after_its_deadline() -> None:
    d = driver()
    (dispatch,) = d.call("desk.pay", {"value": "1"}, deadline_at=d.now + 1_000_000).dispatches
    assert statuses(d.tick(ahead_us=10_000_000)) == [("expired", "no_executor")]
    assert statuses(d.claim(dispatch)) == [("noted", "late")]


def test_an_irreversible_call_that_may_have_happened_is_in_doubt_not_failed() -> None:
    for error, sent, status in (
        ("timeout", True, ("in_doubt", "call_in_doubt")), ("timeout", False, ("failed", "timeout")),
        ("quarantined", True, ("in_doubt", "call_in_doubt")), ("quarantined", False, ("failed", "quarantined")),
    ):  # fmt: skip
        d = driver()
        (dispatch,) = d.call("desk.pay", {"value": "1"}).dispatches
        d.claim(dispatch)
        assert statuses(d.receipt(dispatch, "failed", error_class=error, sent=sent)) == [status]
    d = driver()
    (dispatch,) = d.call("desk.pay", {"value": "1"}).dispatches
    d.claim(dispatch)
    d.receipt(dispatch, "failed", error_class="timeout")
    assert statuses(d.receipt(dispatch, "failed", error_class="timeout")) == [("noted", "late")]
    assert statuses(d.receipt(dispatch, "finished", result=b'{"ok":true}')) == [("released", "")]


def test_a_tool_that_broke_may_have_acted() -> None:
    for tool, ended in (("desk.pay", "in_doubt"), ("desk.set", "failed"), ("desk.read", "failed")):
        d = Driver()
        d.open_session()
        work = d.call(tool).dispatches[0]
        if tool != "desk.read":
            d.claim(work)
        decision = d.receipt(work, "failed", error_class="tool_broke", error="500: oops")
        assert [o.status for o in decision.outcomes] == [ended]
