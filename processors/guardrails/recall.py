"""Recall: what earlier results of a session say, for the guardrails of a call.

Only results that were released into this session count. Where none fits, `seen` has no such name: a rule asks
`has(seen.reservation)` first, or errs and so refuses. Like the words of `sessions/library.py`, results are read by their place;
they are content, are no part of the state, and what was erased is not recalled.
Never decides anything. Pure. Next: `guardrails/recall_rules.py` (how a release asks for it), `guardrails/guardrails.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from sluicegate.processors.conform import Json
from sluicegate.processors.grounding import value_at
from sluicegate.processors.guardrails.recall_rules import Recalled
from sluicegate.processors.guardrails.recipes import parts
from sluicegate.processors.payload import record_in
from sluicegate.processors.results import observed
from sluicegate.processors.state import Source
from sluicegate.processors.work import Work

MAX_RECALLED = 50
"""Results looked at for one call, the newest first: at most 64 kB each, 3.2 MB, and about 0.1 ms each to parse."""


def recall(work: Work, wanted: Iterable[Recalled]) -> dict[str, Json]:
    """Name -> what earlier results say; nothing where `work.decision.needs` was set, since bytes have to be read."""
    session, conformed, release = work.session, work.conformed, work.release
    assert session and conformed and release
    asked = list(wanted)
    # INVARIANT: what an agent ran itself is its own word and is not recalled
    # (tests/unit/test_recall.py::test_what_the_agent_ran_is_not_recalled).
    tools = {t for one in asked for t in one.tools if release.tools[t].executor_kind != "in_process"}
    results = [s for s in session.sources if s.origin == "result" and s.tool in tools][-MAX_RECALLED:]
    values = [(source.tool, _value(work, source)) for source in results]
    if work.decision.needs:
        return {}
    found: dict[str, Json] = {}
    for one in asked:
        fit = [
            v for tool, v in values if tool in one.tools and v is not None and _fits(one, v, conformed.args)
        ]
        if one.every:
            found[one.name] = fit
        elif fit:
            found[one.name] = fit[-1]
    return found


def _fits(one: Recalled, value: Json, args: dict[str, Json]) -> bool:
    """An argument that is absent fits nothing."""
    for steps, argument in one.where:
        wanted = value_at(args, argument)
        if wanted is None or not any(part == wanted for part in parts(value, steps)):
            return False
    return True


def _value(work: Work, source: Source) -> Json:
    """A result, or None: it is erased, or its bytes must be read first."""
    place = (source.topic, source.offset)
    library = work.source.library
    raw = library.raw(place) if library is not None else None
    if raw is None:
        if place not in work.source.contents:
            work.decision.needs.append(place)
            return None
        raw = work.source.contents[place]
    return None if raw is None else _result(raw)


def _result(raw: bytes) -> Json:
    result = observed(record_in(raw))
    if result is None:
        return None
    try:
        value: Json = orjson.loads(result)
    except orjson.JSONDecodeError:
        return None
    return value
