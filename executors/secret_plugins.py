"""Secrets from somewhere else: functions of the operator's own that know a vault, named where the executors run.

    SLUICEGATE_SECRETS_FROM="vault=mycompany.vault:read"        then ${secret:vault:payments/stripe} calls read("payments/stripe")

A function gets what stands behind the kind and returns the secret; it is called for every call of a tool, so that a rotated
secret counts at once: let it cache. It runs in a thread of its own and is given up after `LIMIT_S`. A release can name a kind,
never a function. Never lets an exception's text out. Next: `secret_refs.py` (who asks).
"""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache

VARIABLE = "SLUICEGATE_SECRETS_FROM"
LIMIT_S = 5.0
"""For one answer; a call of a tool has 10 s by default."""
MAX_THREADS = 16
"""Questions at a time; with so many that hang, further ones get no secret."""
_ENTRY = re.compile(r"\s*([a-z][a-z0-9_-]{0,31})=([A-Za-z_][\w.]*):([A-Za-z_]\w*)\s*")
_busy = threading.BoundedSemaphore(MAX_THREADS)

Read = Callable[[str], object]


class NoPlugin(Exception):
    """The variable names no such kind, or its function cannot be had or did not answer."""


def kinds(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Kind -> (module, function). Raises `NoPlugin` for text of another form."""
    found = {}
    for part in filter(str.strip, environ.get(VARIABLE, "").split(",")):
        entry = _ENTRY.fullmatch(part)
        if entry is None or entry[1] in ("env", "file"):
            raise NoPlugin(f"`{VARIABLE}` holds `{part.strip()[:80]}`, write `kind=package.module:function`")
        found[entry[1]] = (entry[2], entry[3])
    return found


@lru_cache(maxsize=64)
def _function(module: str, name: str) -> Read:
    function: Read = getattr(importlib.import_module(module), name)
    return function


async def ask(kind: str, place: str, environ: Mapping[str, str]) -> str:
    """What the function says. Raises `NoPlugin`; its message never holds what the function said."""
    known = kinds(environ).get(kind)
    if known is None:
        raise NoPlugin(f"`{VARIABLE}` names no `{kind[:32]}`")
    if not _busy.acquire(blocking=False):
        raise NoPlugin(f"`{kind}` has {MAX_THREADS} questions open")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def told(value: object) -> None:
        if not answer.done():
            answer.set_result(value if isinstance(value, str) else "")

    def work() -> None:
        value: object = ""
        try:
            value = _function(*known)(place)
        except BaseException:  # its text may hold what it read
            value = ""
        finally:
            _busy.release()
        try:
            loop.call_soon_threadsafe(told, value)
        except RuntimeError:  # nobody waits any more
            return

    threading.Thread(target=work, name=f"secret-{kind}", daemon=True).start()
    try:
        async with asyncio.timeout(LIMIT_S):
            return await answer
    except TimeoutError:
        raise NoPlugin(f"`{kind}` did not answer within {LIMIT_S:.0f} s") from None
