"""People's word on held calls, by HTTP: the same as `sluicegate approvals | approve | reject`.

    GET  /v1/approvals                     what waits for whoever asks: ?agent=
    GET  /v1/approvals/{intent_id}         one: exact arguments, where they come from, what the session did before: ?agent=
    POST /v1/approvals/{intent_id}         {verdict: approve | reject, digest, arguments, why, agent, wait_s}

Who asks is a person (`people.py`), never an agent. `digest` is that of the call they were shown: for any other the word is void. In a
signed environment the person's key has to lie in the gateway's home. Never decides. Next: `held_calls.py`, `streams/reviewing.py`.
"""

from __future__ import annotations

import time
import uuid

import orjson
from aiohttp import web
from sluicegate.gateway.context import GATE, body_of, text_in
from sluicegate.gateway.doors import said
from sluicegate.gateway.held_calls import HeldCalls, Waiting
from sluicegate.gateway.people import Reviewer, reviewer_of
from sluicegate.gateway.problems import plain, problem
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Review, ReviewFacts
from sluicegate.schemas.times import iso
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.inspect.pending import as_json

VERDICTS = ("approve", "reject")
FOLLOW_S = 10.0
MAX_FOLLOW_S = 60.0
MAX_WHY_CHARS = 2_000
DIGEST_HEX = 64
NOT_GOOD = ("refused", "held", "expired", "failed", "withheld", "in_doubt")

HELD: web.AppKey[HeldCalls] = web.AppKey("held", HeldCalls)


def add(app: web.Application) -> None:
    """Add the routes."""
    app.add_routes(
        [
            web.get("/v1/approvals", _list),
            web.get("/v1/approvals/{intent_id}", _show),
            web.post("/v1/approvals/{intent_id}", _say),
        ]
    )
    app[HELD] = HeldCalls(app[GATE].settings)


async def _list(request: web.Request) -> web.Response:
    reviewer, agent = await reviewer_of(request), request.query.get("agent", "")
    found = [w for w in await request.app[HELD].all() if _theirs(reviewer, w[0], agent)]
    return said({"approvals": [_row(entry, why) for entry, why in found]})


async def _show(request: web.Request) -> web.Response:
    reviewer = await reviewer_of(request)
    entry, _ = await _one(request, reviewer, request.query.get("agent", ""))
    shown = await request.app[HELD].show(entry, session=True)
    # `digest` is the name that the list and a word have, too.
    return said({**as_json(shown), "digest": entry.action_digest.hex()})


async def _say(request: web.Request) -> web.Response:
    reviewer, body = await reviewer_of(request), await body_of(request)
    verdict, why, digest = (
        text_in(body, "verdict", needed=True),
        text_in(body, "why"),
        text_in(body, "digest", needed=True),
    )
    if verdict not in VERDICTS:
        raise problem(400, "bad_request", "`verdict` is approve or reject")
    if verdict == "reject" and not why:
        raise problem(400, "bad_request", "say `why`: the agent's developer is told")
    if len(why) > MAX_WHY_CHARS:
        raise problem(400, "bad_request", f"`why` has at most {MAX_WHY_CHARS} characters")
    entry, _ = await _one(request, reviewer, text_in(body, "agent"))
    edit = body.get("arguments")
    review = Review(
        uuid.uuid4().hex, entry.agent_id, entry.intent_id, verdict, _digest(digest), reviewer.person.person_id,
        time.time_ns() // 1000, why, entry.hold_release,
    )  # fmt: skip
    try:
        if edit is not None:
            if verdict != "approve" or not isinstance(edit, dict):
                raise problem(
                    400,
                    "bad_request",
                    "`arguments` are an object that is approved instead: all of them, not a part",
                )
            shown = await request.app[HELD].show(entry, session=False)
            review.arguments = shown.edited(orjson.dumps(edit))
        events = await request.app[HELD].send(
            review, _seconds(body.get("wait_s")) if verdict == "approve" else 0.0
        )
    except Terminal as error:
        raise problem(403, "not_sent", str(error)) from error
    except Retryable as error:
        return plain(504, "unanswered", f"{error}; look at it again before you repeat it")
    status, told = came_of(review, events)
    return said(told, status)


def came_of(review: Review, events: list[LedgerEvent]) -> tuple[int, dict[str, object]]:
    """What became of a word: an HTTP status, and what is said."""
    first, last, facts = events[0].header, events[-1].header, events[0].facts
    told: dict[str, object] = {
        "intent_id": review.intent_id, "agent_id": review.agent_id, "person": review.reviewer, "seq": first.seq,
    }  # fmt: skip
    if first.status != ("refused" if review.verdict == "reject" else "held") or not isinstance(
        facts, ReviewFacts
    ):
        # The first record says what became of the word itself; where it voids it, what follows asks anew.
        code = first.reason or first.status
        remedy = REASONS[code].remedy if code in REASONS else ""
        return 409, {**told, "word": "void", "status": "held", "error": {"code": code, "message": remedy}}
    if review.verdict == "reject":
        return 200, {**told, "word": "rejected", "status": "refused"}
    told |= {"approvals": list(facts.approvals), "quorum": facts.quorum, "edited": bool(facts.edited)}
    if len(events) == 1:
        return 202, {
            **told,
            "word": "agreed",
            "status": "held",
            "missing": facts.quorum - len(facts.approvals),
        }
    reason = next((e.header.reason for e in reversed(events) if e.header.reason), "")
    told |= {"status": last.status, "reason": reason}
    return 200, {**told, "word": "agreed" if last.status in NOT_GOOD else "approved"}


async def _one(request: web.Request, reviewer: Reviewer, agent: str) -> Waiting:
    """The held call that the request names. Raises a problem."""
    intent_id = request.match_info["intent_id"]
    found = [w for w in await request.app[HELD].named(intent_id) if _theirs(reviewer, w[0], agent)]
    if not found:
        raise problem(404, "not_held", f"no call `{intent_id[:80]}` is held that you may look at")
    if len(found) > 1:
        agents = " or ".join(entry.agent_id[:80] for entry, _ in found)
        raise problem(409, "ambiguous", f"several agents used this id, say which: `agent` {agents}")
    return found[0]


def _theirs(reviewer: Reviewer, entry: OpenIntent, agent: str) -> bool:
    return agent in ("", entry.agent_id) and reviewer.sees(entry.tenant, tuple(entry.reviewers))


def _row(entry: OpenIntent, why: str) -> dict[str, object]:
    return {
        "intent_id": entry.intent_id, "agent_id": entry.agent_id, "tenant": entry.tenant, "session_id": entry.session_id,
        "tool": entry.tool, "class": entry.tool_class, "why": why, "policies": list(entry.hold_policies),
        "quorum": entry.quorum, "approvals": list(entry.approvals), "reviewers": list(entry.reviewers),
        "edited": bool(entry.edit_topic), "held_at": iso(entry.held_at), "expires_at": iso(entry.due_at),
        "digest": entry.action_digest.hex(), "release": entry.hold_release,
    }  # fmt: skip


def _digest(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) * 2 != DIGEST_HEX:
        raise problem(
            400, "bad_request", f"`digest` is {DIGEST_HEX} hex digits: that of the call you were shown"
        )
    return found


def _seconds(value: object) -> float:
    if value is None:
        return FOLLOW_S
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_FOLLOW_S:
        raise problem(400, "bad_request", f"`wait_s` is 0 to {MAX_FOLLOW_S:.0f}")
    return float(value)
