"""Reason codes of model calls, as rows of (code, what a model is told, what to do): part of `reasons.py`, which is next.

The classes of errors a model's server answers with stand here too; what follows each of them a route says.
"""

from __future__ import annotations

MODEL_REASONS = (
    (
        "unknown_prompt",
        "This cannot be asked like that.",
        "name a prompt that the release has: prompts/NAME.md",
    ),
    (
        "prompt_variables",
        "This cannot be asked like that.",
        "give exactly the variables that the prompt names, as texts or whole numbers",
    ),
    (
        "unversioned_prompt",
        "A model may not be told this.",
        "name a prompt of the release, or let a permit say @unversioned that system text of the call's own is allowed",
    ),
    (
        "no_route",
        "No model is available for this.",
        "the detail says of each candidate why not; see `models:` in release.yaml",
    ),
    (
        "falling_confidence",
        "The session was stopped because the answers became less and less certain.",
        "a person looks at it: sluicegate sessions resume",
    ),
    (
        "rate_limit",
        "The model has had too many requests.",
        "ask later, or give its route another candidate",
    ),
    (
        "overload",
        "The model is overloaded.",
        "ask later, or give its route another candidate",
    ),
    (
        "context_length",
        "This is too long for the model.",
        "send less, or route long calls to a larger model",
    ),
    (
        "content_policy",
        "The model's provider refuses this.",
        "see the provider's own message",
    ),
    (
        "authentication",
        "The model cannot be used.",
        "its server refuses the key that `api_key` names; look at it",
    ),
    (
        "server_error",
        "The model's server failed.",
        "see the server's own message",
    ),
)
