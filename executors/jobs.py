"""Jobs over http: a first answer that hands work over, and looks at what became of it.

    "completion": "poll",      "job":    {"id": "/id", "url": "${TOOLS}/jobs/{job}", "state": "/state",
                                          "done": ["succeeded"], "failed": ["failed"], "result": "/result"}
    "completion": "callback"             the request names the address to call back (`callbacks.py`)
    "class": "queryable",      "lookup": {"url": "${TOOLS}/payments?key={key}", "result": "/0"}

A look is one GET, and changes nothing. What the tool says of the work ends it; a look that fails says nothing about
the work, and the ledger looks again. Never keeps a job: it stands in the ledger. Next: `http.py`, `processors/jobs/jobs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson
from sluicegate.executors.adapter import Answer, Failed, Finished, Parked, Pending, Traceless
from sluicegate.executors.http_template import BadTemplate, Template, compile_template, point
from sluicegate.executors.http_template import pointer as read_pointer
from sluicegate.executors.wire import Answered, refusal_text
from sluicegate.processors.jobs.jobs import MAX_JOB_CHARS
from sluicegate.processors.jobs.terms import CALLBACK, LOOKUP, POLL
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES

NOT_THERE = (404, 410)
"""Statuses by which a tool says that it has no trace of a key."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a contract says about looking at the tool.

    Attributes:
        template: the GET; its address may use `{job}` and `{key}`.
        job: where the first answer names the work.
        state: where the status stands; None: an answer of 2xx is the end.
    """

    template: Template
    job: tuple[str, ...] | None
    state: tuple[str, ...] | None
    done: tuple[str, ...]
    failed: tuple[str, ...]
    result: tuple[str, ...] | None
    error: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Terms:
    """A contract's completion, and its looks."""

    completion: str
    job: tuple[str, ...] | None
    poll: Look | None
    lookup: Look | None


def compile_terms(executor: bytes, names: Mapping[str, str]) -> Terms:
    """The terms of an executor object. Raises `BadTemplate`."""
    raw = cast("dict[str, object]", orjson.loads(executor))
    completion, job = str(raw.get("completion", "")), raw.get("job")
    named = read_pointer(cast("dict[str, object]", job).get("id")) if isinstance(job, dict) else None
    return Terms(
        completion,
        named,
        _look(raw, job, names) if completion == POLL else None,
        _look(raw, raw.get("lookup"), names),
    )


def _look(executor: Mapping[str, object], raw: object, names: Mapping[str, str]) -> Look | None:
    if not isinstance(raw, dict):
        return None
    look = cast("dict[str, object]", raw)
    made = {
        "kind": "http", "method": "GET", "url": look.get("url"), "headers": executor.get("headers"),
        "retries": executor.get("retries", 0),
    }  # fmt: skip
    return Look(
        compile_template(orjson.dumps(made), names),
        read_pointer(look.get("id")),
        read_pointer(look.get("state")),
        _texts(look.get("done")),
        _texts(look.get("failed")),
        read_pointer(look.get("result")),
        read_pointer(look.get("error")),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(v) for v in value) if isinstance(value, list) else ()


def look_of(terms: Terms, dispatch: Dispatch) -> tuple[Look, dict[str, object]]:
    """The look that a dispatch asks for, and what its address may use. Raises `BadTemplate`."""
    look = terms.poll if dispatch.purpose == POLL else terms.lookup if dispatch.purpose == LOOKUP else None
    if look is None:
        raise BadTemplate(f"the contract says nothing about a look of kind `{dispatch.purpose[:20]}`")
    used = look.template.target[1::2]
    known = {"job": dispatch.job, "key": dispatch.idempotency_key}
    return look, {name: value for name, value in known.items() if name in used}


def handed_over(terms: Terms, answered: Answered) -> Answer:
    """What a first answer of 2xx hands over."""
    job = ""
    if terms.job is not None:
        try:
            found = point(orjson.loads(answered.body), terms.job)
        except (LookupError, orjson.JSONDecodeError):
            found = None
        if (
            not isinstance(found, str | int)
            or isinstance(found, bool)
            or not 0 < len(str(found)) <= MAX_JOB_CHARS
        ):
            if terms.completion == POLL:
                return Failed(
                    "malformed_result", "the first answer names no job where the contract's `job.id` points"
                )
            found = ""
        job = str(found)
    return Parked(terms.completion, job)


def seen(
    look: Look,
    dispatch: Dispatch,
    answered: Answered | Failed,
    secrets: list[str],
    most: int = MAX_RESULT_BYTES,
) -> Answer:
    """What a look says about the work."""
    if isinstance(answered, Failed):
        return Pending(answered.error_class, answered.error)
    if dispatch.purpose == LOOKUP and answered.status in NOT_THERE:
        return Traceless()
    if not 200 <= answered.status < 300:
        return Pending("tool_broke", refusal_text(answered, secrets))
    if not answered.whole:
        return Failed("result_too_large", f"the answer has more than {most} bytes")
    try:
        body = orjson.loads(answered.body or b"null")
    except orjson.JSONDecodeError:
        return Pending("malformed_result", "the status is no json")
    return _judged(look, body, most)


def _judged(look: Look, body: object, most: int) -> Answer:
    if look.state is not None:
        try:
            state = point(body, look.state)
        except LookupError:
            return Pending("malformed_result", "the status has nothing where the contract's `state` points")
        if state in look.failed:
            return Failed("refused_by_tool", _why(look, body, str(state)))
        if state not in look.done:
            return Pending()
    try:
        result = orjson.dumps(body if look.result is None else point(body, look.result))
    except LookupError:
        return Failed("malformed_result", "the status has nothing where the contract's `result` points")
    if len(result) > most:
        return Failed("result_too_large", f"the result has more than {most} bytes")
    return Finished(result)


def _why(look: Look, body: object, state: str) -> str:
    """The tool's own words about work that failed."""
    try:
        said = point(body, look.error) if look.error is not None else ""
    except LookupError:
        said = ""
    text = said if isinstance(said, str) else orjson.dumps(said).decode()
    return f"the work ended as `{state[:40]}`" + (f": {text}" if text else "")


def calls_back(terms: Terms) -> bool:
    """Whether the tool has to be told where to call back."""
    return terms.completion == CALLBACK
