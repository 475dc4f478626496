"""`drift:` of a release: defaults that need nothing, rows that replace them, and what cannot work, with its line."""

from __future__ import annotations

import pytest
from sluicegate.processors.drift.rules import DEFAULT_DRIFT, Drift
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.schemas.errors import Terminal

from tests.driver import release_files


def with_drift(text: str) -> dict[str, str]:
    files = dict(release_files())
    files["release.yaml"] += text
    return files


def drift(text: str) -> Drift:
    return compile_release(with_drift(text)).drift


def test_without_a_section_everything_is_watched_and_only_told_of() -> None:
    found = drift("")
    assert found == DEFAULT_DRIFT
    assert {rule.stream for rule in found.rules} == {
        "refused", "failed", "withheld", "ungrounded", "low_quality", "tools", "bigrams", "shapes", "model",
    }  # fmt: skip
    assert {rule.action for rule in found.rules} == {"notify"}
    assert found.run_length == 241_920


def test_rows_replace_and_take_away() -> None:
    found = drift(
        "drift:\n  bucket_s: 5\n  alarms:\n"
        "    - {id: refused, stream: refused, per: release, action: rollback, at_least: 0.1}\n"
        "    - {id: tools, stream: tools, action: none}\n"
        "    - {id: pay, stream: failed, per: agent_tool, tools: [desk.pay], action: review}\n"
    )
    rules = {rule.rule_id: rule for rule in found.rules}
    assert (rules["refused"].per, rules["refused"].action, rules["refused"].floor) == ("release", "rollback", 0.1)  # fmt: skip
    assert "tools" not in rules and len(rules) == 9
    assert rules["pay"].tools == {"desk.pay"}
    assert found.bucket_us == 5_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drift:\n  alarms:\n    - {id: a, stream: failed, tools: [no.such]}\n", "names tool `no.such`, which has no contract"),
        ("drift:\n  alarms:\n    - {id: a, stream: failed, per: tool, action: review}\n", "set `per` to agent"),
        ("drift:\n  alarms:\n    - {id: a, stream: failed}\n    - {id: a, stream: refused}\n", "stands twice"),
        ("drift:\n  alarms:\n    - {id: a, stream: tools, expected: 0.1}\n", "is no rate"),
        ("drift:\n  alarms:\n    - {id: a, stream: vibes}\n", "Input should be"),
        ("drift:\n  alarms:\n    - {id: a, stream: failed, action: explode}\n", "Input should be"),
        ("drift:\n  bucket_s: 0\n", "greater than or equal to 1"),
        ("drift:\n  threshold: 0.25\n", "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said(text: str, said: str) -> None:
    with pytest.raises(Terminal, match=said):
        compile_release(with_drift(text))


def test_the_line_is_named() -> None:
    files = with_drift("drift:\n  alarms:\n    - {id: b, stream: failed}\n    - {id: a, stream: failed, tools: [no.such]}\n")  # fmt: skip
    [found] = [f for f in build(files)[1] if f.rule == "drift"]
    assert files["release.yaml"].splitlines()[found.line - 1].strip().startswith("- {id: a")
