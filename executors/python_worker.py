"""The process in which `python` tools run: reads a call, runs it, writes the answer; `python -m` this module.

Frames on stdin and on what was stdout: 4 bytes of length, then JSON. The tool's own prints go to stderr. It ends by
itself when its parent is gone, in the middle of a tool too. It holds no Kafka and no settings of Sluicegate.
Next: `python.py`, which starts and kills it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable, Collection
from typing import IO, Any

MAX_RESULT_BYTES = 64 * 1024
"""As in `schemas/topics.py`, which is not imported so that a worker starts fast; a test compares the two."""
MAX_FRAME_BYTES = 1024 * 1024
ERROR_CHARS = 300
LENGTH = struct.Struct(">I")
ABOUT = "sluicegate_call"
"""The parameter of a function that wants to know about the call."""


def main() -> None:
    """Serve calls until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a tool that prints must not write into an answer
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, calls), daemon=True).start()
    while True:
        answer = json.dumps(run(json.loads(calls.get()))).encode()
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


def _listen(source: IO[bytes], calls: queue.SimpleQueue[bytes]) -> None:
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        calls.put(source.read(LENGTH.unpack(head)[0]))
    os._exit(0)  # the parent is gone: so is whoever wanted the answer


def run(call: dict[str, Any]) -> dict[str, str]:
    """One call: {"module", "function", "arguments", "inside", "about", "most"} -> {"result"} or {"error_class", "error"}."""
    try:
        module = importlib.import_module(call["module"])
        function = getattr(module, call["function"])
        home = getattr(function, "__module__", "")
        # An allowed module may import `system`; that does not make it a tool.
        if not callable(function) or not any(home == p or home.startswith(p + ".") for p in call["inside"]):
            return _failed("crashed", f"`{call['module']}:{call['function']}` is no function of that module")
        arguments = call["arguments"]
        # INVARIANT: what a function hears of the call is never the agent's word
        # (tests/unit/test_python_adapter.py::test_a_function_can_ask_about_its_call).
        if ABOUT in arguments:
            return _failed(
                "crashed", f"the argument `{ABOUT}` is not the agent's to set, take it out of the contract"
            )
        if ABOUT in _parameters(function):
            arguments = {**arguments, ABOUT: call["about"]}
        value = function(**arguments)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as error:  # a tool may even call sys.exit
        first = (str(error).splitlines() or [""])[0]
        return _failed("crashed", f"{type(error).__name__}: {first}")
    try:
        result = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(result.encode())
    except (TypeError, ValueError, RecursionError) as error:
        return _failed("malformed_result", f"the result is no json ({type(error).__name__})")
    most = call.get("most", MAX_RESULT_BYTES)
    if size > most:
        return _failed("result_too_large", f"the result has {size} bytes, the limit is {most}")
    return {"result": result}


def _parameters(function: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some functions in C do not tell
        return ()


def _failed(error_class: str, error: str) -> dict[str, str]:
    return {"error_class": error_class, "error": error[:ERROR_CHARS]}


if __name__ == "__main__":
    main()
