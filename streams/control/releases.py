"""Release bytes: from a folder to the `releases` topic, and back by digest.

Content-addressed: what comes back is checked against the digest, wherever it came from. Never decides which
release is in force; that is control. Next: `processors/releases/release.py`, `control/log.py`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from aiokafka import TopicPartition
from sluicegate.processors.releases import file as release_file
from sluicegate.processors.releases.assembly import Assembly
from sluicegate.processors.releases.file import (
    CONTROL_CEDAR,
    FOLDERS,
    MAX_PACKED_BYTES,
    MAX_RELEASE_BYTES,
    digest_of,
)
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings

CHUNK_BYTES = 512 * 1024
READ_LIMIT_MS = 2_000
"""One poll of the releases topic."""


def read_folder(folder: Path) -> dict[str, str]:
    """The files of a release folder by relative path. Raises `Terminal` when there is no release."""
    if not (folder / "release.yaml").is_file():
        raise Terminal(f"`{folder}` has no release.yaml, point at a release folder")
    files = {"release.yaml": (folder / "release.yaml").read_text("utf-8")}
    if (folder / CONTROL_CEDAR).is_file():
        files[CONTROL_CEDAR] = (folder / CONTROL_CEDAR).read_text("utf-8")
    for name, suffix in FOLDERS.items():
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


def read_file(path: Path) -> dict[str, str]:
    """The files of a release that `sluicegate release build` wrote. Raises `Terminal` for another file."""
    try:
        if path.stat().st_size > MAX_PACKED_BYTES:
            raise Terminal(f"`{path}` has over {MAX_PACKED_BYTES} bytes, no release has so many")
        return release_file.unpack(path.read_bytes())
    except OSError as error:
        raise Terminal(
            f"`{path}` cannot be read: {error.strerror}, point at a release folder or a built file"
        ) from error
    except Terminal as error:
        raise Terminal(f"the bytes of `{path}` are not taken: {error}") from error


def is_release(path: Path) -> bool:
    """Whether there is a release folder, or a file, at this path."""
    return path.is_file() or (path / "release.yaml").is_file()


def read_release(path: Path) -> dict[str, str]:
    """The files of a release folder, or of a built file. Raises `Terminal` for neither."""
    return read_file(path) if path.is_file() else read_folder(path)


def unpack(data: bytes, digest: str) -> dict[str, str]:
    """The files, checked. Raises `Terminal` when they are not the release of that digest."""
    files = release_file.unpack(data)
    if digest_of(files) != digest:
        raise Terminal(f"stored bytes are not release `{digest}`, publish it again")
    return files


async def publish(settings: Settings, files: dict[str, str]) -> str:
    """Put the bytes on the topic. Returns the digest. Publishing twice is harmless."""
    digest = digest_of(files)
    data = release_file.pack(files)
    parts = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    producer = await kafka.connect(kafka.producer(settings, compression="gzip"))
    try:
        for index, part in enumerate(parts):
            value = codec.encode(ReleaseChunk(digest, index, len(parts), part))
            future = await producer.send(
                full_name(settings.space, "releases"), value, key=digest.encode(), partition=0
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
        except Terminal:
            cached.unlink()
    data, files = await _read(settings, digest)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{id(files)}.part")
    partial.write_bytes(data)
    partial.replace(cached)
    return files


async def _read(settings: Settings, digest: str) -> tuple[bytes, dict[str, str]]:
    """The bytes and the files."""
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=100))
    place = TopicPartition(full_name(settings.space, "releases"), 0)
    assembly = Assembly()
    try:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            for record in (await consumer.getmany(place, timeout_ms=READ_LIMIT_MS)).get(place, []):
                if record.key != digest.encode():
                    continue
                data = assembly.add(codec.decode_as(ReleaseChunk, record.value))
                if data is not None:
                    with contextlib.suppress(Terminal):  # parts of two publications: the later one is whole
                        return data, unpack(data, digest)
    finally:
        await consumer.stop()
    raise Terminal(f"release `{digest}` is not on the releases topic, publish it: sluicegate deploy FOLDER")
