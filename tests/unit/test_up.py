"""`sluicegate up`: a tool server that is named by hand may be reached, and nothing else besides what is listed."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from sluicegate.executors.egress import Denied, Egress
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.demo import _demo
from sluicegate.streams.commands.up import tools_env


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:8900", "127.0.0.1:8900"),
        ("https://tools.example.com", "tools.example.com:443"),
        ("http://[::1]:8900/base", "[::1]:8900"),
    ],
)
def test_the_tool_server_may_be_reached(url: str, place: str) -> None:
    env = tools_env(url, "api.example.com")
    assert env == {"SLUICEGATE_TOOL_TOOLS_URL": url, "SLUICEGATE_EGRESS": f"api.example.com,{place}"}
    host, _, port = place.rpartition(":")
    egress = Egress.from_env(tools_env(url, ""))
    egress.check_host(host, int(port))
    with pytest.raises(Denied):
        egress.check_host(host, int(port) + 1)


@pytest.mark.parametrize("url", ["127.0.0.1:8900", "ftp://x", "http://", "http://x:port", ""])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(Terminal, match="is not http://HOST:PORT"):
        tools_env(url, "")


def test_the_demo_keeps_what_may_be_reached_besides_its_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}

    def start(_: object, *, extra_env: dict[str, str], say: object) -> None:
        told.update(extra_env)
        raise Terminal("enough")

    monkeypatch.setattr("sluicegate.streams.stack.start", start)
    monkeypatch.setenv("SLUICEGATE_EGRESS", "127.0.0.1:8901")
    with pytest.raises(Terminal, match="enough"):
        _demo(keep=True)
    tools = urlsplit(told["SLUICEGATE_TOOL_TOOLS_URL"])
    assert told["SLUICEGATE_EGRESS"] == f"127.0.0.1:8901,127.0.0.1:{tools.port}"
