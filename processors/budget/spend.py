"""Spend: what an attempt that was reported cost, on the ledger for whoever asks later, under a budget or not.

    spend: true                  # in release.yaml

Then every receipt of a model, or of a tool whose contract says `max_cost` or `cost`, is followed by a `noted` outcome of
the stage `budget` with `SpendFacts`. Nothing is decided by it and nothing folded from it: budgets count for themselves
(`budget/settle.py`), and count in full what nobody reported; this says what was reported. Next: the view `spend` in
`sinks/views.sql`, docs/budgets.md.
"""

from __future__ import annotations

from typing import cast

import orjson
from sluicegate.processors.artifacts import STORED
from sluicegate.processors.budget.budgets import STAGE
from sluicegate.processors.budget.costs import actual, usage_of
from sluicegate.processors.budget.settle import STEPS
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.kinds import MODEL
from sluicegate.schemas.records import Receipt, SpendFacts

UNKNOWN = -1
_MODEL_CHARS = 128


def note_spend(work: Work) -> None:
    """Say what the attempt cost whose receipt this decision acts on."""
    receipt, release = work.receipt, work.environment
    if receipt is None or release is None or not release.budgets.spend:
        return
    entry = work.state.intents.get(key_of(work.origin))
    told = receipt.kind in ("finished", "failed", STORED) and receipt.sent
    acted = any(o.status in STEPS for o in work.decision.outcomes)
    if not told or not acted or type(entry) is not OpenIntent or entry.state == "waiting":
        return  # of a call that waits: a plug-in's answer about it
    rules = work.control.release
    tool = rules.tools.get(entry.candidate or entry.tool) if rules is not None else None
    if tool is None or not _costs(tool):
        return
    given, output = usage_of(receipt)
    most = tool.contract.governance.max_cost
    money = actual("money", tool, receipt, UNKNOWN if most is None else most, release.budgets)
    facts = SpendFacts(receipt.attempt, tool.name, _model(tool, receipt), money, given, output)
    emit(work, STAGE, "noted", facts)


def _costs(tool: CompiledTool) -> bool:
    said = tool.contract.governance
    return tool.executor_kind == MODEL or said.max_cost is not None or bool(said.cost)


def _model(tool: CompiledTool, receipt: Receipt) -> str:
    """The model that answered, or was asked; empty for a tool."""
    if tool.executor_kind != MODEL:
        return ""
    asked = cast("dict[str, object]", orjson.loads(tool.executor)).get("model")
    try:
        value = orjson.loads(receipt.result or b"null")
    except orjson.JSONDecodeError:
        value = None
    served = value.get("served_model") if isinstance(value, dict) else None
    return str(served or asked or "")[:_MODEL_CHARS]
