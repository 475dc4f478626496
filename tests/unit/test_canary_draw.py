"""The bench of the canary's weight, on fewer sessions: it can be trusted to see a session that changes its arm."""

from __future__ import annotations

import pytest

from bench import canary_draw


def test_the_weight_is_met_and_nobody_changes_arm() -> None:
    found = canary_draw.play(3_000)
    assert found.moved == 0
    assert found.error < 0.03  # five standard deviations of 3,000 draws at 10 %


def test_a_draw_that_depends_on_more_than_the_session_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary that ends moves its sessions: the same count must see them."""
    order = canary_draw.Gate.order

    def abort(gate: canary_draw.Gate, kind: str, /, **body: object) -> None:
        order(
            gate,
            "canary.aborted" if kind == "canary.paused" else kind,
            **({} if kind == "canary.paused" else body),
        )

    monkeypatch.setattr(canary_draw.Gate, "order", abort)
    found = canary_draw.play(500)
    assert found.moved == found.drawn > 0


def test_the_draw_of_others() -> None:
    assert 0 < canary_draw.worst_draw(2_000, 3) < 0.04
