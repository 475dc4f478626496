"""Scores: the record that says how good a session was, and the facts of one that counts. Part of `records.py`."""

from __future__ import annotations

from dataclasses import dataclass

PERSON, EVALUATOR = "person", "evaluator"
SCORE_KINDS = (PERSON, EVALUATOR)
"""Who may score; also the role of the key that signs it."""
SCORE_MAX = 10_000
"""The best: values are in 1/10,000."""
QUALITY = "quality"
"""The metric that rules and charts read by default."""


@dataclass(slots=True)
class Score:
    """How good a session, or one intent in it, was."""

    score_id: str
    agent_id: str
    session_id: str
    scorer: str
    kind: str
    metric: str
    value: int
    issued_at: int
    intent_id: str = ""
    comment: str = ""


@dataclass(slots=True)
class ScoreFacts:
    """A score that counts; decides nothing."""

    score_id: str
    scorer: str
    kind: str
    metric: str
    value: int
    release: str
    digest: bytes
    authenticated: bool
    control_stale: bool
    issued_at: int
