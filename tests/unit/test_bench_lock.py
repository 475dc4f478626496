"""The benches' lock: AgentDojo beside the product's own versions, never instead of them."""

from __future__ import annotations

import re
import tomllib
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


def test_the_benches_lock_has_all_that_the_product_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["embedded"]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in wanted}
    assert names - pins("bench/requirements.lock").keys() == set(), "run `make lock`"
