"""A function in a session: the decorator that existing agent code needs, and nothing else of it changes.

    @in_session("support-7", "refunds")
    async def main() -> None: ...          # adapters inside it find the session: `current()`

Where the agent asks, the environment says: SLUICEGATE_GATEWAY and SLUICEGATE_KEY (over HTTP), SLUICEGATE_LOCAL (a release
folder, decided in this process, for development only), else Kafka as `AgentClient`. Next: `client.py`, `sdk/gateway_client.py`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from sluicegate.schemas.errors import Terminal
from sluicegate.streams.client import AgentClient
from sluicegate.streams.sdk.call_once import CallsOnce
from sluicegate.streams.sdk.gateway_client import GatewayAgent

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("sluicegate.client")

_around: ContextVar[CallsOnce | None] = ContextVar("sluicegate_session_around", default=None)


def in_session(
    agent: str | AgentClient | GatewayAgent, goal: str = "", *, session_id: str | None = None
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Decorator: each call of the function is a session of its own, open while it runs.

    Args:
        agent: an agent id, connected as the environment says, or a client that is not connected yet.
        goal: what the session is for; policies and people read it.
        session_id: of the session; default: a random one.
    """

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(function)
        async def inside(*args: P.args, **kwargs: P.kwargs) -> T:
            client = connect(agent) if isinstance(agent, str) else agent
            async with client as connected, connected.session(goal, session_id=session_id) as session:
                token = _around.set(session)
                try:
                    return await function(*args, **kwargs)
                finally:
                    _around.reset(token)

        return inside

    return decorate


def current() -> CallsOnce:
    """The session around the running code. Raises `Terminal` without one."""
    session = _around.get()
    if session is None:
        raise Terminal(
            "no session is open around this code: decorate it with `in_session`, or pass the session yourself"
        )
    return session


def connect(agent_id: str, environ: Mapping[str, str] = os.environ) -> AgentClient | GatewayAgent:
    """An agent's client, not connected yet, as the environment says. Raises `Terminal` for a gateway without a key."""
    gateway, folder = environ.get("SLUICEGATE_GATEWAY"), environ.get("SLUICEGATE_LOCAL")
    if gateway:
        key = environ.get("SLUICEGATE_KEY")
        if not key:
            raise Terminal(
                f"the gateway `{gateway}` takes a key: set SLUICEGATE_KEY (`sluicegate keys create`)"
            )
        return GatewayAgent(gateway, key)
    if folder:
        from sluicegate.streams.local import Gate

        log.warning("calls are decided in this process, under `%s`: for development only", folder)
        return Gate.local(folder).agent(agent_id)
    return AgentClient(agent_id)
