"""The file of an evidence bundle: members under digests, every byte under the file's last 64 characters, `verify.py` among them.

Never judges what it is given. Next: `evidence/build.py` (what goes in), `evidence/verify.py` (what reads it).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from types import TracebackType

from sluicegate.schemas.errors import Terminal

FORMAT = "sluicegate/evidence/v1"
SEAL_CHARS = 64
"""At the end of the file, as the archive's comment: sha256 of every byte before them, in hex."""
PARTS = ("formats", "ledger", "people", "period", "said", "verify")
GUARD = """
import importlib.util as _find
import sys as _sys

if _sys.version_info < (3, 10) or _find.find_spec("cryptography") is None:
    print("verify.py needs Python 3.10 or newer and the package `cryptography`: pip install cryptography", file=_sys.stderr)
    _sys.exit(2)
"""
"""What `verify.py` begins with: 2 is wrong usage, where a traceback's 1 would be taken for INVALID."""

Json = dict[str, object]


def verifier() -> str:
    """`verify.py`: the modules as one file, which needs nothing of Sluicegate."""
    parts, future = [], "from __future__ import annotations\n"
    for name in PARTS:
        text = resources.files("sluicegate.streams.evidence").joinpath(f"{name}.py").read_text("utf-8")
        before, _, after = text.partition(future)
        kept: list[str] = []
        skipping = False
        for line in after.splitlines():
            skipping = skipping or line.startswith("from sluicegate.")
            if not skipping:
                kept.append(line)
            elif not line.startswith(("from", "    ")) or (line.startswith("from") and "(" not in line):
                skipping = False
        parts.append((before, "\n".join(kept).strip()))
    head = parts[-1][0]  # what the whole is, is said by the last one
    said = [
        f"# {'-' * 20} {PARTS[i]}: {before.strip().splitlines()[0].strip(chr(34))}"
        for i, (before, _) in enumerate(parts[:-1])
    ]
    bodies = [
        f"{line}\n\n{body}" for line, (_, body) in zip([*said, "# ---- the bundle"], parts, strict=True)
    ]
    return head + future + GUARD + "\n" + "\n\n\n".join(bodies) + "\n"


class Archive:
    """A bundle that is being written beside its place; it gets there whole, or not at all."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise Terminal(f"`{path}` is there already: evidence is not overwritten, give another file to -o")
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        try:
            self._zip = zipfile.ZipFile(self._part, "w", zipfile.ZIP_DEFLATED, compresslevel=4)
        except OSError as error:
            raise Terminal(
                f"`{path}` cannot be written: {error.strerror}, give another file to -o"
            ) from error
        self.members: dict[str, str] = {}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self._zip.close()
            self._part.unlink(missing_ok=True)

    def add(self, name: str, chunks: Iterable[bytes]) -> None:
        """One member, under its digest."""
        digest = hashlib.sha256()
        with self._zip.open(_info(name), "w", force_zip64=True) as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        self.members[name] = digest.hexdigest()

    def close(self, manifest: Json) -> None:
        """The manifest, and the seal over every byte."""
        text = json.dumps({"format": FORMAT, **manifest, "members": self.members}, indent=1).encode()
        self._zip.writestr(_info("manifest.json"), text)
        self._zip.comment = b"0" * SEAL_CHARS
        self._zip.close()
        seal(self._part)
        self._part.rename(self._path)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # of 1980: when it was made is in the manifest
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def seal(path: Path) -> None:
    """Write the hash of all but the last 64 bytes over them."""
    digest = hashlib.sha256()
    with path.open("r+b") as file:
        left = path.stat().st_size - SEAL_CHARS
        while left:
            part = file.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        file.seek(-SEAL_CHARS, 2)
        file.write(digest.hexdigest().encode())
