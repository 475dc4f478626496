"""Who is asking: an API key, checked against control as it is now, and how fast it may ask.

INVARIANT: the agent is the key's, never a word of the request (tests/unit/test_gateway_access.py).
Never keeps a token and never writes one into a log. Next: `processors/control/api_keys.py` (what opens), `problems.py`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from sluicegate.gateway.problems import problem
from sluicegate.processors.control.api_keys import ApiKey, NoKey, opened
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Agent, inactive
from sluicegate.schemas.reasons import REASONS

MAX_BUCKETS = 100_000
"""Keys whose rate is watched, about 150 bytes each: 15 MB; the one that asked longest ago leaves first."""
BURST = 2
"""Requests at once, in seconds' worth of the rate."""

BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is of."""

    key: ApiKey
    agent: Agent

    def needs(self, scope: str) -> None:
        """Raise the problem of a key that has not this scope."""
        if scope not in self.key.scopes:
            raise problem(
                403,
                "scope_missing",
                f"the key has no scope `{scope}`: make one with --scope {scope}, if it may have that",
            )


class Rates:
    """A token bucket for each key and person."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, rate_per_s: int) -> float:
        """Take one request of a key or a person; seconds until there is one again, 0 when it may go on."""
        now, most = self._clock(), float(BURST * rate_per_s)
        left, at = self._buckets.pop(name, (most, now))
        left = min(most, left + (now - at) * rate_per_s)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / rate_per_s
        self._buckets[name] = (left if wait else left - 1.0, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait


def caller_of(request: web.Request, control: Control, now: int, rates: Rates) -> Caller:
    """Who asks. Raises the problem of a key that is wrong, ended, of another environment or too fast."""
    key = opened(control, token_in(request), now)
    if isinstance(key, NoKey):
        raise problem(401, "unauthorized", key.detail, {"WWW-Authenticate": 'Bearer realm="sluicegate"'})
    rated(rates, key.key_id, key.rate_per_s)
    agent = control.agents.get(key.agent_id)
    if agent is None or inactive(agent):
        reason = inactive(agent)
        raise problem(403, reason, f"agent `{key.agent_id[:80]}`: {REASONS[reason].remedy}")
    return Caller(key, agent)


def rated(rates: Rates, name: str, rate_per_s: int) -> None:
    """Take one request. Raises the problem of whoever is too fast."""
    wait = rates.take(name, rate_per_s)
    if wait:
        raise problem(
            429, "rate_limited", f"at most {rate_per_s} requests a second: wait {wait:.2f} s",
            {"Retry-After": str(max(1, round(wait + 0.5)))},
        )  # fmt: skip


def stands(caller: Caller, control: Control, now: int) -> bool:
    """Whether who began to listen may still do so: neither the key nor the agent was stopped meanwhile."""
    key, agent = control.api_keys.get(caller.key.key_id), control.agents.get(caller.agent.agent_id)
    return key is not None and now < key.not_after and not inactive(agent)


def token_in(request: web.Request) -> str:
    """The token of `Authorization: Bearer` or `x-api-key`. Raises a problem for two of them: a proxy may see the other one."""
    found = request.headers.getall("Authorization", []) + request.headers.getall("x-api-key", [])
    if len(found) != 1:
        detail = (
            "send the key once"
            if found
            else "send the API key: `Authorization: Bearer KEY` or `x-api-key: KEY`"
        )
        raise problem(401, "unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="sluicegate"'})
    text = found[0].strip()
    return text[len(BEARER) :].strip() if text.lower().startswith(BEARER) else text
