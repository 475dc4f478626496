"""The `python` adapter: allow-listed functions, run in processes that a time-out really ends.

    {"kind": "python", "entry": "package.module:function"}        arguments become keyword arguments

A function with a parameter `sluicegate_call` gets there what it may need to know of the call besides: a dict of
`tool`, `agent_id`, `session_id`, `intent_id`, `idempotency_key` and `attempt`. An agent cannot set it.

A process runs one call at a time. When a call is late or cancelled its whole process group is killed and a new process takes
its place: a thread could not be stopped. Tools see the environment without Sluicegate's own variables.
Never imports a tool here, never passes more than the first line of an exception. Next: `python_worker.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import cast

import orjson
from sluicegate.executors.adapter import Answer, ErrorClass, Failed, Finished
from sluicegate.executors.python_worker import LENGTH, MAX_FRAME_BYTES
from sluicegate.executors.secret_refs import OWN_ALLOWED, OWN_PREFIX
from sluicegate.processors.artifacts import limit_of
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch

DEFAULT_PROCESSES = 4
"""Calls at a time; about 15 MB each, started when first needed."""
END_LIMIT_S = 2.0
"""For a killed process to be gone."""
WORKER = "sluicegate.executors.python_worker"
ABOUT = ("tool", "agent_id", "session_id", "intent_id", "idempotency_key", "attempt")
"""What a function may know of the call."""

_ENTRY = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z]\w*)")
_PREFIX = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class PythonAdapter:
    """Runs functions of this machine's Python.

    `entries` maps a contract's `entry` to `module:function`; `prefixes` are modules whose functions may be named
    directly, with everything below them. What is in neither is refused.
    """

    def __init__(
        self,
        entries: Mapping[str, str] | None = None,
        prefixes: Sequence[str] = (),
        *,
        processes: int = DEFAULT_PROCESSES,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._entries = dict(entries or {})
        for text in self._entries.values():
            _must(_ENTRY, text, "package.module:function")
        for text in prefixes:
            _must(_PREFIX, text, "package.module")
        self._prefixes = tuple(prefixes)
        # Kafka's password and the like are no tool's business.
        self._environ = {
            k: v for k, v in environ.items() if not k.startswith(OWN_PREFIX) or k.startswith(OWN_ALLOWED)
        }
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[asyncio.subprocess.Process] = []

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> PythonAdapter:
        """Read `SLUICEGATE_PYTHON_TOOLS`: comma separated `package.module` or `name=package.module:function`."""
        parts = [p.strip() for p in environ.get("SLUICEGATE_PYTHON_TOOLS", "").split(",") if p.strip()]
        entries = dict(p.split("=", 1) for p in parts if "=" in p)
        return cls(entries, [p for p in parts if "=" not in p], environ=environ)

    async def close(self) -> None:
        """End the idle processes; the others end with their calls."""
        while self._idle:
            await _end(self._idle.pop())

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """Run one function."""
        call = self._resolve(dispatch)
        if isinstance(call, Failed):
            return call
        started = False
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                process = self._idle.pop() if self._idle else await self._start()
                started = True
                return await self._run(process, call)
        except TimeoutError:
            what = "did not end and was killed" if started else "found no free process"
            return Failed("timeout", f"the function {what} within {dispatch.timeout_ms} ms", started)
        except OSError as error:
            text = f"no process for python tools could be started ({type(error).__name__})"
            return Failed("crashed", text, started)

    def _resolve(self, dispatch: Dispatch) -> bytes | Failed:
        entry = str(orjson.loads(dispatch.executor).get("entry", ""))
        match = _ENTRY.fullmatch(self._entries.get(entry, entry))
        module = match["module"] if match else ""
        inside = [p for p in self._prefixes if module == p or module.startswith(p + ".")]
        if entry in self._entries:
            inside = [module]
        # INVARIANT: nothing is imported that is not on the list
        # (tests/unit/test_python_adapter.py::test_entry_off_the_list).
        if match is None or not inside:
            return Failed(
                "egress_denied",
                f"`{entry[:100]}` is not an allowed python tool, add it to SLUICEGATE_PYTHON_TOOLS",
                sent=False,
            )
        arguments = orjson.loads(dispatch.arguments)
        about = {name: getattr(dispatch, name) for name in ABOUT}
        return orjson.dumps(
            {
                "module": module,
                "function": match["function"],
                "arguments": arguments,
                "inside": inside,
                "about": about,
                "most": limit_of(dispatch.executor),
            }
        )

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", WORKER,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=self._environ, start_new_session=True, limit=MAX_FRAME_BYTES,
        )  # fmt: skip

    async def _run(self, process: asyncio.subprocess.Process, call: bytes) -> Answer:
        assert process.stdin and process.stdout
        done = False
        try:
            process.stdin.write(LENGTH.pack(len(call)) + call)
            await process.stdin.drain()
            size = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
            answer = orjson.loads(await process.stdout.readexactly(size))
            done = True
        except (asyncio.IncompleteReadError, ConnectionError):
            return Failed("crashed", "the process of the function ended before it answered")
        finally:
            if done:
                self._idle.append(process)
            else:
                await _end(process)
        if "result" in answer:
            return Finished(answer["result"].encode())
        return Failed(cast(ErrorClass, answer["error_class"]), answer["error"])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process and everything it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        pass  # the kernel has the signal; nothing of it runs any more
    process._transport.close()  # type: ignore[attr-defined]


def _must(pattern: re.Pattern[str], text: str, shape: str) -> None:
    if not pattern.fullmatch(text):
        raise Terminal(f"`{text}` in SLUICEGATE_PYTHON_TOOLS is not of the form `{shape}`")
