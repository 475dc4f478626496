"""Keeping a large result: validated as the ledger would have, sealed under a key of its own, stored, and named by a reference.

The release is the one the call was decided under, by its digest. A result that does not pass is not stored; one that cannot be
stored in time is lost, and said to be: the call happened all the same. Never decides a call, never keeps a key.
Next: `processors/artifacts.py`, `streams/archive/artifacts.py` (the store), `gates.py` (releases).
"""

from __future__ import annotations

import asyncio
from typing import cast

import orjson
from sluicegate.executors.adapter import Answer, ErrorClass, Failed, Finished, Pending
from sluicegate.executors.gates import ReleaseGates
from sluicegate.processors.artifacts import SAID, Reference, limit_of
from sluicegate.processors.guardrails.guardrails import guard_value
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.kinds import MODEL
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.archive.artifacts import Artifacts, seal


class Keeper:
    """Keeps results of one executor process."""

    def __init__(self, store: Artifacts, releases: ReleaseGates) -> None:
        self._store, self._releases = store, releases

    async def keep(self, dispatch: Dispatch, result: bytes, limit_s: float) -> Answer:
        """A reference to the result as the agent may see it; `Failed`, `sent`, when it may not or cannot be kept."""
        try:
            async with asyncio.timeout(limit_s):
                release = await self._releases.release(dispatch.release, limit_s)
                if release is None:
                    return _not_now(dispatch, "the release it was decided under is not at hand")
                found = await asyncio.to_thread(validated, release, dispatch, result)
                if isinstance(found, Failed):
                    return found
                if len(found) <= MAX_RESULT_BYTES:  # so much was taken out of it
                    return Finished(found)
                reference, sealed = await asyncio.to_thread(seal, found)
                await self._store.put(reference.stored, sealed)
        except TimeoutError:
            return _not_now(dispatch, "it could not be stored in time, raise `timeout_ms`")
        except (SluicegateError, OSError) as error:
            return _not_now(dispatch, f"it could not be stored ({type(error).__name__})")
        return Finished(reference.as_json(), stored=True, said=_said(dispatch, found))


def _said(dispatch: Dispatch, found: bytes) -> bytes:
    """What budgets and routes need of a model's answer, which the ledger does not see."""
    if orjson.loads(dispatch.executor).get("kind") != MODEL:
        return b""
    answer = orjson.loads(found)
    kept = {name: answer.get(name) for name in SAID if isinstance(answer, dict)}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


def _not_now(dispatch: Dispatch, why: str) -> Answer:
    """A call's result is lost then; what a look found is still at the tool, and the ledger looks again."""
    return Pending("result_too_large", why) if dispatch.purpose else Failed("result_too_large", why)


def validated(release: CompiledRelease, dispatch: Dispatch, result: bytes) -> bytes | Failed:
    """The result as the agent may see it, by the contract and the rules of this release."""
    tool = release.tools.get(dispatch.candidate or dispatch.tool)
    if tool is None:
        return Failed("result_too_large", "no contract of its release describes the tool")
    if len(result) > limit_of(tool.executor):
        return Failed("result_too_large", f"the result has more than {limit_of(tool.executor)} bytes")
    try:
        value = orjson.loads(result)
    except orjson.JSONDecodeError:
        return Failed("malformed_result", "the result is no json")
    if tool.result_validator is not None and not tool.result_validator.is_valid(value):
        return Failed("malformed_result", "the result does not fit `outputSchema`")
    around = orjson.loads(dispatch.around or b"{}")
    rules = release.guardrails.results.get(tool.name, ())
    found = guard_value(lambda: around, result, tool.redact_result, rules, tool.result_validator)
    if found.result is None:
        return Failed(cast(ErrorClass, found.reason), found.detail or "a rule over results withholds it")
    return found.result


__all__ = ["Keeper", "Reference", "validated"]
