"""Observe or enforce: the careful word wins."""

from __future__ import annotations

from itertools import product

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.modes import MAX_MODES, mode_for, with_mode
from sluicegate.processors.policy.cedar import PolicyBook, slice_for
from sluicegate.processors.policy.files import read_policies

SETTINGS = (None, "observe", "enforce")


@pytest.mark.parametrize(("agent", "tool", "environment"), [*product(SETTINGS, repeat=3)])
def test_the_careful_word_wins(agent: str | None, tool: str | None, environment: str | None) -> None:
    named = {("agent", "a"): agent, ("tool", "t"): tool, ("environment", "e"): environment}
    control = Control(env="e", modes={k: v for k, v in named.items() if v})
    expected = "enforce"
    if "enforce" not in (agent, tool) and "observe" in (agent, tool, environment):
        expected = "observe"
    assert mode_for(control, "a", "t") == expected


def test_settings_of_others_do_not_count() -> None:
    others = {("agent", "t"): "observe", ("tool", "a"): "observe", ("environment", "x"): "observe"}
    assert mode_for(Control(env="e", modes=others), "a", "t") == "enforce"


def test_control_overrules_an_annotation() -> None:
    texts = ('@id("p") @mode("observe")', '@id("q")', '@id("r") @mode("observe")', '@id("s")')
    policies, unread = read_policies(
        {"policies/a.cedar": "\n".join(f"{text} permit (principal, action, resource);" for text in texts)}
    )
    assert unread == []
    cut = slice_for(PolicyBook(policies), (), "t", (("p", "enforce"), ("q", "observe")))
    assert {p.policy_id for p in cut.policies} == {"p", "s"}


def test_the_number_of_settings_is_bounded() -> None:
    full = {("tool", str(i)): "observe" for i in range(MAX_MODES)}
    assert with_mode(full, "tool", "one more", "observe") == full
    assert with_mode(full, "tool", "7", "enforce")["tool", "7"] == "enforce"
    assert ("tool", "7") not in with_mode(full, "tool", "7", "default")
