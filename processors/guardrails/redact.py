"""Redact: take parts out of a call before it runs, or out of a result before the agent sees it.

The transformed call is the call: it is checked against the schema again, hashed, shown and executed. The original stays
the intent's own bytes, as erasable content. What is taken out is said by recipes (`guardrails/recipes.py`): those of the contract,
those of the permits that decided, and those of guardrails. Next: `authorize.py`, `validate.py` (who call this),
`redecide.py` (who repeats it).
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from sluicegate.processors.conform import Json, Misfit, conform
from sluicegate.processors.guardrails.recipes import redact
from sluicegate.processors.work import Refusal, Work


def redact_contract(work: Work) -> Refusal | None:
    """Apply the contract's redactions, before any policy sees an argument."""
    assert work.tool is not None
    recipes = work.tool.redact_arguments
    return transform(work, recipes) if recipes else None


def redact_call(work: Work) -> Refusal | None:
    """Apply the redactions of the permits that decided (`work.policies`). Called when a call is permitted."""
    assert work.tool is not None and work.release is not None
    book = work.release.redactions
    if not book:
        return None
    recipes = [r for policy_id in work.policies for r in book.get((policy_id, work.tool.name), ())]
    return transform(work, recipes) if recipes else None


def transform(work: Work, recipes: Iterable[str]) -> Refusal | None:
    """Make the redacted call the call. What changed it is added to `work.redacted`."""
    assert work.tool is not None and work.conformed is not None
    args: Json = work.conformed.args
    used = []
    for recipe in recipes:
        after = redact(args, (recipe,))
        if after != args:
            args = after
            used.append(recipe)
    if not used:
        return None
    # INVARIANT: what is executed fits the contract, after a redaction too
    # (tests/unit/test_redact.py::test_a_redaction_that_breaks_the_schema_refuses).
    found = conform(work.tool.validator, work.tool.typer, orjson.dumps(args))
    if isinstance(found, Misfit):
        return Refusal("redaction_breaks_schema", f"{', '.join(used)}: {found.detail}")
    work.conformed = found
    work.redacted = sorted({*work.redacted, *used})
    return None
