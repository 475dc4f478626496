"""`canary:` in release.yaml: defaults that need nothing said, and what cannot be."""

from __future__ import annotations

import pytest
from sluicegate.processors.canary.rules import DEFAULT_RULES, METRICS
from sluicegate.processors.releases.findings import errors
from sluicegate.processors.releases.release import build

from tests.driver import release, release_files


def built(section: str) -> tuple[object, list[str]]:
    files = release_files()
    compiled, findings = build({**files, "release.yaml": files["release.yaml"] + section})
    return compiled and compiled.canary, [str(f) for f in errors(findings)]


def test_nothing_need_be_said() -> None:
    rules = release().canary
    assert rules == DEFAULT_RULES
    assert [m.name for m in rules.metrics] == [name for name in METRICS if name != "cost"]
    assert sum(m.alpha for m in rules.metrics) == pytest.approx(rules.alpha)
    assert [m.name for m in rules.metrics if m.lower_is_worse] == ["quality"]


def test_what_is_said_counts() -> None:
    section = """
canary:
  alpha: 0.01
  max_sessions: 300
  at_cap: abort
  metrics:
    failure: {weight: 3, margin: 0.02, score: share}
    refusal: {weight: 0}
    withheld: {weight: 0}
    ungrounded: {weight: 0}
    quality: {weight: 0, direction: higher_is_worse}
    cost: {clip: 500000}
"""
    rules, wrong = built(section)
    assert wrong == []
    assert [(m.name, m.alpha, m.margin, m.clip, m.share) for m in rules.metrics] == [  # type: ignore[attr-defined]
        ("failure", pytest.approx(0.0075), 0.02, 0, True),
        ("cost", pytest.approx(0.0025), 0.05, 500_000, False),
    ]
    assert (rules.alpha, rules.max_sessions, rules.at_cap) == (0.01, 300, "abort")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("canary: {alpha: 0}", "greater than 0"),
        ("canary: {alpha: 0.9}", "less than or equal to 0.5"),
        ("canary: {min_sessions: 90, max_sessions: 80}", "is above `max_sessions`"),
        ("canary: {metrics: {speed: {}}}", "canary.metrics.speed"),
        ("canary: {metrics: {failure: {margin: 0}}}", "greater than 0"),
        ("canary: {metrics: {failure: {marign: 0.1}}}", "not permitted"),
        ("canary: {metrics: {cost: {weight: 1}}}", "needs `clip`"),
        ("canary: {metrics: {failure: {clip: 5}}}", "which only `cost` has"),
        ("canary: {metrics: {quality: {score: share}}}", "has a `score`, which only failure"),
        (
            "canary: {metrics: {failure: {weight: 0}, refusal: {weight: 0}, withheld: {weight: 0}, ungrounded: {weight: 0},"
            " quality: {weight: 0}}}",
            "nothing would be judged",
        ),
    ],
)
def test_what_cannot_be(section: str, said: str) -> None:
    _, wrong = built(section + "\n")
    assert len(wrong) == 1 and said in wrong[0] and wrong[0].startswith("`release.yaml` line ")
