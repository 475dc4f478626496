"""Staging and prod on one broker, by the commands: what ran in the one goes to the other as a file, and two people let it in."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.settings import Settings
from typer.testing import CliRunner

from tests.driver import AGENT
from tests.integration import gate as gates
from tests.integration.test_deployments import decided_under, digest_in, folder

Command = Callable[..., str]
RULES = """
@id("leads-by-two") @quorum("2") @expires("1h")
permit (principal in Role::"lead", action in [Action::"release.deployed", Action::"canary.started"], resource);
@id("promoted-only")
forbid (principal, action in [Action::"release.deployed", Action::"canary.started"], resource) unless { context.attested };
@id("keys-by-two") @quorum("2")
permit (principal in Role::"lead", action in [Action::"people.registered", Action::"key.added"], resource);
@id("back-at-once") permit (principal in Role::"lead", action == Action::"release.rolled_back", resource);
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command in one environment, and what it said."""

    def command(
        settings: Settings, *words: str, fails: bool = False, key: Path | None = None, code: int = 0
    ) -> str:
        for name, value in {**stack.environment_of(settings), "SLUICEGATE_PARTITIONS": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SLUICEGATE_OPERATOR_KEY", str(key or ""))
        found = CliRunner().invoke(app, list(words))
        said = found.output + (str(found.exception) if found.exception else "")
        assert isinstance(found.exception, Terminal) if fails else found.exit_code == code, said
        return " ".join(said.split())

    return command


def test_from_staging_to_prod(kafka: str, tmp_path: Path, run: Command) -> None:
    staging = gates.new_settings(kafka, tmp_path / "staging-home")
    prod = gates.new_settings(kafka, tmp_path / "prod-home")
    candidate, file, key = (
        folder(tmp_path / "candidate", "next"),
        tmp_path / "promo.json",
        tmp_path / "st.jwk",
    )
    built = tmp_path / "candidate.release"
    run(staging, "release", "build", str(candidate), "-o", str(built))
    with gates.running(staging) as (loop, gate):
        digest = digest_in(run(staging, "deploy", str(built), "--why", "a week here first"))
        run(staging, "keys", "new", "staging", "--role", "attestor", "--kid", "st-1", "--file", str(key))
        attest = ("release", "attest", digest[:20], "--key", str(key), "-o", str(file))
        assert "never ran" in run(staging, *attest, fails=True)
        head = loop.run(control_log.read(staging)).control.head
        loop.run(gate.service.control.wait_for(head))
        loop.run(gate.open_session(AGENT, "new"))
        assert loop.run(decided_under(gate, "new")) == digest
        assert "would attest" in run(staging, *attest, "--dry-run") and not file.exists()
        assert "1 sessions and 1 intents" in run(staging, *attest)
        other = digest_in(run(staging, "release", "publish", str(folder(tmp_path / "other", "other"))))
        assert "never ran" in run(staging, "release", "attest", other[:20], "--key", str(key), fails=True)
        loop.run(gate.intact())
        derived = tmp_path / "derived"
        run(staging, "release", "get", digest[:20], str(derived))
        assert (derived / "release.schema.json").is_file()
        assert "nothing differs" in run(staging, "release", "diff", digest[:20], str(built))
        assert "parent" in run(staging, "release", "diff", str(derived), code=1), (
            "against the parent it names"
        )
        child = digest_in(run(staging, "release", "publish", str(derived)))
        assert f"derived from {digest}" in run(staging, "release", "show", child[:20])
        parents = {
            r["digest"]: r["parent"] for r in json.loads(run(staging, "release", "list", "-o", "json"))
        }
        assert (parents[child], parents[digest]) == (digest, "")

    run(prod, "topics", "create", "--signing", "signed")
    me, leo = getpass.getuser(), tmp_path / "leo.jwk"
    for person in (me, "leo"):
        run(prod, "people", "register", person, "--role", "lead", "--role", "operator")
    run(prod, "keys", "new", "leo", "--role", "operator", "--file", str(leo))
    base = folder(tmp_path / "base", "base")
    (base / "control.cedar").write_text(RULES)
    first = digest_in(run(prod, "deploy", str(base)))
    assert "promoted-only" in run(prod, "deploy", str(candidate), fails=True)
    assert "none of an attestor" in run(prod, "promote", str(file), fails=True)
    assert "takes 2 people" in run(prod, "people", "register", "eve", "--role", "lead"), (
        "nobody makes a second self"
    )
    assert "takes 2 people" in run(
        prod, "keys", "add", "st-1", "staging", "--role", "attestor", "--public", str(key)
    )
    pending = {r["about"]: str(r["change"]) for r in json.loads(run(prod, "changes", "list", "-o", "json"))}
    assert "`key.added` is done" in run(prod, "changes", "agree", pending["st-1"], key=leo)
    run(prod, "changes", "withdraw", pending[""], "--why", "who is eve")
    changed = json.loads(file.read_text())
    (tmp_path / "changed.json").write_text(
        json.dumps({**changed, "payload": changed["payload"].replace("A", "B", 1)})
    )
    assert "not taken" in run(prod, "promote", str(tmp_path / "changed.json"), fails=True)
    assert "would be: proposed" in run(prod, "promote", str(file), "--dry-run")
    assert "it takes 2 people" in run(prod, "promote", str(file), "--why", "a week in staging")

    [row] = json.loads(run(prod, "changes", "list", "-o", "json"))
    number = str(row["change"])
    assert (row["event"], row["about"], row["agreed"], row["stands"]) == (
        "release.deployed",
        digest,
        me,
        "waits",
    )
    assert digest in run(prod, "changes", "show", number)
    assert "another person" in run(prod, "changes", "agree", number, fails=True)
    assert "`release.deployed` is done" in run(prod, "changes", "agree", number, "--dry-run", key=leo)
    assert "`release.deployed` is done" in run(
        prod, "changes", "agree", number, "--why", "read the diff", key=leo
    )
    assert "eve" not in run(prod, "people", "list")
    stands = {r["digest"]: r["stands"] for r in json.loads(run(prod, "release", "list", "-o", "json"))}
    assert stands == {first: "was deployed", digest: f"deployed, ran in {staging.env}"}
    assert "no change" in run(prod, "changes", "agree", number, fails=True, key=leo)
    assert "derived from" in run(prod, "release", "show", digest[:20])
