"""Candidates: which models of a route a call may go to, in which order, and which of them is asked now.

Order, conditions, features, quarantine, health and room in budgets are looked at here; whether a policy permits a candidate,
`authorize.py` asks. The answer is recorded with every score and reason (`ChoiceFacts`), each attempt with who is asked and
who failed before (`AttemptFacts`). Never reads a clock: health is what receipts said by the ledger's time.
Next: `models/routes.py` (how routes are written), `models/attempts.py` (what follows a failure), `models/health.py`, `models/room.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cel
from sluicegate.processors.conform import Json
from sluicegate.processors.control import quarantine
from sluicegate.processors.guardrails.guardrails import around
from sluicegate.processors.models import health, room
from sluicegate.processors.models.routes import FULL, OK, UNHEALTHY, Choice, CompiledRoute, Way
from sluicegate.processors.policy.expressions import ExpressionError, truth
from sluicegate.processors.sessions.task import trusted
from sluicegate.processors.work import Work


def rank(work: Work, route: CompiledRoute) -> Choice:
    """The call's candidates in order, before any policy is asked. Deterministic: state, control, release and call."""
    ways = _order(work, route)
    needed = _implied(work)
    context: dict[str, Json] | None = None
    choice = Choice()
    late: list[tuple[str, int, str]] = []
    full: list[tuple[str, int, str]] = []
    for way in ways:
        state = health.faded(work.state.health.get(way.tool.name), work.now)
        standing = way.unfit or _stopped(work, way) or _lacking(way, needed)
        if not standing and way.when is not None:
            context = context if context is not None else _context(work)
            standing = _asked(way.when, context, state)
        limit = "" if standing else room.full(work, way.tool)
        if limit:
            full.append((way.tool.name, health.score(state), f"{FULL} {limit}"))
            continue
        row = (way.tool.name, health.score(state), standing or (UNHEALTHY if health.unhealthy(state) else OK))
        if row[2] == UNHEALTHY:
            late.append(row)
        else:
            _add(choice, row)
    for row in (*late, *full):
        _add(choice, row)
    return choice


def _add(choice: Choice, row: tuple[str, int, str]) -> None:
    choice.names.append(row[0])
    choice.scores.append(row[1])
    choice.standing.append(row[2])


def _order(work: Work, route: CompiledRoute) -> Sequence[Way]:
    if route.choose == "ordered":
        return route.ways
    if route.choose in ("scored", "cheapest"):
        return _by_worth(work, route)
    o = work.origin
    seed = f"{o.tenant}\0{o.agent_id}\0{o.intent_id}\0".encode()
    left, drawn = list(route.ways), []
    while left:  # weights by hash, in integers: the same on every machine
        at = int.from_bytes(hashlib.sha256(seed + bytes([len(left)])).digest()) % sum(w.weight for w in left)
        for index, way in enumerate(left):
            at -= way.weight
            if at < 0:
                drawn.append(left.pop(index))
                break
    return drawn


def _by_worth(work: Work, route: CompiledRoute) -> Sequence[Way]:
    """By health and latency and then by what an attempt may cost, or the other way round; equal ones stay as written."""
    rows: list[tuple[int, int, int]] = []
    for at, way in enumerate(route.ways):
        good = -health.score(health.faded(work.state.health.get(way.tool.name), work.now))
        dear = room.most(work, way.tool)
        rows.append((good, dear, at) if route.choose == "scored" else (dear, good, at))
    return [route.ways[at] for _, _, at in sorted(rows)]


def _stopped(work: Work, way: Way) -> str:
    """Why control forbids this candidate now, or an empty text."""
    o = work.origin
    stopped = quarantine.quarantined(
        work.control, o.agent_id, way.tool.name, o.session_id, work.control.deployed
    )
    return quarantine.REASON if stopped else ""


def _implied(work: Work) -> list[str]:
    """Features that the call's own arguments ask for."""
    args = work.conformed.args if work.conformed else {}
    wanted = ["tools"] if args.get("tools") else []
    form = args.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"):
        wanted.append("json")
    return wanted


def _lacking(way: Way, needed: Sequence[str]) -> str:
    """A feature the call needs and a contract that lists features does not have, or an empty text."""
    if way.features is None:
        return ""
    return next((f"feature {name}" for name in needed if name not in way.features), "")


def _context(work: Work) -> dict[str, Json]:
    assert work.conformed is not None
    seen = around(work)
    names = {name: seen[name] for name in ("agent", "session", "environment")}
    return {**names, "arguments": work.conformed.args, "task": dict(trusted(work.task))}


def _asked(program: cel.Program, context: dict[str, Json], state: health.Health) -> str:
    """Why its condition keeps a candidate out, or an empty text."""
    about: Json = {
        "failures": health.failures_permille(state), "latency_ms": state.latency_us // 1_000, "score": health.score(state),
    }  # fmt: skip
    try:
        # INVARIANT: a condition that errors lets no candidate in (tests/unit/test_model_routes.py).
        return "" if truth(program, cel.Context({**context, "health": about})) else "condition"
    except ExpressionError:
        return "condition failed"
