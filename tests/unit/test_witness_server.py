"""A witness over HTTP, asked by a checkpointer's client: cosigns, remembers over restarts, refuses forks and keeps them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from sluicegate.processors.transparency import checkpoints, log_files, merkle, witness_policy
from sluicegate.processors.transparency.checkpoints import LogKey, Signed
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness_policy import Policy, parse_policy
from sluicegate.schemas import notes
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.keys.files import PrivateKey
from sluicegate.streams.transparency import witness_memory
from sluicegate.streams.transparency.witness_client import Witnesses, policy_from
from sluicegate.streams.transparency.witness_memory import WitnessMemory
from sluicegate.streams.transparency.witness_server import LogDescriptions, Witness, application, serve

from tests.unit.test_checkpoints import KEY, LOG_ID, NOW, ORIGIN, OTHER, signed
from tests.unit.test_merkle import Memory, leaves_of, mth

LEAVES = leaves_of(300)
FORKED = [merkle.leaf_hash(b"another"), *LEAVES[1:]]
NAME = "witness.example/ops"
WITNESS_KEY = PrivateKey("witness", b"w" * 32)


def head(size: int, leaves: list[bytes] = LEAVES, at: int = NOW) -> Signed:
    return checkpoints.verify(str(signed(size, mth(leaves[:size]), at)), [KEY])


def proofs(size: int, leaves: list[bytes] = LEAVES) -> Callable[[int], list[bytes]]:
    return lambda old: merkle.consistency_proof(old, size, Memory(leaves))


def judge(folder: Path, name: str = NAME, key: PrivateKey = WITNESS_KEY) -> Witness:
    logs = {ORIGIN: (KEY,)}
    return Witness(name, key, WitnessMemory(folder / "witness.db"), lambda: logs, lambda: NOW)


def policy(url: str, key: PrivateKey = WITNESS_KEY) -> Policy:
    vkey = notes.VKey(NAME, notes.COSIGNATURE, key.public)
    return parse_policy(f"witness ops {vkey} {url}\nquorum ops\n")


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


async def ask(witnesses: Witnesses, one: Signed, leaves: list[bytes] = LEAVES) -> str:
    """Who signed; else why not."""
    found = await witnesses.ask(one, proofs(one.head.size, leaves))
    return found[0].name if found else witnesses.problems["ops"]


def run(folder: Path, work: Callable[[Witnesses], AsyncIterator[None]], **kwargs: PrivateKey) -> None:
    async def main() -> None:
        async with listening(application(judge(folder, **kwargs))) as url:
            witnesses = Witnesses(policy(url))
            async for _ in work(witnesses):
                pass
            await witnesses.stop()

    asyncio.run(main())


def test_heads_that_continue_are_cosigned_over_restarts_of_both(tmp_path: Path) -> None:
    async def first(witnesses: Witnesses) -> AsyncIterator[None]:
        for size in (1, 100, 100, 257):
            cosignatures = await witnesses.ask(head(size), proofs(size))
            note = head(size).note.with_signatures(*cosignatures)
            vkey = notes.VKey(NAME, notes.COSIGNATURE, WITNESS_KEY.public)
            assert vkey.find(note) is not None
            other = sqlite3.connect(tmp_path / "witness.db")  # durable before it was answered
            assert other.execute("SELECT size FROM heads").fetchall() == [(size,)]
            other.close()
        yield

    async def second(witnesses: Witnesses) -> AsyncIterator[None]:
        assert await ask(witnesses, head(300)) == NAME  # it asks for size 0, and is told 257
        assert witnesses.refusals == {}
        yield

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_fork_is_refused_and_kept(tmp_path: Path) -> None:
    async def work(witnesses: Witnesses) -> AsyncIterator[None]:
        assert await ask(witnesses, head(200)) == NAME
        assert "is FORKED: it signed two roots for size 200" in await ask(
            witnesses, head(200, FORKED), FORKED
        )
        assert "does not continue the 200 events" in await ask(witnesses, head(250, FORKED), FORKED)
        assert "does not continue the 200 events" in await ask(witnesses, head(250, FORKED), FORKED)
        assert witnesses.refusals["ops"] == 3
        yield

    run(tmp_path, work)
    memory = WitnessMemory(tmp_path / "witness.db")
    assert memory.heads() == [(ORIGIN, 200, NOW)]
    assert [(row[2], row[4]) for row in memory.refusals()] == [
        ("forked", str(head(200).note)),
        ("inconsistent", str(head(200).note)),  # once
    ]
    for row in memory.refusals():  # both notes verify: that is the proof
        for note in row[4:]:
            assert checkpoints.verify(note, [KEY], ORIGIN)
    memory.close()


def test_a_log_that_lost_events_is_refused(tmp_path: Path) -> None:
    async def work(witnesses: Witnesses) -> AsyncIterator[None]:
        assert await ask(witnesses, head(200)) == NAME
        assert "cosigned size 200 already, and this log has 150: the log is SHORTER" in await ask(
            witnesses, head(150)
        )
        yield

    run(tmp_path, work)


def test_a_witness_of_another_key_or_one_that_is_away_gives_nothing(tmp_path: Path) -> None:
    async def work(witnesses: Witnesses) -> AsyncIterator[None]:
        assert "no signature of the key in the policy" in await ask(witnesses, head(5))
        yield

    run(tmp_path, work, key=PrivateKey("x", b"x" * 32))

    async def away() -> None:
        witnesses = Witnesses(policy("http://127.0.0.1:9"))
        assert "does not answer" in await ask(witnesses, head(5))
        assert witnesses.refusals == {}
        await witnesses.stop()
        assert await Witnesses(Policy()).ask(head(5), proofs(5)) == []

    asyncio.run(away())


def test_a_witness_that_talks_nonsense_gives_nothing() -> None:
    async def main() -> None:
        for status, kind, text, why in (
            (200, "text/plain", "hello", "no signature"),
            (409, "text/x.tlog.size", "x", "409: x"),
            (409, "text/x.tlog.size", "7", "cosigned size 7 already"),
            (500, "text/plain", "oops", "500: oops"),
        ):
            app = web.Application()

            async def reply(
                _: web.Request, status: int = status, kind: str = kind, text: str = text
            ) -> web.Response:
                return web.Response(status=status, body=text.encode(), content_type=kind)

            app.router.add_post("/add-checkpoint", reply)
            async with listening(app) as url:
                witnesses = Witnesses(policy(url))
                assert why in await ask(witnesses, head(5))
                await witnesses.stop()

    asyncio.run(main())


def test_a_request_that_is_too_large_or_no_request(tmp_path: Path) -> None:
    import aiohttp

    async def main() -> None:
        async with listening(application(judge(tmp_path))) as url, aiohttp.ClientSession() as session:
            for body, status in ((b"x" * 100_000, 413), (b"x", 400), (b"old 0\n\nnote", 400)):
                async with session.post(f"{url}/add-checkpoint", data=body) as answer:
                    assert answer.status == status
            async with session.get(f"{url}/health") as answer:
                assert (await answer.text()).startswith(f"{NAME}+")

    asyncio.run(main())


def test_two_requests_cannot_both_continue_one_head(tmp_path: Path) -> None:
    memory = WitnessMemory(tmp_path / "w.db")

    def decide(_: object) -> tuple[int, str, None]:
        other = sqlite3.connect(tmp_path / "w.db", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        return 1, str(head(1).note), None

    memory.advance(ORIGIN, decide, NOW)
    memory.close()


def test_evidence_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_memory, "MAX_REFUSALS", 3)
    memory = WitnessMemory(tmp_path / "w.db")
    for number in range(5):
        memory.refuse(ORIGIN, "forked", "why", f"note {number}", NOW)
    assert [row[5] for row in memory.refusals()] == ["note 2", "note 3", "note 4"]
    memory.close()


def test_a_rotation_reaches_a_witness_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(LogFile("dev", LOG_ID, 4, (KEY,)).text)
    logs = LogDescriptions([path])
    assert logs()[ORIGIN] == (KEY,)
    rotated = (KEY, LogKey("log.2", notes.public_of(OTHER), NOW * 10**6, KEY.not_after))
    path.write_text(LogFile("dev", LOG_ID, 4, rotated).text)
    assert logs()[ORIGIN] == rotated
    path.write_text("{")  # half written, or wrong
    assert logs()[ORIGIN] == rotated
    path.unlink()
    assert logs()[ORIGIN] == rotated
    with pytest.raises(Terminal, match="name a description of a log"):
        LogDescriptions([path])
    assert log_files.parse(LogFile("dev", LOG_ID, 4, rotated).text).keys == rotated


def test_files_that_are_no_policy_or_memory(tmp_path: Path) -> None:
    assert policy_from({}) == witness_policy.Policy()
    with pytest.raises(Terminal, match="cannot be read, check its path"):
        policy_from({"SLUICEGATE_WITNESS_POLICY": str(tmp_path / "none")})
    (tmp_path / "text").write_text("this is no database, but long enough to be taken for one" * 100)
    with pytest.raises(Terminal, match="cannot be a witness's memory"):
        WitnessMemory(tmp_path / "text")


def test_a_place_that_is_taken_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with listening(web.Application()) as url:
            port = int(url.rpartition(":")[2])
            with pytest.raises(Terminal, match="cannot be listened at"):
                await serve(judge(tmp_path), "127.0.0.1", port, print)

    asyncio.run(main())
