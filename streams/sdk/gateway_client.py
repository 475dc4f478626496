"""The gateway as an agent's SDK: sessions and calls over HTTP, for an agent without a Kafka credential.

    async with GatewayAgent("https://gateway.example", key) as agent, agent.session("refund order 7") as session:
        result = await session.call_tool("shop.refund", {"order": "7", "amount": 12})

Answers and raises as `client_session.Session`. Functions cannot run inside this process: an executor makes the calls. Never
retries; the same id with the same arguments gets the first one's answer. Next: `gateway/doors.py` (the other side), `sdk/in_session.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import quote

import httpx
from sluicegate.schemas.kinds import MODEL_CALL, TOOL_CALL
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.asking import refused, unanswered, unavailable
from sluicegate.streams.sdk.errors import (
    Expired,
    Failed,
    InDoubt,
    NotReleased,
    Parked,
    Refused,
    Unanswered,
    Withheld,
)
from sluicegate.streams.sdk.in_process import LocalFunction
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S

MARGIN_S = 5.0
"""How much longer the connection waits than the call: the gateway's own answer comes first."""
_ERRORS: dict[str, type[NotReleased]] = {
    "expired": Expired, "withheld": Withheld, "failed": Failed, "in_doubt": InDoubt, "parked": Parked, "unanswered": Unanswered,
}  # fmt: skip


class GatewayAgent:
    """An agent, known by its key. `key`: as `sluicegate keys create` printed it."""

    def __init__(self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers={"Authorization": f"Bearer {key}"}, transport=transport, trust_env=False
        )  # fmt: skip

    async def __aenter__(self) -> GatewayAgent:
        """Nothing is sent yet."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await self._client.aclose()

    def session(
        self, goal: str = "", *, on_behalf_of: str = "", on_behalf_token: str = "", session_id: str | None = None,
        task: Mapping[str, Json] | None = None,
    ) -> GatewaySession:  # fmt: skip
        """As `AgentClient.session`; for whom it is, only a key with the scope `channel` may say."""
        about: dict[str, Json] = {
            "goal": goal,
            "on_behalf_of": on_behalf_of,
            "on_behalf_token": on_behalf_token,
        }
        if task is not None:
            about["task"] = dict(task)
        return GatewaySession(self, session_id or uuid.uuid4().hex, about)

    async def result(self, intent_id: str, timeout_s: float = CALL_TIMEOUT_S) -> Json | Held:
        """As `AgentClient.result`."""
        path = f"/v1/intents/{quote(intent_id, safe='')}?wait_s={timeout_s:g}"
        return _answer(await self.ask("GET", path, None, timeout_s, intent_id), intent_id)

    async def ask(
        self, method: str, path: str, body: Mapping[str, Json] | None, timeout_s: float, intent_id: str = ""
    ) -> httpx.Response:
        """One request. Raises `Refused` when nothing was sent, `Unanswered` when it may have been."""
        try:
            content = None if body is None else client_json.dumps(dict(body))
        except ValueError as error:
            raise refused("arguments_not_json", intent_id, f"the request is not JSON: {error}") from error
        try:
            return await self._client.request(
                method, path, content=content, timeout=httpx.Timeout(timeout_s + MARGIN_S)
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise unavailable("the gateway was not reached", intent_id, error) from error
        except httpx.HTTPError as error:
            raise unanswered(intent_id, timeout_s) from error


class GatewaySession:
    """One conversation over HTTP, open inside `async with`."""

    def __init__(self, agent: GatewayAgent, session_id: str, about: Mapping[str, Json]) -> None:
        self.session_id = session_id
        self._agent, self._about = agent, about

    async def __aenter__(self) -> GatewaySession:
        """Open it. Raises `Refused`."""
        body: dict[str, Json] = {
            "session_id": self.session_id,
            **{k: v for k, v in self._about.items() if v != ""},
        }
        _checked(await self._agent.ask("POST", "/v1/sessions", body, CALL_TIMEOUT_S), "")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it; a gateway that is away is no reason to fail, the session ends by itself after a day."""
        try:
            await self._agent.ask("DELETE", f"/v1/sessions/{quote(self.session_id, safe='')}", None, MARGIN_S)
        except NotReleased:
            return

    async def user_said(self, text: str) -> None:
        """As `Session.user_said`; for a key with the scope `channel`."""
        path = f"/v1/sessions/{quote(self.session_id, safe='')}/messages"
        _checked(await self._agent.ask("POST", path, {"text": text}, CALL_TIMEOUT_S), "")

    async def call_tool(
        self, tool: str, arguments: Mapping[str, Json], *, timeout_s: float = CALL_TIMEOUT_S, intent_id: str | None = None
    ) -> Json | Held:  # fmt: skip
        """As `Session.call_tool`."""
        return await self._call(tool, arguments, intent_id or uuid.uuid4().hex, TOOL_CALL, timeout_s)

    async def call_model(
        self, alias: str, messages: Sequence[Mapping[str, Json]] = (), *, timeout_s: float = CALL_TIMEOUT_S,
        intent_id: str | None = None, **options: Json,
    ) -> Json | Held:  # fmt: skip
        """As `Session.call_model`."""
        said: list[Json] = [dict(message) for message in messages]
        arguments: dict[str, Json] = {"messages": said, **options}
        return await self._call(alias, arguments, intent_id or uuid.uuid4().hex, MODEL_CALL, timeout_s)

    async def call_once(
        self, name: str, arguments: Mapping[str, Json], *, intent_id: str, run: LocalFunction | None = None,
        kind: str = TOOL_CALL, timeout_s: float = CALL_TIMEOUT_S,
    ) -> Json | Held:  # fmt: skip
        """As `Session.call_once`; `run` is never used: whoever comes over HTTP is not trusted to run a governed tool."""
        return await self._call(name, arguments, intent_id, kind, timeout_s)

    async def _call(
        self, name: str, arguments: Mapping[str, Json], intent_id: str, kind: str, timeout_s: float
    ) -> Json | Held:
        body: dict[str, Json] = {
            "session_id": self.session_id, "arguments": dict(arguments), "intent_id": intent_id, "timeout_s": timeout_s,
            "model" if kind == MODEL_CALL else "tool": name,
        }  # fmt: skip
        return _answer(await self._agent.ask("POST", "/v1/intents", body, timeout_s, intent_id), intent_id)


def _checked(response: httpx.Response, intent_id: str) -> dict[str, Json]:
    """The body of a good answer. Raises what the gateway told."""
    try:
        body = client_json.loads(response.content)
    except ValueError:
        body = None
    found = body if isinstance(body, dict) else {}
    error = found.get("error")
    if response.is_success and not isinstance(error, dict):
        return found
    told = error if isinstance(error, dict) else {}
    status = str(told.get("status") or "refused")
    policies = told.get("policies")
    raise _ERRORS.get(status, Refused)(
        str(told.get("code") or "unavailable"),
        intent_id=str(told.get("intent_id") or intent_id),
        status=status,
        stage=str(told.get("stage") or "gateway"),
        policies=[str(p) for p in policies] if isinstance(policies, list) else (),
        for_model=str(told.get("for_model") or ""),
        for_developer=str(told.get("for_developer") or told.get("message") or f"the gateway answered {response.status_code}"),
        published=bool(told.get("stage")),
    )  # fmt: skip


def _answer(response: httpx.Response, intent_id: str) -> Json | Held:
    body = _checked(response, intent_id)
    if body.get("status") == "held":
        policies = cast("list[str]", body.get("policies") or [])
        return Held(intent_id, str(body.get("for_developer")), str(body.get("for_model")), tuple(policies))
    return body.get("result")
