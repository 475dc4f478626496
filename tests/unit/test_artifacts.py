"""Artifacts: what is too large for the ledger is validated, sealed and stored beside it, and only a reference travels."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.artifact_keeper import Keeper, validated
from sluicegate.executors.gates import ReleaseGates
from sluicegate.executors.http import HttpAdapter
from sluicegate.processors.artifacts import Reference, check_reference, limit_of, reference_of
from sluicegate.processors.labels import names_of
from sluicegate.processors.release import CompiledRelease, compile_release
from sluicegate.processors.release_check import check_release
from sluicegate.processors.state import session_key
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.artifacts import FolderArtifacts, fetch, seal, store_of, unseal
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_cache import intact

TOOL = "desk.report"
MOST = 4 * 1024 * 1024
BIG = orjson.dumps({"text": "x" * 100_000, "secret": "1234"})


def contract(**more: object) -> str:
    return json.dumps(
        {
            "name": TOOL,
            "inputSchema": {"type": "object", "properties": {}},
            "outputSchema": {
                "type": "object", "properties": {"text": {"type": "string"}, "secret": {"type": "string"}},
                "required": ["text"],
            },
            "x-sluicegate": {
                "class": "read_only", "executor": {"kind": "http", "url": "http://tools.invalid/report"},
                "max_result_bytes": MOST, "labels": {"$": "internal", "$.text": "web"}, "confidential": {"$.secret": "secret"},
                "redact": {"result": ["$.secret"]}, **more,
            },
        }
    )  # fmt: skip


POLICY = f'@id("report") permit (principal, action == Action::"{TOOL}", resource);'


def files(rules: list[dict[str, object]] | None = None, **more: object) -> dict[str, str]:
    found = {
        **release_files(),
        f"contracts/{TOOL}.json": contract(**more),
        "policies/report.cedar": POLICY,
    }
    if rules:
        found["release.yaml"] += "guardrails: " + json.dumps(rules) + "\n"
    return found


COMPILED = compile_release(files())


def driver(compiled: CompiledRelease = COMPILED) -> Driver:
    d = Driver()
    d.deploy(compiled)
    d.open_session()
    return d


class Gates(ReleaseGates):
    """Releases at hand, without Kafka."""

    def __init__(self, *known: CompiledRelease) -> None:
        self._known = {one.digest: one for one in known}

    async def release(self, digest: str, limit_s: float) -> CompiledRelease | None:
        """One that was given."""
        return self._known.get(digest)


def keep(folder: Path, dispatch: r.Dispatch, result: bytes, compiled: CompiledRelease = COMPILED) -> Answer:
    return asyncio.run(Keeper(FolderArtifacts(folder), Gates(compiled)).keep(dispatch, result, 10.0))


def test_from_the_tool_to_the_agent(tmp_path: Path) -> None:
    d = driver()
    dispatch = d.call(TOOL).dispatches[0]
    assert limit_of(dispatch.executor) == MOST
    kept = keep(tmp_path, dispatch, BIG)
    assert isinstance(kept, Finished) and kept.stored
    done = d.receipt(dispatch, "stored", result=kept.result)
    assert [o.status for o in done.outcomes] == ["released"]
    told = orjson.loads(done.replies[-1].result or b"")
    content = asyncio.run(fetch(FolderArtifacts(tmp_path), told))
    assert (
        orjson.loads(content) == {"text": "x" * 100_000, "secret": "[redacted]"}
        or "1234" not in content.decode()
    )
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"xxxx" not in stored and len(stored) > 100_000
    session = d.state.sessions[session_key(AGENT, SESSION)]
    assert names_of(session.integrity) == ["internal", "web"] and session.confidentiality == 2
    intact(d)


def test_the_result_is_validated_where_it_is(tmp_path: Path) -> None:
    d = driver()
    dispatch = d.call(TOOL).dispatches[0]
    for result, why in (
        (b"no json" * 10_000, "malformed_result"),
        (orjson.dumps({"other": "x" * 100_000}), "malformed_result"),
        (orjson.dumps({"text": "x" * MOST}), "result_too_large"),
    ):
        found = keep(tmp_path, dispatch, result)
        assert isinstance(found, Failed) and (found.error_class, found.sent) == (why, True)
    rules: list[dict[str, object]] = [{"id": "no-iban", "on": "result", "tools": [TOOL], "detect": ["iban"]}]
    strict = compile_release(files(rules))
    d = driver(strict)
    dispatch = d.call(TOOL).dispatches[0]
    assert b'"session"' in dispatch.around
    found = validated(strict, dispatch, orjson.dumps({"text": "x" * 70_000 + " GB29 NWBK 6016 1331 9268 19"}))
    assert isinstance(found, Failed) and found.error_class == "guardrail"
    done = d.receipt(dispatch, "failed", error_class=found.error_class, error=found.error)
    assert (done.outcomes[-1].status, done.outcomes[-1].reason) == ("withheld", "guardrail")
    assert list(tmp_path.rglob("*")) == []
    assert isinstance(keep(tmp_path, replace(dispatch, release="sha256:other"), BIG), Failed)


def test_what_shrank_to_an_inline_result_is_one(tmp_path: Path) -> None:
    d = driver()
    found = keep(
        tmp_path, d.call(TOOL).dispatches[0], orjson.dumps({"text": "short", "secret": "x" * 100_000})
    )
    assert isinstance(found, Finished) and not found.stored and len(found.result) < 100


def test_only_a_contract_that_says_so_has_references(tmp_path: Path) -> None:
    reference, _ = seal(BIG)
    d = driver()
    other = d.call("desk.read").dispatches[0]
    done = d.receipt(other, "stored", result=reference.as_json())
    assert (done.outcomes[-1].status, done.outcomes[-1].reason) == ("withheld", "result_too_large")
    for wrong in (
        b"{}", b"[]", b"nonsense", None, b'{"artifact":{"digest":"x"}}', replace(reference, key=b"short").as_json(),
        replace(reference, stored="sha256:" + "g" * 64).as_json(), b'{"artifact":"' + b"x" * MAX_RESULT_BYTES + b'"}',
    ):  # fmt: skip
        assert check_reference(wrong, MOST) == "malformed_result"
    assert check_reference(replace(reference, size=MOST + 1).as_json(), MOST) == "result_too_large"
    assert check_reference(replace(reference, size=5).as_json(), MOST) == "result_too_large"
    assert check_reference(reference.as_json(), MOST) == ""
    # A tool that answers with something that looks like one is validated like any result.
    inline = d.call(TOOL).dispatches[0]
    done = d.receipt(inline, "finished", result=reference.as_json())
    assert (done.outcomes[-1].status, done.outcomes[-1].reason) == ("withheld", "malformed_result")
    intact(d)


def test_another_content_is_never_taken_for_it(tmp_path: Path) -> None:
    store = FolderArtifacts(tmp_path)
    reference, sealed = seal(BIG)
    assert unseal(reference, sealed) == BIG
    asyncio.run(store.put(reference.stored, sealed))
    told = orjson.loads(reference.as_json())
    assert asyncio.run(fetch(store, told)) == BIG and reference_of(told) == reference
    (path,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    path.write_bytes(sealed[:-1] + b"\0")
    with pytest.raises(Terminal, match="something else"):
        asyncio.run(fetch(store, told))
    other, others = seal(b"[]" * 50_000)
    with pytest.raises(Terminal, match="does not open"):
        unseal(Reference(reference.digest, reference.size, other.stored, reference.key), others)
    with pytest.raises(Terminal, match="is not what"):
        unseal(replace(other, digest=reference.digest), others)
    path.unlink()
    with pytest.raises(Retryable, match="SLUICEGATE_ARTIFACTS"):
        asyncio.run(fetch(store, told))
    with pytest.raises(Terminal, match="no reference"):
        asyncio.run(fetch(store, {"text": "x"}))


def test_where_the_store_is() -> None:
    settings = Settings(home=Path("/nowhere/home"))
    assert store_of(settings, {})._folder == Path("/nowhere/home/artifacts")  # type: ignore[attr-defined]
    assert store_of(settings, {"SLUICEGATE_ARTIFACTS": "/mnt/a"})._folder == Path("/mnt/a")  # type: ignore[attr-defined]
    with pytest.raises(Terminal, match="only folders"):
        store_of(settings, {"SLUICEGATE_ARTIFACTS": "s3://bucket"})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"executor": {"kind": "python", "entry": "a.b"}}, "executor kind `http`"),
        ({"cache": {"scope": "agent", "ttl_s": 60}}, "not cached"),
        ({"max_result_bytes": 1 << 40}, "less than or equal"),
    ],
)
def test_contracts_that_cannot_have_them(more: dict[str, object], said: str) -> None:
    _, findings = check_release(files(**more))
    assert any(said in str(finding) for finding in findings), findings


def test_an_inline_contract_is_what_it_was() -> None:
    assert b"max_result_bytes" not in COMPILED.tools["desk.read"].executor
    assert limit_of(COMPILED.tools["desk.read"].executor) == MAX_RESULT_BYTES == limit_of(b"nonsense")
    assert HttpAdapter is not None
