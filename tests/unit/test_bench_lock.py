"""The benches' lock: AgentDojo beside the product's own versions, never instead of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(path: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in _PIN.findall((ROOT / path).read_text("utf-8")):
        found.setdefault(name, set()).add(version)
    return found


def test_the_benches_run_the_products_own_versions() -> None:
    own, bench = pins("requirements.lock"), pins("bench/requirements.lock")
    assert bench["agentdojo"] == {"0.1.35"}
    assert len(own.keys() & bench.keys()) > 50
    assert {name for name in own.keys() & bench.keys() if own[name] != bench[name]} == set()
