"""Taking a call back where everything is signed and grounding is enforced: an operator's key, the saga's, a channel's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import orjson
import pytest
from sluicegate.schemas import signing
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect.explain import explain
from sluicegate.streams.keys import files as key_files
from typer.testing import CliRunner

from tests import shop
from tests.driver import AGENT
from tests.integration import gate as gates
from tests.integration.gate import intent, now_us
from tests.integration.test_saga import REGISTERED
from tests.integration.test_signed import FOREVER, write_macs
from tests.shop import Shop

ROLES = {"seller": "agent", "saga": "agent", "channel": "channel", "operator": "operator"}
PRINCIPALS = {"seller": AGENT, "saga": shop.BY, "channel": "desk", "operator": "ana"}


def files() -> dict[str, str]:
    """The shop's release, which takes no value from nowhere; what an operator cancels is protected, too."""
    cancel = json.loads(shop.FILES["contracts/cancel.json"])
    cancel["x-sluicegate"]["protected"] = ["id"]
    manifest = shop.FILES["release.yaml"] + "grounding: enforce\n"
    return {**shop.FILES, "contracts/cancel.json": json.dumps(cancel), "release.yaml": manifest}


def test_only_with_the_keys_of_those_who_order_and_carry_out(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = gates.new_settings(kafka, tmp_path)
    made = {name: key_files.create(tmp_path / f"{name}.jwk", name) for name in ROLES}
    macs = {"executor-1": os.urandom(32).hex(), "pipeline-1": os.urandom(32).hex()}
    write_macs(tmp_path, macs)
    rows = [
        (name, PRINCIPALS[name], role, "Ed25519", made[name].public.hex()) for name, role in ROLES.items()
    ]
    rows += [
        ("executor-1", "executor", "executor", "HS256", ""),
        ("pipeline-1", "pipeline", "pipeline", "HS256", ""),
    ]
    rows.sort(key=lambda row: row[2] == "operator")  # from then on only the operator's key changes control
    control: list[tuple[str, dict[str, object]]] = [
        REGISTERED,
        ("people.registered", {"people": [{"person_id": "ana", "name": "Ana", "roles": ["operator"]}]}),
    ]
    for kid, principal, role, alg, public in rows:
        about = {"kid": kid, "principal": principal, "role": role, "alg": alg, "public": public, "not_before": 0, "not_after": FOREVER}  # fmt: skip
        control.append(("key.added", about))
    monkeypatch.setenv("SLUICEGATE_OPERATOR_KEY", str(tmp_path / "operator.jwk"))
    for name, value in {**stack.environment_of(settings), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["rollback", *arguments])
        if isinstance(done.exception, Terminal):
            raise done.exception
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    with gates.running(settings, signing="signed", control=control, files=files()) as (loop, gate):
        tools = Shop()
        gate.adapter._behave = tools

        def sign(value: bytes, topic: str) -> bytes:
            key = made["channel" if topic == "messages" else "seller"]
            return signing.sign(value, key.kid, "Ed25519", key.secret, f"{settings.env}/{topic}", now_us())

        gate.wrap = sign
        loop.run(gate.open_session())
        one = intent("shop.order", {"item": "a lamp"})
        reply = loop.run(gate.ask(one))
        assert reply.status == "released"
        order = orjson.loads(reply.result or b"")["id"]
        with pytest.raises(Terminal, match="give --key"):
            run("call", one.intent_id)
        mine = ["--key", str(tmp_path / "saga.jwk")]
        assert "ungrounded" in run("call", one.intent_id, *mine, code=1), (
            "nobody who may said where the value is from"
        )
        assert tools.orders[order] == "open"
        mine += ["--channel-key", str(tmp_path / "channel.jwk"), "--why", "a test"]
        assert "read back" in run("call", one.intent_id, *mine)
        assert tools.orders[order] == "cancelled"
        told = loop.run(explain(settings, one.intent_id, gate.keys.open)).taken_back
        assert told.startswith("verified by ana"), told
        head = loop.run(control_log.read(settings)).control
        assert {o.who for o in head.orders.values()} == {"ana"}
        loop.run(gate.intact())
