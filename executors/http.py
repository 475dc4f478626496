"""The `http` adapter: a contract's template and a call's arguments as one request, the answer as a result.

The request carries the idempotency key, the intent's id and the trace. A result has 64 kB at most. Nothing is followed,
and nothing is repeated unless the contract says `retries` and the class may repeat (`retries.py`).
Never puts a secret or an exception's text into an answer. Next: `http_template.py`, `wire.py`, `secret_refs.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import cast

import orjson
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Egress, Lookup, system_lookup
from sluicegate.executors.http_template import (
    WITH_BODY,
    BadTemplate,
    Template,
    compile_template,
    point,
)
from sluicegate.executors.jobs import Terms, calls_back, compile_terms, handed_over, look_of, seen
from sluicegate.executors.retries import with_retries
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
from sluicegate.processors.artifacts import limit_of
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES

SERVER_ERROR = 500
ENVELOPE_BYTES = 1_024
"""What an answer may have around its result: `{"result": ...}` and white space."""
RESULT_LIMIT_BYTES = MAX_RESULT_BYTES + ENVELOPE_BYTES
TEMPLATES = 4_096
"""Compiled executor objects kept; a release has one for each contract."""


def no_callbacks(_: Dispatch) -> str:
    """Where no executor can be called back."""
    raise BadTemplate("the tool has to call back and there is no address: set SLUICEGATE_CALLBACK_URL")


class HttpAdapter:
    """Calls tools over http. Make it inside the event loop that uses it."""

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, str],
        *,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
        callback_url: Callable[[Dispatch], str] = no_callbacks,
    ) -> None:
        self._environ = environ
        self._callback_url = callback_url
        plain = plain_names(names)
        self._template = lru_cache(maxsize=TEMPLATES)(lambda executor: compile_template(executor, plain))
        self._terms = lru_cache(maxsize=TEMPLATES)(lambda executor: compile_terms(executor, plain))
        self._wire = Wire(egress, lookup)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] = os.environ, callback_url: Callable[[Dispatch], str] = no_callbacks
    ) -> HttpAdapter:
        """Read `SLUICEGATE_EGRESS` and `SLUICEGATE_TOOL_*`."""
        return cls(Egress.from_env(environ), names_from(environ), environ=environ, callback_url=callback_url)

    async def close(self) -> None:
        """Close every connection."""
        await self._wire.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """One request, and the same again where `retries.py` allows it."""
        until = time.monotonic() + timeout_s
        if dispatch.purpose:
            return await self._look(dispatch, until)
        try:
            template: Template = self._template(dispatch.executor)
            terms: Terms = self._terms(dispatch.executor)
            arguments = cast("dict[str, object]", orjson.loads(dispatch.arguments))
            target = Target(template.method, template.url(arguments), template.host, template.port)
            body = template.carried(dispatch.arguments, arguments)
            headers, secrets = await self._headers(template, dispatch)
            if calls_back(terms):
                headers["Callback-Url"] = address = self._callback_url(dispatch)
                secrets.append(address.rpartition("/")[2])
        except (BadTemplate, NoSecret) as error:
            return Failed("crashed", str(error), sent=False)
        except ValueError as error:
            return Failed("crashed", f"the request could not be made ({type(error).__name__})", sent=False)
        most = limit_of(dispatch.executor)
        answered = await with_retries(
            lambda left_s: self._wire.exchange(
                target, headers, body, limit=most + ENVELOPE_BYTES, timeout_s=left_s
            ),
            retries=template.retries,
            tool_class=dispatch.tool_class,
            timeout_s=until - time.monotonic(),
        )
        if isinstance(answered, Failed):
            return answered
        if 200 <= answered.status < 300:
            if terms.completion:
                return handed_over(terms, answered)
            return _result(answered, template, secrets, most)
        # 5xx: it may have acted before it broke, and what may not repeat is then in doubt.
        broke = answered.status >= SERVER_ERROR
        return Failed("tool_broke" if broke else "refused_by_tool", refusal_text(answered, secrets))

    async def _look(self, dispatch: Dispatch, until: float) -> Answer:
        """One GET at work that goes on, or for a trace of a call."""
        try:
            look, named = look_of(self._terms(dispatch.executor), dispatch)
            template = look.template
            target = Target(template.method, template.url(named), template.host, template.port)
            headers, secrets = await self._headers(template, dispatch)
        except (BadTemplate, NoSecret) as error:
            return Failed("crashed", str(error), sent=False)
        most = limit_of(dispatch.executor)
        answered = await with_retries(
            lambda left_s: self._wire.exchange(
                target, headers, None, limit=most + ENVELOPE_BYTES, timeout_s=left_s
            ),
            retries=template.retries,
            tool_class=dispatch.tool_class,
            timeout_s=until - time.monotonic(),
        )
        if isinstance(answered, Answered):
            answered = replace(answered, body=redact(answered.body, secrets))
        return seen(look, dispatch, answered, secrets, most)

    async def _headers(self, template: Template, dispatch: Dispatch) -> tuple[dict[str, str], list[str]]:
        secrets: list[str] = []
        headers: dict[str, str] = {}
        if template.method in WITH_BODY:
            headers["Content-Type"] = template.media_type
        for name, pieces in template.headers:
            value = list(pieces)
            for i in range(1, len(pieces), 2):
                value[i] = await fetch(pieces[i], self._environ)
                secrets.append(value[i])
            headers[name.title()] = "".join(value)
        return headers | call_headers(dispatch), secrets


def _result(answered: Answered, template: Template, secrets: list[str], most: int) -> Answer:
    if not answered.whole:
        return Failed("result_too_large", f"the answer has more than {most + ENVELOPE_BYTES} bytes")
    if answered.headers.get("Content-Encoding", "identity") != "identity":
        return Failed("malformed_result", "the answer is compressed, which was not asked for")
    body = redact(answered.body, secrets).strip()
    try:
        value = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        if "json" in answered.content_type or template.pointer is not None:
            return Failed("malformed_result", "the answer says it is json and is not")
        try:
            result = orjson.dumps(body.decode())
        except UnicodeDecodeError:
            return Failed("malformed_result", "the answer is neither json nor text")
    else:
        if template.pointer is not None:
            try:
                result = orjson.dumps(point(value, template.pointer))
            except LookupError:
                return Failed(
                    "malformed_result", "the answer has nothing where the contract's `result` points"
                )
        elif isinstance(value, dict) and value.keys() == {"result"}:
            result = orjson.dumps(value["result"])
        else:
            result = body or b"null"
    if len(result) > most:
        return Failed("result_too_large", f"the result has more than {most} bytes")
    return Finished(result)
