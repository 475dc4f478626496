"""Ask the witnesses of a policy for their signatures under a head, over C2SP tlog-witness.

A witness that is away, slow or refuses costs nothing but its signature: the head is shown without it, and whoever asks for a
quorum says that it is missing. What it answers is checked under its key. Never shows a head that is not kept (`transparency/log_tree.py`).
Next: `processors/transparency/witness.py` (the rules at the other end), `transparency/checkpointer.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
from sluicegate.processors.transparency.checkpoints import Signed
from sluicegate.processors.transparency.witness import SIZE_TYPE, Request
from sluicegate.processors.transparency.witness_policy import Policy, WitnessKey, parse_policy
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.notes import BadNote, Signature, parse_signatures

VARIABLE = "SLUICEGATE_WITNESS_POLICY"
LIMIT_S = 2.0
"""For one witness and head; they are asked at the same time."""
MAX_ANSWER_BYTES = 16 * 1024

log = logging.getLogger("sluicegate.witnesses")

Consistency = Callable[[int], list[bytes]]


class _No(Exception):
    """It did not sign; says why."""


def policy_from(environ: Mapping[str, str] = os.environ) -> Policy:
    """The policy of `SLUICEGATE_WITNESS_POLICY`; without it one that asks for no witness. Raises `Terminal`."""
    where = environ.get(VARIABLE, "").strip()
    return read_policy(Path(where)) if where else Policy()


def read_policy(path: Path) -> Policy:
    """The policy in a file. Raises `Terminal`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal(f"the witness policy `{path}` cannot be read, check its path") from error
    return parse_policy(text)


class Witnesses:
    """Those of a policy that have an address.

    Attributes:
        refusals: by witness; how often it answered, and not with a signature.
        problems: by witness; what is wrong now.
    """

    def __init__(self, policy: Policy) -> None:
        self.refusals: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self._asked = [w for w in policy.witnesses.values() if w.url]
        self._sizes: dict[tuple[str, str], int] = {}
        self._session: aiohttp.ClientSession | None = None

    async def stop(self) -> None:
        """Close."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, signed: Signed, consistency: Consistency) -> list[Signature]:
        """The signatures that came in time."""
        if not self._asked:
            return []
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT_S))
        answers = await asyncio.gather(*(self._ask(w, signed, consistency) for w in self._asked))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, witness: WitnessKey, signed: Signed, consistency: Consistency) -> Signature | None:
        problem = ""
        try:
            return await self._signature(witness, signed, consistency)
        except _No as error:
            self.refusals[witness.name] += 1
            problem = str(error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem = f"it does not answer ({type(error).__name__})"
        finally:
            if problem and self.problems.get(witness.name) != problem:
                log.error(
                    "alarm: witness `%s` did not sign checkpoint %d of `%s`: %s",
                    witness.name, signed.head.size, signed.head.origin, problem,
                )  # fmt: skip
            self.problems[witness.name] = problem
        return None

    async def _signature(self, witness: WitnessKey, signed: Signed, consistency: Consistency) -> Signature:
        place = witness.name, signed.head.origin
        for _ in range(2):  # the second time with the size that it said
            old = self._sizes.get(place, 0)
            if old > signed.head.size:
                raise _No(
                    f"it has cosigned size {old} already, and this log has {signed.head.size}: the log is SHORTER or forked"
                )
            proof = await asyncio.to_thread(consistency, old)
            status, kind, text = await self._post(witness, Request(old, tuple(proof), str(signed.note)).body)
            if status == 200:
                self._sizes[place] = signed.head.size
                return _own(witness, signed, text)
            size = text.strip()
            if status == 409 and kind == SIZE_TYPE and size.isascii() and size.isdigit() and int(size) != old:
                self._sizes[place] = int(size)
                continue
            raise _No(f"{status}: {text.strip()[:400]}")
        raise _No("it says another size each time")

    async def _post(self, witness: WitnessKey, body: bytes) -> tuple[int, str, str]:
        assert self._session is not None
        url = f"{witness.url.rstrip('/')}/add-checkpoint"
        async with self._session.post(url, data=body, allow_redirects=False) as answer:
            data = await answer.content.read(MAX_ANSWER_BYTES)
            return answer.status, answer.content_type, data.decode("utf-8", "replace")


def _own(witness: WitnessKey, signed: Signed, text: str) -> Signature:
    """The witness's signature in its answer. Raises `_No`."""
    try:
        for signature in parse_signatures(text):
            if witness.vkey.verify(signed.note.text, signature):
                return signature
    except BadNote as error:
        raise _No(f"its answer is no signature: {error}") from error
    raise _No("its answer has no signature of the key in the policy")
