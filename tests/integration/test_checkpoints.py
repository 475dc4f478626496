"""Checkpoints on a real Kafka, one environment: signed, witnessed, restarted, rotated, asked about; then the ledger is rewritten."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency import checkpoints, log_files, proofs
from sluicegate.processors.transparency.checkpoints import CONTROL, Signed, keys_of
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness_policy import Policy, parse_policy
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.topics import full_name
from sluicegate.streams import failpoints, kafka, stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import tile_store
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.checkpointer import REST_MAX_S, Checkpointer
from sluicegate.streams.transparency.witness_memory import WitnessMemory
from sluicegate.streams.transparency.witness_server import LogDescriptions, Witness, application
from typer.testing import CliRunner

from tests.integration.gate import new_settings, until
from tests.ledger_records import Ledger
from tests.unit.test_witness_server import NAME, WITNESS_KEY, listening

PARTITIONS = 2


class Env:
    """One environment and what writes to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control: Control = asyncio.run(stack.prepare(settings))
        self.ledgers = [self.ledger(p) for p in range(PARTITIONS)]
        self.description = settings.home / "log.json"
        self.describe()

    def ledger(self, partition: int) -> Ledger:
        return Ledger(log=self.control.log_id, partition=partition)

    def describe(self) -> LogFile:
        self.control = asyncio.run(control_log.read(self.settings)).control
        made = log_files.of_control(self.control)
        self.description.write_text(made.text)
        return made

    def origin(self, partition: int) -> str:
        return checkpoints.origin_of(self.settings.env, self.control.log_id, partition)

    async def write(self, ledger: Ledger, intents: int) -> None:
        producer = await kafka.connect(kafka.producer(self.settings))
        records = [ledger.genesis()] if ledger.seq == 0 else []
        for number in range(intents):
            records += ledger.intent(number + ledger.seq)
        topic = full_name(self.settings.env, "outcomes")
        sent = [await producer.send(topic, r.value, partition=ledger.partition) for r in records]
        await asyncio.gather(*sent)
        await producer.stop()

    async def newest(self, *, every: bool = False) -> dict[str, list[Signed]]:
        consumer = await kafka.connect(kafka.consumer(self.settings))
        origins = [self.origin(p) for p in (CONTROL, *range(PARTITIONS))]
        keys = keys_of((await control_log.read(self.settings)).control)
        found = await checkpoint_topic.newest(consumer, self.settings.env, origins, keys, every=every)
        await consumer.stop()
        return found

    def policy_file(self, url: str) -> tuple[Path, Policy]:
        from sluicegate.schemas.notes import COSIGNATURE, VKey

        path = self.settings.home / "policy.txt"
        path.write_text(f"witness ops {VKey(NAME, COSIGNATURE, WITNESS_KEY.public)} {url}\nquorum ops\n")
        return path, parse_policy(path.read_text())

    @asynccontextmanager
    async def checkpointer(
        self, policy: Path | None = None, home: Path | None = None, ahead: list[int] | None = None
    ) -> AsyncIterator[Checkpointer]:
        """`ahead`: seconds by which its clock is; add to it, and time has passed."""
        environ = {"SLUICEGATE_CHECKPOINT_EVERY_S": "0.05"}
        if policy is not None:
            environ["SLUICEGATE_WITNESS_POLICY"] = str(policy)
        if home is not None:
            environ["SLUICEGATE_TILES"] = str(home)

        def clock() -> int:
            return time.time_ns() // 1000 + sum(ahead or ()) * 1_000_000

        made = Checkpointer(self.settings, environ=environ, clock=clock)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    async def signed(self, running: Checkpointer, partition: int, size: int) -> None:
        """Wait until the head of that size was shown."""
        origin = self.origin(partition)
        await until(lambda: running.newest.get(origin) == size, f"{size} events of {partition} are signed")


@pytest.fixture(scope="module")
def env(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    yield Env(new_settings(kafka, tmp_path_factory.mktemp("checkpoints"), PARTITIONS))


def witness(env: Env) -> Witness:
    memory = WitnessMemory(env.settings.home / "witness.db")
    return Witness(NAME, WITNESS_KEY, memory, LogDescriptions([env.description]), lambda: int(time.time()))


def run(work: Callable[[], object]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_1_heads_are_signed_witnessed_and_shown(env: Env) -> None:
    async def main() -> None:
        await env.write(env.ledgers[0], 100)
        async with listening(application(witness(env))) as url:
            path, policy = env.policy_file(url)
            async with env.checkpointer(path) as running:
                await env.signed(running, 0, 401)
                await env.write(env.ledgers[1], 3)
                await env.signed(running, 1, 13)
                await env.write(env.ledgers[0], 30)
                await env.signed(running, 0, 521)
                assert running.alive == "" and running.faults == {}
                metrics = running.metrics()
            assert metrics['sluicegate_checkpoint_size{partition="0"}'] == 521
            assert metrics['sluicegate_checkpoint_witness_away{witness="ops"}'] == 0
        found = await env.newest()
        sizes = {origin.rpartition("/")[2]: one[0].head.size for origin, one in found.items()}
        assert sizes == {"control": env.control.head + 1, "0": 521, "1": 13}
        key = keys_of(env.control)[0]
        for [one] in found.values():
            assert list(policy.check(one.note, key)) == ["ops"]

    run(main)


def test_2_a_restart_goes_on_and_a_rotation_counts(env: Env) -> None:
    async def restarted() -> None:
        async with env.checkpointer() as running:
            await env.write(env.ledgers[0], 1)
            await env.signed(running, 0, 525)
        found = await env.newest(every=True)
        sizes = {o.rpartition("/")[2]: {one.head.size for one in all_of} for o, all_of in found.items()}
        assert (sizes["1"], sizes["control"]) == ({13}, {env.control.head + 1})  # the others had nothing new

    run(restarted)
    [old] = keys_of(env.control)
    keys = Keys(env.settings.home)
    made = asyncio.run(identities.new_key(env.settings, keys, "log", checkpoints.ROLE, "rotation"))
    asyncio.run(identities.revoke_key(env.settings, keys, old.kid, "rotation"))
    keys.close()
    description = env.describe()
    assert [k.kid for k in description.keys] == [old.kid, made.kid]
    assert (
        description.keys[0].not_after < keys_of(env.control)[1].not_after
    )  # it ends; what it signed stays good

    async def rotated() -> None:
        async with listening(application(witness(env))) as url:
            path, _ = env.policy_file(url)
            async with env.checkpointer(path) as running:
                await env.write(env.ledgers[0], 1)
                await env.signed(running, 0, 529)
        found = await env.newest(every=True)
        kids = [one.kid for one in found[env.origin(0)]]
        assert kids[0] == old.kid and kids[-1] == made.kid
        last = found[env.origin(0)][-1]
        assert checkpoints.verify(str(last.note), description.keys).kid == made.kid
        assert len(last.note.signatures) == 3  # the witness read the description again

    run(rotated)


def test_3_lost_tiles_are_built_again_from_the_ledger(env: Env, tmp_path: Path) -> None:
    async def main() -> None:
        async with env.checkpointer(home=tmp_path) as running:
            await until(
                lambda: all(t.owed == 0 for t in running.trees), "the trees are as far as they were shown"
            )
            await env.write(env.ledgers[0], 1)
            await env.signed(running, 0, 533)
            again = running.trees[1].signed
        async with env.checkpointer() as running:
            await until(lambda: running.trees[1].kept == 533, "the other tiles are as far")
            same = running.trees[1].signed
        assert again is not None and same is not None and again.head == same.head

    run(main)


RUN = """
import asyncio
from sluicegate.streams.transparency.checkpointer import Checkpointer
from sluicegate.streams.settings import Settings

async def main():
    await Checkpointer(Settings.from_env()).start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_process_that_is_killed_is_followed_by_one_that_signs_the_same_history(env: Env) -> None:
    """SIGKILL after each step, each time with new events."""
    settings = env.settings
    environ = {
        **os.environ, "SLUICEGATE_ENV": settings.env, "SLUICEGATE_HOME": str(settings.home),
        "SLUICEGATE_KAFKA": settings.kafka or "", "SLUICEGATE_PARTITIONS": str(PARTITIONS),
        "SLUICEGATE_CHECKPOINT_EVERY_S": "0.05",
    }  # fmt: skip
    for point in failpoints.CHECKPOINT_POINTS:
        asyncio.run(env.write(env.ledgers[0], 1))
        killed = subprocess.run(
            [sys.executable, "-c", RUN],
            env={**environ, "SLUICEGATE_FAILPOINT": point},
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, point

    async def main() -> None:
        before = await env.newest()
        assert before[env.origin(0)][0].head.size == 533  # the last one was kept, and not shown
        async with env.checkpointer() as running:
            await env.signed(running, 0, 545)

    run(main)


def cli(
    env: Env, *words: str, failed: type[SluicegateError] | None = None, code: int = 0, **more: str
) -> str:
    """What a command prints, or the sentence that it fails with."""
    settings = env.settings
    environ = {
        "SLUICEGATE_ENV": settings.env, "SLUICEGATE_HOME": str(settings.home), "SLUICEGATE_KAFKA": settings.kafka or "",
        "SLUICEGATE_PARTITIONS": str(PARTITIONS), **more,
    }  # fmt: skip
    done = CliRunner().invoke(app, list(words), env=environ)
    if failed is not None:
        assert isinstance(done.exception, failed), done.output
        return str(done.exception)
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_4_proofs_and_checkpoints_are_checked_offline(env: Env, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    cli(env, "checkpoint", "keys", "--file", str(log))
    listed = json.loads(cli(env, "checkpoint", "list", "-o", "json"))
    assert {row["partition"]: row["size"] for row in listed} == {
        "control": env.control.head + 1,
        "0": 545,
        "1": 13,
    }
    assert all(
        row["verdict"] == "VALID"
        for row in json.loads(cli(env, "checkpoint", "verify", "--all", "--deep", "-o", "json"))
    )

    away = {"SLUICEGATE_KAFKA": "127.0.0.1:9"}  # offline
    for place in ("0:0", "0:400", "0:532", "control:0"):
        for form in ("json", "tlog-proof"):
            proof = tmp_path / form
            proof.write_text(cli(env, "prove", place, "-o", form))
            [row] = json.loads(
                cli(env, "checkpoint", "verify", str(proof), "--log", str(log), "-o", "json", **away)
            )
            assert (row["verdict"], row["event"]) == ("VALID", place)
    found = proofs.parse((tmp_path / "json").read_text())
    assert found.verify(env.describe().keys, env.origin(CONTROL)).head.size == env.control.head + 1

    lines = tmp_path / "intent.jsonl"
    lines.write_text(cli(env, "prove", "intent-1", "--agent", "agent-1", "-o", "jsonl"))
    rows = json.loads(cli(env, "checkpoint", "verify", str(lines), "--log", str(log), "-o", "json", **away))
    assert len(rows) == 4 and {row["verdict"] for row in rows} == {"VALID"}
    lines.write_text(lines.read_text().replace('"index": 1', '"index": 2', 1))
    [wrong, *_] = json.loads(
        cli(env, "checkpoint", "verify", str(lines), "--log", str(log), "-o", "json", code=1, **away)
    )
    assert (wrong["verdict"], wrong["code"]) == ("INVALID", "inclusion")

    note = tmp_path / "checkpoint.txt"
    note.write_text(cli(env, "checkpoint", "show", "0", "--size", "521"))
    policy, _ = env.policy_file("")
    with_policy = (
        "checkpoint",
        "verify",
        str(note),
        "--log",
        str(log),
        "--policy",
        str(policy),
        "-o",
        "json",
    )
    assert json.loads(cli(env, *with_policy, **away))[0]["witnesses"] == "ops"
    note.write_text("\n".join(note.read_text().split("\n")[:-2]) + "\n")  # without the witness
    assert json.loads(cli(env, *with_policy, code=1, **away))[0]["code"] == "witnesses"
    other = tmp_path / "other.json"
    other.write_text(log.read_text().replace(env.control.log_id.hex(), "00" * 16))
    alone = ("checkpoint", "verify", str(note), "--log", str(other), "-o", "json")
    assert json.loads(cli(env, *alone, code=1, **away))[0]["code"] == "other_log"

    said = cli(env, "prove", "0:99999", failed=Terminal)
    assert "event `99999` of partition 0 is not in Kafka, the last one is `0:" in said
    last = said.rpartition("`0:")[2].partition("`")[0]
    assert json.loads(cli(env, "prove", f"0:{last}"))["index"] == int(last)  # it is a seq, not an offset
    assert f"`0:{last}`" in cli(env, "prove", f"0:{int(last) + 1}", failed=Terminal)
    assert "partition 7 does not exist" in cli(env, "prove", "7:0", failed=Terminal)
    tile = (
        env.settings.home / "tiles" / env.settings.env / env.control.log_id.hex() / "0" / "tile" / "0" / "001"
    )
    data = tile.read_bytes()
    tile.write_bytes(data[:-1])
    broken = json.loads(cli(env, "checkpoint", "verify", "--deep", "-o", "json", code=1))
    assert [(r["partition"], r["code"]) for r in broken if r["verdict"] == "INVALID"] == [("0", "tiles")]
    assert "truncated or damaged: 8191 bytes" in broken[1]["fault"]
    tile.write_bytes(data)


def test_what_rests_is_signed_and_cosigned_again(env: Env) -> None:
    async def main() -> None:
        async with listening(application(witness(env))) as url:
            path, policy = env.policy_file(url)
            before, ahead = await env.newest(), [0]
            async with env.checkpointer(path, ahead=ahead) as running:
                ahead.append(2 * REST_MAX_S)
                later = int(time.time()) + REST_MAX_S

                def again() -> bool:
                    return not running._unshown and all(
                        t.signed is not None and t.signed.second > later for t in running.trees
                    )

                await until(again, "all three were signed again")
                assert running.alive == "" and running.shown >= 3
            for origin, [newest] in (await env.newest()).items():
                [last] = before[origin]
                assert newest.head == last.head and newest.second > later
                policy.check(newest.note)  # by the witness, too

    run(main)


def test_5_a_ledger_that_was_rewritten_is_an_alarm_and_gets_no_signature(env: Env) -> None:
    """Somebody with rights on Kafka deletes the ledger and writes another."""
    from aiokafka.admin import NewTopic

    async def main() -> None:
        topic = full_name(env.settings.env, "outcomes")
        admin = await kafka.connect(kafka.admin(env.settings))
        await admin.delete_topics([topic])

        async def gone() -> bool:
            return topic not in await admin.list_topics()

        while not await gone():
            await asyncio.sleep(0.05)
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        await admin.close()
        forged = env.ledger(0)
        forged.now += 1
        await env.write(forged, 140)
        before = await env.newest(every=True)
        async with env.checkpointer() as running:
            await until(lambda: len(running.faults) == 2, "both logs are found out")
            assert "was rewritten" in running.faults[env.origin(0)]
            assert "ends before its event 12, which is signed" in running.faults[env.origin(1)]
            assert running.alive in running.faults.values()
        fresh = env.settings.home / "fresh"
        async with env.checkpointer(
            home=fresh
        ) as running:  # nor without the tiles: it stands by what it showed
            await until(lambda: len(running.faults) == 2, "both logs are found out again")
            assert (
                "was published" in running.faults[env.origin(0)]
                and "was published" in running.faults[env.origin(1)]
            )
        after = await env.newest(every=True)
        assert [after[env.origin(p)] for p in (0, 1)] == [before[env.origin(p)] for p in (0, 1)]
        assert tile_store.FolderStore(fresh).get(f"{tile_store.folder_of(env.origin(0))}/checkpoint") is None

    run(main)
