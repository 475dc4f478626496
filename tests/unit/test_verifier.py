"""When the executor may judge, and which key a process signs with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from sluicegate.executors.verifier import SignedVerifier
from sluicegate.processors.control.control import Control
from sluicegate.schemas import codec, signing
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, Unreadable
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.role_keys import RoleSigner

from tests.driver import AGENT
from tests.signed_driver import PIPELINE, SignedDriver, key_body, secret_of


class Source:
    """Control as an executor has it: it may be behind, and come up while somebody waits."""

    def __init__(self, control: Control, then: Control | None = None) -> None:
        self.control, self.stale, self.waited = control, False, 0
        self._then = then

    async def wait_for(self, head: int, limit_s: float = 0.0) -> None:
        while self.control.head < head:
            self.waited += 1
            if self._then is None:
                raise Retryable("control is behind")
            self.control, self._then = self._then, None


def dispatched(d: SignedDriver) -> bytes:
    d.open_session()
    return d.sign(d.call("desk.pay").dispatches[0], "dispatches")


def opened(source: Source, value: bytes, d: SignedDriver) -> r.Dispatch:
    return asyncio.run(SignedVerifier(source, lambda: d.now).open(0, value))


def test_it_waits_for_the_control_event_of_the_decision() -> None:
    d = SignedDriver()
    before = d.control
    d.control_event("agents.registered", agents=[])
    value = dispatched(d)
    source = Source(before, d.control)
    assert opened(source, value, d).agent_id == AGENT
    assert source.waited == 1
    with pytest.raises(Retryable):
        opened(Source(before), value, d)


def test_a_revocation_the_ledger_did_not_know_counts() -> None:
    d = SignedDriver()
    value = dispatched(d)
    d.control_event("key.revoked", kid=f"agent:{AGENT}")
    with pytest.raises(Unreadable) as refused:
        opened(Source(d.control), value, d)
    assert refused.value.reason == "key_not_valid"


def test_nothing_is_begun_on_an_unconfirmed_control() -> None:
    d = SignedDriver()
    source = Source(d.control)
    source.stale = True
    with pytest.raises(Retryable):
        opened(source, dispatched(d), d)


def test_a_forger_makes_nobody_wait() -> None:
    """A head far ahead in bytes that the pipeline did not sign."""
    d = SignedDriver()
    dispatched(d)
    forged = d.dispatches[0]
    forged.control_head = 10**9
    source = Source(d.control)
    with pytest.raises(Unreadable):
        opened(
            source,
            signing.sign(codec.encode(forged), PIPELINE, "HS256", b"x" * 32, "test/dispatches", d.now),
            d,
        )
    assert source.waited == 0


# -- which key signs -----------------------------------------------------------------------------------------------


def home_with(home: Path, *kids: str) -> Path:
    (home / "keys").mkdir(exist_ok=True)
    (home / "keys" / "mac.json").write_text(json.dumps({kid: secret_of(kid).hex() for kid in kids}))
    return home


def kid_of(value: bytes) -> str:
    return codec.decode_as(r.Envelope, value).kid


def test_the_newest_valid_key_with_a_secret_here_signs(tmp_path: Path) -> None:
    d = SignedDriver()
    signer = RoleSigner(
        home_with(tmp_path, PIPELINE), "pipeline", "dispatches", lambda: d.control, lambda: d.now, {}
    )
    assert kid_of(signer(b"x")) == PIPELINE
    d.control_event(
        "key.added", **{**key_body("pipeline:2", "pipeline", "pipeline"), "not_before": d.now + 10_000_000}
    )
    home_with(tmp_path, PIPELINE, "pipeline:2")
    assert kid_of(signer(b"x")) == PIPELINE, "it is not valid yet, and executors may not know it"
    d.now += 10_000_000
    d.control_event("agents.registered", agents=[])
    assert kid_of(signer(b"x")) == PIPELINE, "nothing about keys changed, the one in use is still good"
    d.control_event("key.revoked", kid=PIPELINE)
    assert kid_of(signer(b"x")) == "pipeline:2"
    assert signing.verify(codec.decode_as(r.Envelope, signer(b"x")), "HS256", secret_of("pipeline:2"))
    d.control_event("key.revoked", kid="pipeline:2")
    with pytest.raises(Retryable, match="keys new pipeline"):
        signer.ready()


def test_a_named_key_is_the_only_one(tmp_path: Path) -> None:
    d = SignedDriver()
    home = home_with(tmp_path, PIPELINE)
    signer = RoleSigner(home, "pipeline", "dispatches", lambda: d.control, lambda: d.now, {"SLUICEGATE_PIPELINE_KID": "p"})  # fmt: skip
    with pytest.raises(Retryable, match="`p`"):
        signer(b"x")


def test_an_ed25519_key_of_the_pipeline(tmp_path: Path) -> None:
    """Where executors must not be able to sign for the pipeline: they get its public half only."""
    d = SignedDriver()
    key = key_files.create(key_files.default_path(tmp_path, "ed"), "ed")
    d.control_event("key.added", **{**key_body("ed", "pipeline", "person"), "role": "pipeline", "public": key.public.hex()})  # fmt: skip
    signer = RoleSigner(tmp_path, "pipeline", "dispatches", lambda: d.control, lambda: d.now, {})
    d.open_session()
    dispatch = d.call("desk.pay").dispatches[0]
    assert opened(Source(d.control), signer(codec.encode(dispatch)), d) == dispatch


def test_unsigned_environments_sign_nothing(tmp_path: Path) -> None:
    control = Control(signing="dev")
    signer = RoleSigner(tmp_path, "executor", "receipts", lambda: control, lambda: 0, {})
    signer.ready()
    assert signer(b"x") == b"x"
