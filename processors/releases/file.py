"""A release in one file: the bytes that `release build` writes and `publish` stores, the same wherever they are made.

    78 01 | deflate blocks that store | Adler-32        a zlib stream around the canonical JSON {path: text}

Stored and not compressed: two versions of zlib compress alike in meaning only, and a file must have one hash. Kafka compresses
the topic. Also a release's parent, the digest in `parent:` of `release.yaml`. Pure; never says whether a release is good.
Next: `releases/release.py` (the digest, compiling), `streams/control/releases.py` (folders and the topic).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import cast

import orjson
import rfc8785
import yaml
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.errors import Terminal

MANIFEST = "release.yaml"
CONTROL_CEDAR = "control.cedar"
FOLDERS = {"contracts": ".json", "policies": ".cedar", "prompts": ".md"}
"""Folders of a release, and how the names of their files end."""

MAX_RELEASE_BYTES = 16 * 1024 * 1024
"""All files of a release."""
MAX_PACKED_BYTES = 4 * MAX_RELEASE_BYTES
"""As JSON, where most characters stand for themselves and a control character takes six bytes."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PATH = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(CONTROL_CEDAR)}|"
    + "|".join(rf"{folder}/[^/\\\0]+{re.escape(suffix)}" for folder, suffix in FOLDERS.items())
)
_BLOCK = 0xFFFF
_PARENT = re.compile(r"^parent:.*\n?", re.MULTILINE)


def digest_of(files: dict[str, str]) -> str:
    """`sha256:<hex>` over the canonical manifest of the files."""
    manifest = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}
    return (
        "sha256:"
        + hashlib.sha256(rfc8785.dumps(cast("dict[str, rfc8785._impl._Value]", manifest))).hexdigest()
    )


def pack(files: Mapping[str, str]) -> bytes:
    """The bytes of a release: a function of its files and of nothing else."""
    # INVARIANT: the same files give the same bytes (tests/unit/test_release_file.py::test_the_bytes_are_these).
    data = orjson.dumps(dict(files), option=orjson.OPT_SORT_KEYS)
    parts = [b"\x78\x01"]
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        last, size = at + _BLOCK >= len(data), len(block).to_bytes(2, "little")
        parts += [bytes([last]), size, (len(block) ^ _BLOCK).to_bytes(2, "little"), block]
    return b"".join([*parts, zlib.adler32(data).to_bytes(4, "big")])


def unpack(data: bytes) -> dict[str, str]:
    """The files in a release's bytes, of this version or an earlier one. Raises `Terminal` for other bytes."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_PACKED_BYTES)
        if not stream.eof or stream.unused_data:
            raise Terminal("they are cut short, or more than a release")
        files = orjson.loads(text)
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise Terminal("they are no release's bytes, make a file with `sluicegate release build`") from error
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise Terminal("they hold no files, make a file with `sluicegate release build`")
    if strange := sorted(path for path in files if not _PATH.fullmatch(path)):
        raise Terminal(f"they hold `{strange[0][:80]}`, which no release has")
    return files


def parent_in(value: object) -> str:
    """The parent that `parent:` names, or an empty string: what is no digest names none."""
    return value if isinstance(value, str) and DIGEST.fullmatch(value) else ""


def check_parent(value: object, text: str) -> list[Finding]:
    """What is wrong with `parent:`."""
    if value in ("", None) or parent_in(value):
        return []
    said = f"`parent` is `{str(value)[:80]}`, write the digest of the release this one was derived from, `sha256:` and 64 hex digits"
    return [Finding(MANIFEST, line_of(text, ["parent"]), "parent", "error", said)]


def with_parent(files: Mapping[str, str], digest: str) -> dict[str, str]:
    """The files with another parent; everything else of `release.yaml` stays as it is written. Empty takes it out.

    Raises `Terminal` where there is no line of its own to write.
    """
    text = files.get(MANIFEST, "")
    line = f"parent: {digest}\n" if digest else ""
    if _PARENT.search(text):
        text = _PARENT.sub(lambda _: line, text, count=1)
    elif line:
        text = text + ("" if text.endswith("\n") or not text else "\n") + line
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or parent_in(found.get("parent")) != digest:
        raise Terminal(f"`parent: {digest}` cannot be put into this release.yaml, write it there yourself")
    return {**files, MANIFEST: text}
