"""Observe or enforce: the careful word wins."""

from __future__ import annotations

from itertools import product

import pytest
from sluicegate.processors.control import Control
from sluicegate.processors.modes import MAX_MODES, mode_for, policy_mode, with_mode

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
    control = Control(modes={("policy", "p"): "enforce", ("policy", "q"): "observe"})
    assert policy_mode(control, "p", "observe") == "enforce"
    assert policy_mode(control, "q") == "observe"
    assert policy_mode(control, "r", "observe") == "observe"
    assert policy_mode(control, "r") == "enforce"


def test_the_number_of_settings_is_bounded() -> None:
    full = {("tool", str(i)): "observe" for i in range(MAX_MODES)}
    assert with_mode(full, "tool", "one more", "observe") == full
    assert with_mode(full, "tool", "7", "enforce")["tool", "7"] == "enforce"
    assert ("tool", "7") not in with_mode(full, "tool", "7", "default")
