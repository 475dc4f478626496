"""Other versions of the deciding code, at hand to decide again what they decided.

The folder (`SLUICEGATE_ENGINES`, else `engines` in the home) holds for a version either

    VERSION/bin/python                       an environment of its own, made from the wheel and its lock
    sluicegate-VERSION-py3-none-any.whl      the wheel alone: it runs on the libraries that are installed here

and `engines.lock`, one line a wheel, `SHA256  FILE`. A wheel that is not in it, or has other bytes, is not run. An engine
runs as a process that is told on stdin which intents are meant and answers in JSON; it reads Kafka and the key store
as `sluicegate reproduce` does, and has no producer either. Never downloads anything. Next: `replay/reproduce.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from sluicegate.processors.replay.reproduce import ENGINE_FAILED, ENGINE_MISSING, Key, Remade
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.settings import Settings

VARIABLE = "SLUICEGATE_ENGINES"
LOCK = "engines.lock"
COMMAND = ("-m", "sluicegate.streams.cli", "reproduce", "--stdin", "-o", "json")
TIMEOUT_S = 3_600.0
"""For one run of another engine: it folds whole partitions, 25,000 events a second."""
WHY_CHARS = 500
Chosen = Mapping[int, set[Key]]
"""Ledger partition -> intents."""


class MissingError(Exception):
    """This version is not at hand; the message says what to do."""


class FailedError(Exception):
    """It is at hand and did not answer."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How one version is started. `path` goes before everything else that Python would import."""

    version: str
    python: str
    path: str = ""


def folder(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """Where other engines are kept."""
    return Path(environ.get(VARIABLE, "").strip() or settings.home / "engines")


def find(where: Path, version: str) -> Engine:
    """The engine of a version. Raises `MissingError`."""
    if version == ENGINE:
        return Engine(version, sys.executable)
    if not version or "/" in version or version.startswith("."):
        raise MissingError(f"`{version}` is no version")
    own = where / version / "bin" / "python"
    if own.exists():
        return Engine(version, str(own))
    wheel = where / f"sluicegate-{version}-py3-none-any.whl"
    if not wheel.exists():
        raise MissingError(f"put `{wheel.name}` and its line of `{LOCK}` into `{where}`")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if locked(where).get(wheel.name) != digest:
        raise MissingError(f"`{wheel.name}` has sha256 {digest}, which `{where / LOCK}` does not say of it")
    return Engine(version, sys.executable, str(_unpacked(where, wheel, digest)))


def locked(where: Path) -> dict[str, str]:
    """File name -> sha256, by the lock."""
    try:
        lines = (where / LOCK).read_text("utf-8").splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {row[1]: row[0].lower() for row in rows if len(row) == 2}


def _unpacked(where: Path, wheel: Path, digest: str) -> Path:
    """The wheel's files, unpacked under its digest: what was unpacked once is used again."""
    target = where / "unpacked" / digest
    done = target / ".whole"
    if not done.exists():
        target.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)  # zipfile takes `..` and a leading `/` out of names
        done.touch()
    return target


async def run(
    engine: Engine, chosen: Chosen, *, generation: int | None = None, timeout_s: float = TIMEOUT_S
) -> list[Remade]:
    """Let an engine decide again, in a generation of the log. Raises `FailedError`."""
    environ = dict(os.environ)
    if generation is not None:
        environ["SLUICEGATE_GENERATION"] = str(generation)
    if engine.path:
        environ["PYTHONPATH"] = engine.path
    process = await asyncio.create_subprocess_exec(
        engine.python, *COMMAND, env=environ,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(packed(chosen))
    except TimeoutError as error:
        raise FailedError(f"engine {engine.version} did not end within {timeout_s:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _answer(engine, out, err)


def _answer(engine: Engine, out: bytes, err: bytes) -> list[Remade]:
    try:
        said = json.loads(out)
        ran, rows = said["engine"], [_row(row) for row in said["inputs"]]
    except (ValueError, KeyError, TypeError) as error:
        last = err.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no answer"]
        raise FailedError(f"engine {engine.version}: {last[0][:WHY_CHARS]}") from error
    if ran != engine.version:
        raise FailedError(f"what stands there as engine {engine.version} is engine {ran}")
    return rows


def _row(said: dict[str, object]) -> Remade:
    """A row of another engine's: fields that we do not know are left out."""
    known = {f.name for f in fields(Remade)}
    return Remade(**{name: value for name, value in said.items() if name in known})  # type: ignore[arg-type]


def packed(chosen: Chosen) -> bytes:
    """Which intents are meant, as an engine is told."""
    return json.dumps({"chosen": {str(p): sorted(keys) for p, keys in chosen.items()}}).encode()


def unpacked(text: bytes) -> dict[int, set[Key]]:
    """What `packed` said. Raises `Terminal`."""
    try:
        said = json.loads(text)["chosen"]
        return {int(p): {(str(agent), str(intent)) for agent, intent in keys} for p, keys in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Terminal(
            'stdin is not what was expected, give {"chosen": {"PARTITION": [[AGENT, INTENT]]}}'
        ) from error


def absent(error: Exception) -> tuple[str, str]:
    """Verdict and reason of an engine that could not be asked."""
    return ENGINE_MISSING if isinstance(error, MissingError) else ENGINE_FAILED, str(error)
