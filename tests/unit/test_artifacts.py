"""Artifacts: what is too large for the ledger is validated, sealed and stored beside it, and only a reference travels."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sluicegate.executors.adapter import Answer, Failed, Finished, Pending
from sluicegate.executors.artifact_keeper import Keeper, validated
from sluicegate.executors.gates import ReleaseGates
from sluicegate.executors.http import HttpAdapter
from sluicegate.executors.python import PythonAdapter
from sluicegate.executors.sql import SqlAdapter
from sluicegate.processors.artifacts import Reference, check_reference, limit_of, reference_of
from sluicegate.processors.labels import names_of
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.state import session_key
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.archive.artifact_objects import ObjectArtifacts
from sluicegate.streams.archive.artifact_sweep import Sweeper, days_of
from sluicegate.streams.archive.artifacts import (
    Artifacts,
    FolderArtifacts,
    fetch,
    opened,
    seal,
    store_of,
    unseal,
)
from sluicegate.streams.settings import Settings

from tests import s3
from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit import test_attempts as attempts
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
    assert isinstance(store_of(settings, {"SLUICEGATE_ARTIFACTS": "memory:///"}), ObjectArtifacts)
    with pytest.raises(Terminal, match="artifacts cannot be kept at"):
        store_of(settings, {"SLUICEGATE_ARTIFACTS": "nosuch://bucket"})


async def stands(store: Artifacts) -> None:
    """What any store has to do."""
    reference, sealed = seal(BIG)
    assert await store.get(reference.stored) is None
    for _ in range(2):
        await store.put(reference.stored, sealed)
    assert await fetch(store, orjson.loads(reference.as_json())) == BIG
    other, others = seal(b"[]")
    await store.put(other.stored, others)
    for _ in range(2):
        await store.delete(other.stored)
    assert await store.get(other.stored) is None and await store.get(reference.stored) == sealed
    # An hour is far from any doubt between this clock and the store's.
    assert await store.sweep(time.time() - 3_600) == 0 and await store.get(reference.stored) == sealed
    assert await store.sweep(time.time() + 3_600) == 1 and await store.get(reference.stored) is None
    assert await store.sweep(time.time() + 3_600) == 0


@pytest.mark.parametrize("kind", ["folder", "memory", "files", "s3"])
def test_every_store_is_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "folder":
        asyncio.run(stands(FolderArtifacts(tmp_path)))
        return
    where = s3.new_prefix(monkeypatch) if kind == "s3" else ""
    url = {"memory": "memory:///", "files": tmp_path.as_uri(), "s3": where}[kind]
    asyncio.run(stands(ObjectArtifacts.at(url)))


def test_from_the_tool_to_the_agent_by_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an executor stores and an agent fetches, by what the environment says: nothing in it can be read there."""
    store = store_of(Settings(), {"SLUICEGATE_ARTIFACTS": s3.new_prefix(monkeypatch)})
    d = driver()
    dispatch = d.call(TOOL).dispatches[0]
    kept = asyncio.run(Keeper(store, Gates(COMPILED)).keep(dispatch, BIG, 10.0))
    assert isinstance(kept, Finished) and kept.stored
    told = orjson.loads(d.receipt(dispatch, "stored", result=kept.result).replies[-1].result or b"")
    assert b"x" * 100_000 in asyncio.run(fetch(store, told))
    reference = reference_of(told)
    assert reference is not None
    sealed = asyncio.run(store.get(reference.stored))
    assert sealed is not None and b"xxxx" not in sealed and len(sealed) > 100_000


def test_a_sweep_leaves_what_is_not_an_artifact(tmp_path: Path) -> None:
    for name in ("notes.txt", "ab/notes.txt", "zz/" + "ab" * 32):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert asyncio.run(ObjectArtifacts.at(tmp_path.as_uri()).sweep(time.time() + 3_600)) == 0
    (tmp_path / "ab" / "notes.txt").unlink()
    assert asyncio.run(FolderArtifacts(tmp_path).sweep(time.time() + 3_600)) == 0
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


def test_old_artifacts_are_swept(tmp_path: Path) -> None:
    store, now = FolderArtifacts(tmp_path), time.time()
    old, fresh = seal(BIG), seal(BIG)
    for age, (reference, sealed) in ((31, old), (29, fresh)):
        asyncio.run(store.put(reference.stored, sealed))
        (path,) = tmp_path.rglob(reference.stored.removeprefix("sha256:"))
        os.utime(path, (now - age * 86_400,) * 2)
    sweeper = Sweeper(store, days_of({}))
    assert asyncio.run(sweeper.once(now)) == 1 == sweeper.swept
    assert asyncio.run(store.get(old[0].stored)) is None and asyncio.run(store.get(fresh[0].stored))

    async def never() -> None:
        forever = Sweeper(store, days_of({"SLUICEGATE_ARTIFACTS_DAYS": "0"}))
        forever.start()
        await forever.stop()

    asyncio.run(never())
    assert asyncio.run(store.get(fresh[0].stored))
    for wrong in ("-1", "1.5", "soon", "99999999"):
        with pytest.raises(Terminal, match="is no number of days"):
            days_of({"SLUICEGATE_ARTIFACTS_DAYS": wrong})


@pytest.mark.parametrize("kind", ["python", "sql"])
def test_other_executors_answer_as_much(kind: str, tmp_path: Path) -> None:
    database = tmp_path / "desk.db"
    with closing(sqlite3.connect(database)) as made:
        made.execute("create table t as select printf('%.*c', 90000, 'x') as text")
        made.commit()
    executor, adapter = {
        "python": ({"kind": "python", "entry": "sized"}, PythonAdapter({"sized": "tests.unit.python_tools:many"})),
        "sql": (
            {"kind": "sql", "database": "desk", "statement": "select text from t"},
            SqlAdapter.from_env({"SLUICEGATE_SQL_DATABASES": f"desk={database}"}),
        ),
    }[kind]  # fmt: skip
    governance = {"class": "read_only", "executor": executor, "max_result_bytes": MOST}
    small = {
        "name": TOOL,
        "inputSchema": {"type": "object", "properties": {}},
        "x-sluicegate": governance,
    }
    found = {**files(), f"contracts/{TOOL}.json": json.dumps(small)}
    compiled = compile_release(found)
    dispatch = driver(compiled).call(TOOL).dispatches[0]

    inline = replace(dispatch, executor=orjson.dumps(executor))

    async def run() -> list[Answer]:
        try:
            return [await adapter.call(one, 30.0) for one in (dispatch, inline)]
        finally:
            await adapter.close()

    answer, refused = asyncio.run(run())
    assert isinstance(answer, Finished) and len(answer.result) > 90_000
    kept = keep(tmp_path / "kept", dispatch, answer.result, compiled)
    assert isinstance(kept, Finished) and kept.stored
    assert isinstance(refused, Failed) and refused.error_class == "result_too_large"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"executor": {"kind": "memory", "op": "read"}},
            "executor kinds `http`, `python`, `sql`, `mcp`, `model`",
        ),
        (
            {"executor": {"kind": "model", "url": "http://tools.invalid/v1", "model": "m", "stream": "open"}},
            "streamed has 64 kB",
        ),
        ({"cache": {"scope": "agent", "ttl_s": 60}}, "not cached"),
        ({"max_result_bytes": 1 << 40}, "less than or equal"),
    ],
)
def test_contracts_that_cannot_have_them(more: dict[str, object], said: str) -> None:
    _, findings = check_release(files(**more))
    assert any(said in str(finding) for finding in findings), findings


def test_the_end_of_a_job_is_kept_and_looked_for_again_where_it_cannot_be(tmp_path: Path) -> None:
    job = {"id": "/id", "url": "http://tools.invalid/jobs/{job}", "state": "/state", "done": ["done"]}
    executor = {"kind": "http", "url": "http://tools.invalid/report", "job": job}
    rules: list[dict[str, object]] = [
        {"id": "g", "tools": [TOOL], "detect": ["iban"], "on": "result", "verdict": "withhold"}
    ]
    compiled = compile_release(files(rules, completion="poll", job_limit_s=600, executor=executor))
    d = driver(compiled)
    first = d.call(TOOL).dispatches[0]
    d.receipt(first, "parked", result=orjson.dumps({"completion": "poll", "job": "j-1"}))
    (look,) = d.tick(3_000_000).dispatches
    assert (look.purpose, look.release) == ("poll", compiled.digest) and orjson.loads(look.around)[
        "tool"
    ] == TOOL
    file = tmp_path / "file"
    file.write_text("no folder")
    lost = keep(file, look, BIG, compiled)
    assert isinstance(lost, Pending), "the tool still has it"
    assert d.receipt(look, "progress", error_class=lost.error_class).outcomes[-1].status == "parked"
    (look,) = d.tick(10_000_000).dispatches
    kept = keep(tmp_path / "kept", look, BIG, compiled)
    assert isinstance(kept, Finished) and kept.stored and kept.said == b""
    assert d.receipt(look, "stored", result=kept.result).outcomes[-1].status == "released"
    intact(d)


def test_a_large_answer_of_a_model_is_counted_and_not_asked_for_again(tmp_path: Path) -> None:
    made = attempts.files()
    for name in (attempts.LARGE, attempts.SMALL, attempts.SPARE):
        body = json.loads(made[f"contracts/{name}.json"])
        body["x-sluicegate"]["max_result_bytes"] = MOST
        made[f"contracts/{name}.json"] = json.dumps(body)
    compiled = compile_release(made)
    d = driver(compiled)
    (dispatch,) = d.call("triage", {"messages": attempts.MESSAGES}, kind="model_call").dispatches
    answer = {
        "text": "x" * 200_000, "tool_calls": [], "finish_reason": "stop", "served_model": "m-1",
        "usage": {"input_tokens": 7, "output_tokens": 50_000},
    }  # fmt: skip
    kept = keep(tmp_path, dispatch, orjson.dumps(answer), compiled)
    assert isinstance(kept, Finished) and kept.stored
    done = d.receipt(dispatch, "stored", result=kept.result, said=kept.said)
    facts = done.outcomes[0].facts
    assert isinstance(facts, r.AnswerFacts) and done.outcomes[0].status == "released"
    assert (facts.served_model, facts.input_tokens, facts.output_tokens) == ("m-1", 7, 50_000)
    settings = Settings(env="test", home=tmp_path / "home")
    store = {"SLUICEGATE_ARTIFACTS": str(tmp_path)}
    told = orjson.loads(done.replies[-1].result or b"")
    assert orjson.loads(asyncio.run(fetch(store_of(settings, store), told))) == answer
    assert asyncio.run(opened(settings, {"text": "short"})) == {"text": "short"}
    intact(d)


def test_an_inline_contract_is_what_it_was() -> None:
    assert b"max_result_bytes" not in COMPILED.tools["desk.read"].executor
    assert limit_of(COMPILED.tools["desk.read"].executor) == MAX_RESULT_BYTES == limit_of(b"nonsense")
    assert HttpAdapter is not None
