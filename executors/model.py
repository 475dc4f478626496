"""The `model` adapter: chat completions of any OpenAI-compatible server, one request, one normalised answer.

    {"kind": "model", "url": "https://api.openai.com/v1", "model": "gpt-4.1-2025-04-14", "api_key": "env:OPENAI_API_KEY",
     "max_tokens": 1024, "logprobs": true, "features": ["tools", "json"], "region": "eu"}

The contract names the server, the model and the key; a call brings messages and options of `OPTIONS` and can choose none of
these. The answer is {text, tool_calls, finish_reason, served_model, usage{input_tokens, output_tokens}}, with `logprobs` also
`confidence`. A dated model is a pin: another served model fails the call with `model_changed` and an alarm, and its text is
never shown. What the server refuses is told by its class, so that the ledger can decide what follows (`processors/attempts.py`).
Never streams, never asks for more than `max_tokens`, never puts a key into an answer. Next: `wire.py`, `retries.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import orjson
from sluicegate.executors.adapter import ERROR_CHARS, Answer, Failed, Finished
from sluicegate.executors.egress import Egress, Lookup, system_lookup
from sluicegate.executors.http_template import BadTemplate, compile_template
from sluicegate.executors.model_answer import REFUSALS, normalised, refusal_kind
from sluicegate.executors.retries import retry_after_s, with_retries
from sluicegate.executors.secret_refs import NoSecret, fetch, redact
from sluicegate.executors.wire import (
    Answered,
    Target,
    Wire,
    call_headers,
    names_from,
    plain_names,
    refusal_text,
)
from sluicegate.schemas.records import Dispatch
from yarl import URL

DEFAULT_MAX_TOKENS = 1_024
"""Output tokens of a contract that names no bound; about 4 kB of text."""
ANSWER_BYTES = 262_144
"""What is read of an answer: 64 kB of result, of which JSON may write each byte as `\\u00xx`, and what is around it."""
OPTIONS = frozenset(
    (
        "messages", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "presence_penalty", "frequency_penalty", "reasoning_effort",
    )
)  # fmt: skip
"""What a call may say, besides `max_tokens`. Not `n`, which multiplies the tokens, and not `stream`."""
TOKENS_NAMES = ("max_tokens", "max_completion_tokens")
CONTRACTS = 1_024
"""Compiled executor objects kept."""
_PATH = "/chat/completions"
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A compiled executor object.

    Attributes:
        pinned: the only model whose answer counts; empty when any does.
        api_key: a reference, `env:NAME` or `file:PATH`; empty for a server without keys.
        max_tokens: upper bound of the output of one call.
        tokens_name: what this server calls that bound.
    """

    target: Target
    model: str
    pinned: str
    api_key: str
    max_tokens: int
    tokens_name: str
    retries: int
    logprobs: bool


def compile_model(executor: bytes, names: Mapping[str, str]) -> ModelContract:
    """Compile an executor object; `names` are what `${NAME}` may be. Raises `BadTemplate`."""
    template = compile_template(executor, names)
    raw = cast("dict[str, object]", orjson.loads(executor))
    if len(template.target) > 1:
        raise BadTemplate("the url of a model holds an argument, write a plain address")
    model, key = raw.get("model"), raw.get("api_key", "")
    if not isinstance(model, str) or not model:
        raise BadTemplate("the contract names no model, write `model`")
    if not isinstance(key, str) or (key and not key.startswith(("env:", "file:"))):
        raise BadTemplate("`api_key` is no reference, write `env:NAME`")
    pinned = raw.get("pinned", model if _DATED.search(model) else "")
    most = raw.get("max_tokens", DEFAULT_MAX_TOKENS)
    if not isinstance(pinned, str):
        raise BadTemplate("`pinned` is no model's name, write it as the server answers it")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise BadTemplate("`max_tokens` of the contract is no number of tokens")
    name = str(raw.get("tokens_name", TOKENS_NAMES[0]))
    logprobs = raw.get("logprobs", False)
    if not isinstance(logprobs, bool):
        raise BadTemplate("`logprobs` of the contract is neither true nor false")
    if name not in TOKENS_NAMES:
        raise BadTemplate(f"`tokens_name` is not one of {', '.join(TOKENS_NAMES)}")
    path = template.target[0].rstrip("/")
    url = URL(template.base + (path if path.endswith(_PATH) else path + _PATH), encoded=True)
    target = Target("POST", url, template.host, template.port)
    return ModelContract(target, model, pinned, key, most, name, template.retries, logprobs)


class ModelAdapter:
    """Asks models over http. Make it inside the event loop that uses it."""

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, str],
        *,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._environ = environ
        plain = plain_names(names)
        self._contract = lru_cache(maxsize=CONTRACTS)(lambda executor: compile_model(executor, plain))
        self._wire = Wire(egress, lookup)
        self._log = logging.getLogger("sluicegate.executor")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> ModelAdapter:
        """Read `SLUICEGATE_EGRESS` and `SLUICEGATE_TOOL_*`."""
        return cls(Egress.from_env(environ), names_from(environ), environ=environ)

    async def close(self) -> None:
        """Close every connection."""
        await self._wire.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """One completion, asked for again only where `retries.py` allows it."""
        until = time.monotonic() + timeout_s
        try:
            contract: ModelContract = self._contract(dispatch.executor)
            asked = request_of(contract, cast("dict[str, object]", orjson.loads(dispatch.arguments)))
            async with asyncio.timeout(timeout_s):
                secrets = [await fetch(contract.api_key, self._environ)] if contract.api_key else []
        except (BadTemplate, NoSecret) as error:
            return Failed("crashed", str(error), sent=False)
        except TimeoutError:
            return Failed("timeout", "the model's key could not be read in time", sent=False)
        headers = {"Content-Type": "application/json"} | call_headers(dispatch)
        if secrets:
            headers["Authorization"] = f"Bearer {secrets[0]}"
        body = orjson.dumps(asked)
        answered = await with_retries(
            lambda left_s: self._wire.exchange(
                contract.target, headers, body, limit=ANSWER_BYTES, timeout_s=left_s
            ),
            retries=contract.retries,
            tool_class=dispatch.tool_class,
            timeout_s=until - time.monotonic(),
        )
        if isinstance(answered, Failed):
            return answered
        if not 200 <= answered.status < 300:
            return _refused(answered, secrets)
        if not answered.whole:
            return Failed("result_too_large", f"the model's answer has more than {ANSWER_BYTES} bytes")
        answer = _finished(redact(answered.body, secrets), contract, asked)
        if isinstance(answer, Failed) and answer.error_class == "model_changed":
            self._log.error("alarm: `%s`: %s", dispatch.tool, answer.error)
        return answer


def request_of(contract: ModelContract, arguments: Mapping[str, object]) -> dict[str, object]:
    """The body of the request. Raises `BadTemplate` for an option that is not passed on."""
    more = sorted(set(arguments) - OPTIONS - {"max_tokens"})
    if more:
        raise BadTemplate(f"option `{more[0][:60]}` is not passed to models, leave it out")
    wanted = arguments.get("max_tokens")
    if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1):
        raise BadTemplate("`max_tokens` is no number of tokens")
    # INVARIANT: never more than the contract's bound is asked for (tests/unit/test_model_adapter.py::test_max_tokens).
    tokens = min(contract.max_tokens, wanted) if isinstance(wanted, int) else contract.max_tokens
    options = {name: arguments[name] for name in sorted(OPTIONS & set(arguments))}
    more_said = {"logprobs": True} if contract.logprobs else {}
    return {
        "model": contract.model, **options, **more_said, contract.tokens_name: tokens, "n": 1, "stream": False,
    }  # fmt: skip


def _refused(answered: Answered, secrets: list[str]) -> Failed:
    kind = refusal_kind(answered.status, answered.body)
    text = f"{kind} {refusal_text(answered, secrets)}"
    wait_ms = int(retry_after_s(answered) * 1_000)
    return Failed(REFUSALS.get(kind, "refused_by_tool"), text[: 2 * ERROR_CHARS], retry_after_ms=wait_ms)


def _finished(body: bytes, contract: ModelContract, asked: Mapping[str, object]) -> Answer:
    answer = normalised(body, asked)
    if isinstance(answer, Failed):
        return answer
    served = answer["served_model"]
    # INVARIANT: what another model than the pinned one said is never shown
    # (tests/unit/test_model_adapter.py::test_another_model_than_the_pinned_one).
    if contract.pinned and served != contract.pinned:
        named = str(served)[:100] or "none named"
        said = f"the contract pins `{contract.pinned}`, the server answered with `{named}`"
        return Failed("model_changed", said)
    return Finished(orjson.dumps(answer))
