"""The executor's own check: what is not the pipeline's, or not what the agent signed, is no permit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.intake import Problem
from sluicegate.processors.permits import MAX_PROOF_AGE_US, agents_word, open_dispatch, same_call
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r

from tests.driver import AGENT, DESK_FILES, OTHER_AGENT, release_files
from tests.signed_driver import PIPELINE, SignedDriver, key_body, secret_of
from tests.unit import test_attempts
from tests.unit.test_attempts import LARGE, MESSAGES, PERMIT, contract
from tests.unit.test_attempts import files as models

DAY_US = 24 * 3_600_000_000


def made() -> tuple[SignedDriver, r.Dispatch]:
    """A signed environment, and a dispatch as its pipeline made it."""
    d = SignedDriver()
    d.open_session()
    return d, d.call("desk.pay", {"value": "mine"}).dispatches[0]


def judged(d: SignedDriver, value: bytes) -> r.Dispatch | Problem:
    """As the executor judges a record of `dispatches`."""
    found = open_dispatch(d.control, 0, value, d.now)
    if isinstance(found, Problem):
        return found
    return agents_word(d.control, found, d.now) or found


def test_the_pipelines_dispatch_is_a_permit() -> None:
    d, dispatch = made()
    assert dispatch.control_head == d.control.head
    assert judged(d, d.sign(dispatch, "dispatches")) == dispatch


def test_a_second_offer_carries_the_agents_word_too() -> None:
    d, first = made()
    second = d.tick(8_000_000).dispatches[0]
    assert (second.attempt, second.proof) == (2, first.proof)
    assert judged(d, d.sign(second, "dispatches")) == second


def test_an_approved_call_carries_the_agents_word_too() -> None:
    d, _ = made()
    held = d.call("desk.ask")
    d.now += DAY_US // 2
    dispatch = d.review(held).dispatches[0]
    assert judged(d, d.sign(dispatch, "dispatches")) == dispatch


def test_a_streamed_call_carries_the_agents_word_too() -> None:
    d = SignedDriver()
    made = models(policy=PERMIT, **{f"contracts/{LARGE}.json": contract(LARGE, stream="gated")})
    d.deploy(compile_release(made), now=True)
    d.open_session()
    (dispatch,) = d.call("triage", {"messages": MESSAGES}, kind="model_stream").dispatches
    assert dispatch.stream == "gated" and dispatch.proof
    assert judged(d, d.sign(dispatch, "dispatches")) == dispatch
    assert isinstance(judged(d, d.sign(replace(dispatch, arguments=b"{}"), "dispatches")), Problem)


def other_intent(d: SignedDriver, dispatch: r.Dispatch) -> bytes:
    return d.sign(d.intent("desk.pay", {"value": "theirs"}), "intents")


Forge = Callable[[SignedDriver, r.Dispatch], bytes]
"""What somebody puts on the topic instead."""

FORGED: dict[str, tuple[Forge, str]] = {
    "no signature": (lambda d, x: codec.encode(x), "unsigned"),
    "no record": (lambda d, x: b"nothing", "not_avro"),
    "another record": (lambda d, x: d.sign(d.intent(), "dispatches", PIPELINE), "unexpected_type"),
    "another secret": (lambda d, x: signing.sign(codec.encode(x), PIPELINE, "HS256", b"x" * 32, "test/dispatches", d.now), "bad_signature"),
    "an unknown key": (lambda d, x: signing.sign(codec.encode(x), "nobody", "HS256", b"x" * 32, "test/dispatches", d.now), "unknown_key"),
    "an executor's key": (lambda d, x: d.sign(x, "dispatches", "executor:1"), "wrong_signer"),
    "an agent's key": (lambda d, x: d.sign(x, "dispatches", f"agent:{AGENT}"), "wrong_signer"),
    "for another topic": (lambda d, x: signing.sign(codec.encode(x), PIPELINE, "HS256", secret_of(PIPELINE), "test/receipts", d.now), "bad_signature"),
    # From here on the pipeline's secret is known to the forger.
    "no agent's word": (lambda d, x: d.sign(replace(x, proof=b""), "dispatches"), "unsigned"),
    "other arguments": (lambda d, x: d.sign(replace(x, arguments=b'{"value":"theirs"}'), "dispatches"), "bad_signature"),
    "another tool": (lambda d, x: d.sign(replace(x, tool="desk.set"), "dispatches"), "bad_signature"),
    "another session": (lambda d, x: d.sign(replace(x, session_id="s-2"), "dispatches"), "bad_signature"),
    "another intent": (lambda d, x: d.sign(replace(x, intent_id="i-x"), "dispatches"), "bad_signature"),
    "another intent's word": (lambda d, x: d.sign(replace(x, proof=other_intent(d, x)), "dispatches"), "bad_signature"),
    "another agent": (lambda d, x: d.sign(replace(x, agent_id=OTHER_AGENT), "dispatches"), "bad_signature"),
    "an unknown agent": (lambda d, x: d.sign(replace(x, agent_id="ghost"), "dispatches"), "unknown_agent"),
    "the word unsigned": (lambda d, x: d.sign(replace(x, proof=codec.encode(d.intent("desk.pay", {"value": "mine"}, intent_id=x.intent_id))), "dispatches"), "unsigned"),
    "signed by a channel": (lambda d, x: d.sign(replace(x, proof=d.sign(d.intent("desk.pay", {"value": "mine"}, intent_id=x.intent_id), "intents", "channel:front")), "dispatches"), "wrong_signer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged(name: str) -> None:
    d, dispatch = made()
    forge, reason = FORGED[name]
    found = judged(d, forge(d, dispatch))
    assert isinstance(found, Problem)
    assert found.reason == reason


def test_a_copy_on_another_partition_is_no_permit() -> None:
    d, dispatch = made()
    found = open_dispatch(d.control, 1, d.sign(dispatch, "dispatches"), d.now)
    assert isinstance(found, Problem)
    assert found.reason == "misrouted"


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("key.revoked", {"kid": f"agent:{AGENT}"}, "key_not_valid"),
        ("key.revoked", {"kid": PIPELINE}, "key_not_valid"),
        ("agent.suspended", {"agent_id": AGENT}, "suspended_agent"),
        ("agent.retired", {"agent_id": AGENT}, "retired_agent"),
    ],
)
def test_what_was_revoked_since_counts(kind: str, body: dict[str, object], reason: str) -> None:
    """Between the decision and the call."""
    d, dispatch = made()
    value = d.sign(dispatch, "dispatches")
    d.control_event(kind, **body)
    found = judged(d, value)
    assert isinstance(found, Problem)
    assert found.reason == reason


def test_an_old_word_is_a_replayed_one() -> None:
    d, dispatch = made()
    d.now += MAX_PROOF_AGE_US + DAY_US
    found = judged(d, d.sign(dispatch, "dispatches"))
    assert isinstance(found, Problem)
    assert found.reason == "too_old"


def test_a_redacted_call_does_not_carry_what_was_taken_out() -> None:
    d = SignedDriver()
    contract = orjson.loads(DESK_FILES["contracts/desk.pay.json"])
    contract["x-sluicegate"]["redact"] = {"arguments": ["$.value"]}
    files = {**release_files(), "contracts/desk.pay.json": orjson.dumps(contract).decode()}
    d.deploy(compile_release(files))
    d.open_session()
    dispatch = d.call("desk.pay", {"value": "a secret of mine"}).dispatches[0]
    assert b"a secret of mine" not in codec.encode(dispatch)
    assert dispatch.transformed
    assert judged(d, d.sign(dispatch, "dispatches")) == dispatch


@given(data=st.data())
def test_no_flipped_bit_is_a_permit(data: st.DataObject) -> None:
    """Whatever bit of a signed dispatch changes, it is not taken, or says the same (an envelope has no slack)."""
    value = bytearray(VALUE)
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(judged(DRIVER, bytes(value)), Problem)


@given(st.binary(max_size=400))
def test_any_bytes_are_judged(value: bytes) -> None:
    assert isinstance(judged(DRIVER, value), Problem)


DRIVER, DISPATCH = made()
VALUE = DRIVER.sign(DISPATCH, "dispatches")


def test_keys_of_other_roles_do_not_sign_for_a_person() -> None:
    """A review is the reviewer's own: another person's valid key does not make it theirs."""
    d, _ = made()
    held = d.call("desk.ask")
    d.control_event("key.added", **key_body("person:eve", "eve", "person"))
    refused = d.feed("reviews", d.sign(d.word(held), "reviews", "person:eve")).outcomes[0]
    assert (refused.status, refused.reason) == ("unreadable", "wrong_signer")


def test_an_intent_signed_long_ago_is_a_replayed_one() -> None:
    """`issued_at` is the agent's word; the envelope's own time is checked as well."""
    d, _ = made()
    old = signing.sign(codec.encode(d.intent()), f"agent:{AGENT}", "Ed25519", secret_of(f"agent:{AGENT}"), "test/intents", d.now - DAY_US - 1_000_000)  # fmt: skip
    assert d.feed("intents", old).outcomes[0].reason == "too_old"


def test_what_is_called_has_the_digest_that_was_decided() -> None:
    """Signed or not: also of a second offer, an approved call, an edited one, and an alias."""
    d, first = made()
    held = d.call("desk.ask")
    edited = d.review(d.call("desk.ask"), arguments=b'{"value":"less"}')
    found = [first, *d.tick(8_000_000).dispatches, *d.review(held).dispatches, *edited.dispatches]
    routed = test_attempts.driver()
    found.append(test_attempts.ask(routed))
    found.append(test_attempts.next_of(routed, found[-1], "timeout"))
    assert all(one.version and same_call(one) is None for one in found)
    repair = test_attempts.next_of(routed, found[-1], "malformed_result")
    assert repair.version == "" and same_call(repair) is None, "more was put to it"
    for one in found:
        changes: list[dict[str, object]] = [
            {"arguments": b'{"x":1}'}, {"tool": "desk.other"}, {"version": "2"}, {"action_digest": bytes(32)},
        ]  # fmt: skip
        for change in changes:
            problem = same_call(replace(one, **change))  # type: ignore[arg-type]
            assert problem is not None and problem.reason == "call_changed"
