"""Release bytes: from a folder to the `releases` topic, and back by digest.

Content-addressed: what comes back is checked against the digest, wherever it came from. Never decides which
release is in force; that is control. Next: `processors/release.py`, `control_log.py`.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import orjson
from aiokafka import TopicPartition
from sluicegate.processors.release import CONTROL_CEDAR, MAX_RELEASE_BYTES, digest_of
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings

CHUNK_BYTES = 512 * 1024
READ_LIMIT_MS = 2_000
"""One poll of the releases topic."""

_FOLDERS = {"contracts": ".json", "policies": ".cedar", "prompts": ".md"}


def read_folder(folder: Path) -> dict[str, str]:
    """The files of a release folder by relative path. Raises `Terminal` when there is no release."""
    if not (folder / "release.yaml").is_file():
        raise Terminal(f"`{folder}` has no release.yaml, point at a release folder")
    files = {"release.yaml": (folder / "release.yaml").read_text("utf-8")}
    if (folder / CONTROL_CEDAR).is_file():
        files[CONTROL_CEDAR] = (folder / CONTROL_CEDAR).read_text("utf-8")
    for name, suffix in _FOLDERS.items():
        for path in sorted((folder / name).glob(f"*{suffix}")):
            files[f"{name}/{path.name}"] = path.read_text("utf-8")
    size = sum(len(t) for t in files.values())
    if size > MAX_RELEASE_BYTES:
        raise Terminal(f"the release has {size} bytes, the limit is {MAX_RELEASE_BYTES}")
    return files


def read_tests(folder: Path) -> dict[str, str]:
    """The files of a release folder's `tests/` by relative path. They are no part of the release."""
    found = sorted(p for p in (folder / "tests").glob("*") if p.suffix in (".yaml", ".csv"))
    return {f"tests/{p.name}": p.read_text("utf-8") for p in found}


def pack(files: dict[str, str]) -> bytes:
    """Deterministic bytes of a release."""
    return zlib.compress(orjson.dumps(files, option=orjson.OPT_SORT_KEYS))


def unpack(data: bytes, digest: str) -> dict[str, str]:
    """The files, checked. Raises `Terminal` when they are not the release of that digest."""
    files: dict[str, str] = orjson.loads(zlib.decompress(data))
    if digest_of(files) != digest:
        raise Terminal(f"stored bytes are not release `{digest}`, publish it again")
    return files


async def publish(settings: Settings, files: dict[str, str]) -> str:
    """Put the bytes on the topic. Returns the digest. Publishing twice is harmless."""
    digest = digest_of(files)
    data = pack(files)
    parts = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    producer = await kafka.connect(kafka.producer(settings))
    try:
        for index, part in enumerate(parts):
            value = codec.encode(ReleaseChunk(digest, index, len(parts), part))
            future = await producer.send(
                full_name(settings.env, "releases"), value, key=digest.encode(), partition=0
            )
            await future
    finally:
        await producer.stop()
    return digest


async def fetch(settings: Settings, digest: str) -> dict[str, str]:
    """The files of a published release, from the local cache or the topic. Raises `Terminal` when absent."""
    cached = settings.home / "releases" / f"{digest.removeprefix('sha256:')}.zz"
    if cached.is_file():
        try:
            return unpack(cached.read_bytes(), digest)
        except (Terminal, zlib.error):
            cached.unlink()
    data = await _read(settings, digest)
    files = unpack(data, digest)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{id(files)}.part")
    partial.write_bytes(data)
    partial.replace(cached)
    return files


async def _read(settings: Settings, digest: str) -> bytes:
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=100))
    place = TopicPartition(full_name(settings.env, "releases"), 0)
    parts: dict[int, bytes] = {}
    count = -1
    try:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end and len(parts) != count:
            for record in (await consumer.getmany(place, timeout_ms=READ_LIMIT_MS)).get(place, []):
                if record.key == digest.encode():
                    chunk = codec.decode_as(ReleaseChunk, record.value)
                    parts[chunk.index], count = chunk.data, chunk.count
    finally:
        await consumer.stop()
    if len(parts) != count:
        raise Terminal(
            f"release `{digest}` is not on the releases topic, publish it: sluicegate deploy FOLDER"
        )
    return b"".join(parts[i] for i in range(count))
