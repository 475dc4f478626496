"""A witness process: C2SP tlog-witness over HTTP. Its own key, its own memory; it needs neither Kafka nor ClickHouse.

Run it where the log's operator cannot reach: on the auditor's machine, the customer's, another account. Requests carry no
password: a checkpoint's signature is checked, and nothing else is taken. It ends no TLS: put a proxy before it. Never signs what
does not continue its memory, and says what it refused. Next: `processors/transparency/witness.py` (the rules), `transparency/witness_memory.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aiohttp import web
from sluicegate.processors.transparency import checkpoints, log_files, witness
from sluicegate.processors.transparency.checkpoints import Checkpoint, CheckpointFault, LogKey, Signed
from sluicegate.processors.transparency.witness import MAX_REQUEST_BYTES, SIZE_TYPE, Refused, Request
from sluicegate.schemas import notes
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.notes import COSIGNATURE, Signature, VKey
from sluicegate.streams.keys.files import PrivateKey
from sluicegate.streams.transparency.witness_memory import WitnessMemory

log = logging.getLogger("sluicegate.witness")

Logs = Mapping[str, Sequence[LogKey]]


class LogDescriptions:
    """The logs a witness knows, from files that are read again when they change: a rotation needs no restart."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises `Terminal`."""
        self._paths = paths
        self._stamps: list[tuple[int, int]] = []
        self._logs: Logs = {}
        self._load(self._look())

    def _look(self) -> list[tuple[int, int]]:
        try:
            return [(s.st_mtime_ns, s.st_size) for s in (p.stat() for p in self._paths)]
        except OSError as error:
            raise Terminal(f"`{error.filename}` cannot be read, name a description of a log") from error

    def _load(self, stamps: list[tuple[int, int]]) -> None:
        self._logs = log_files.by_origin(log_files.parse(p.read_text("utf-8")) for p in self._paths)
        self._stamps = stamps

    def __call__(self) -> Logs:
        """Keys by log. A file that became unreadable leaves what was known."""
        try:
            stamps = self._look()
            if stamps != self._stamps:
                self._load(stamps)
                log.info("read the descriptions of %d logs again", len(self._logs))
        except (Terminal, OSError, UnicodeDecodeError) as error:
            log.error("the descriptions of the logs stay as they were: %s", error)
        return self._logs


class Witness:
    """Judges and signs. `name` is the key's name, such as `witness.example/ops`."""

    def __init__(
        self,
        name: str,
        key: PrivateKey,
        memory: WitnessMemory,
        logs: Callable[[], Logs],
        clock: Callable[[], int],
    ) -> None:
        self.vkey = VKey(notes.check_name(name), COSIGNATURE, key.public)
        self._sign = notes.ed25519_signer(key.secret)
        self._memory, self._logs, self._clock = memory, logs, clock

    def add_checkpoint(self, body: bytes) -> Signature:
        """The cosignature. Raises `Refused`."""
        second, request = self._clock(), witness.parse_request(body)
        origin = _origin(request)
        logs = self._logs()

        def decide(last: Checkpoint | None) -> tuple[int, str, Signature]:
            signed: Signed = witness.judge(request, logs, last, second)
            cosignature = notes.cosign(signed.note.text, self.vkey, self._sign, second)
            return signed.head.size, request.note, cosignature

        try:
            # INVARIANT: a head is durable before its cosignature leaves (tests/unit/test_witness_server.py).
            return self._memory.advance(origin, decide, second)
        except Refused as error:
            if error.evidence:
                log.error("alarm: refused %s of `%s`: %s", error.code, origin, error)
                self._memory.refuse(origin, error.code, str(error), request.note, second)
            raise


def _origin(request: Request) -> str:
    try:
        return checkpoints.read(request.note)[0].origin
    except CheckpointFault as error:
        raise Refused(400, "malformed", str(error)) from error


def application(judge: Witness) -> web.Application:
    """`POST /add-checkpoint`, `GET /health`."""

    async def add_checkpoint(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            signature = judge.add_checkpoint(body)  # on the loop: one after the other
        except Refused as error:
            if error.code == "conflict":
                return web.Response(status=409, body=f"{error.size}\n".encode(), content_type=SIZE_TYPE)
            return web.Response(status=error.status, text=f"{error}\n")
        return web.Response(text=signature.line)

    async def health(_: web.Request) -> web.Response:
        return web.Response(text=f"{judge.vkey}\n")

    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_post("/add-checkpoint", add_checkpoint)
    app.router.add_get("/health", health)
    return app


async def serve(judge: Witness, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Until cancelled. `ready` is told the address. Raises `Terminal` where it cannot listen."""
    runner = web.AppRunner(application(judge), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise Terminal(
                f"`{host}:{port}` cannot be listened at: {error.strerror}, give another --listen"
            ) from error
        address = runner.addresses[0]
        ready(f"http://{address[0]}:{address[1]}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
