"""Which pages of browsers may ask at the MCP server, and how it tells of a call by its id."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway import mcp
from sluicegate.gateway.access import Caller, Rates, caller_of
from sluicegate.gateway.context import GATE
from sluicegate.gateway.context import Gate as GatewayParts
from sluicegate.streams.client import AgentClient, Session
from sluicegate.streams.sdk.asking import Asker

from tests.client_gate import SHORT_S, Gate, in_session
from tests.driver import Driver
from tests.unit.test_gateway_access import TOKEN, a_gate, asked, control_with_key


@pytest.mark.parametrize(
    ("host", "origin", "may"),
    [
        ("localhost:8484", "", True),
        ("tools.example", "", True),  # no browser
        ("localhost:8484", "http://localhost:8484", True),
        ("127.0.0.1:8484", "http://127.0.0.1:8484", True),
        ("[::1]:8484", "http://[::1]:8484", True),
        ("localhost:8484", "http://localhost:9000", False),
        ("evil.example:8484", "http://evil.example:8484", False),  # its name was rebound to this machine
        ("localhost:8484", "http://evil.example", False),
        ("localhost:8484", "null", False),
        ("localhost.evil.example", "http://localhost.evil.example", False),
        ("tools.example", "https://tools.example", True),  # listed
    ],
)
def test_a_page_of_another_host_does_not_ask(host: str, origin: str, may: bool, tmp_path: Path) -> None:
    app = web.Application()
    app[GATE] = a_gate(Driver(), tmp_path)
    app[GATE].origins = frozenset(["https://tools.example"])
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    request = make_mocked_request("POST", "/mcp", headers=headers, app=app)
    if may:
        mcp._same_origin(request)
    else:
        with pytest.raises(web.HTTPForbidden):
            mcp._same_origin(request)


def test_an_id_that_was_never_asked_is_not_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a person is; of the other nobody here knows, and a model is told to look at the id."""
    driver = control_with_key()
    caller = caller_of(asked(x_api_key=TOKEN), driver.control, driver.now, Rates())
    parts = a_gate(driver, tmp_path)

    async def body(agent: AgentClient, session: Session) -> None:
        async def connected(gate: GatewayParts, of: Caller) -> Asker:
            return agent._connected()

        async def told(intent_id: str) -> dict[str, object]:
            params = cast("mcp.Params", {"name": mcp.RESULT_TOOL, "arguments": {"intent_id": intent_id}})
            return await mcp._call(make_mocked_request("POST", "/mcp"), parts, caller, params)

        monkeypatch.setattr(mcp, "asker_of", connected)
        monkeypatch.setattr(mcp, "RESULT_WAIT_S", SHORT_S)
        await session.call_tool("desk.ask", {}, intent_id="held-1")
        held, never = await told("held-1"), await told("never-asked")
        assert held["structuredContent"] == {"status": "pending", "intent_id": "held-1"}
        assert never["isError"] is True and "structuredContent" not in never
        assert "call of this id" in str(never["content"]) and "ending" not in str(never["content"])

    in_session(Gate(), body)
