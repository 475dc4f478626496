"""Which pages of browsers may ask at the MCP server."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway import mcp
from sluicegate.gateway.context import GATE

from tests.driver import Driver
from tests.unit.test_gateway_access import a_gate


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
