"""What one attempt of a call costs: at most, before it begins; and in truth, by its receipt.

    calls, requests   1                             1
    fan_out           1 while it is open            0: it counts what is open at once
    wall_ms           the contract's timeout_ms     finished - started, as the executor says
    tokens            input bytes + max_tokens      usage of the answer
    money, cost       tokens x price, or max_cost   usage x price, or what the result says at `cost`

A token has at least one byte, so the bytes of the arguments bound the tokens of the input. Where a receipt does not say
what was used, everything reserved counts as used. Integers only; rounded up. Pure. Next: `budget/budgets.py`.
"""

from __future__ import annotations

import math
from typing import cast

import orjson
from sluicegate.processors.artifacts import STORED
from sluicegate.processors.budget.rules import MAX_AMOUNT, Budgets
from sluicegate.processors.grounding import value_at
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.schemas.kinds import MODEL
from sluicegate.schemas.records import Receipt

DEFAULT_MAX_TOKENS = 1_024
"""Output tokens of a model contract that names no bound, about 4 kB of text: what is asked for, and what is reserved."""

MTOK = 1_000_000

Json = object


def bound(unit: str, tool: CompiledTool, arguments: bytes, budgets: Budgets) -> int | None:
    """The most one attempt may use; None when nothing says what it costs."""
    if unit in ("calls", "requests", "fan_out"):
        return 1
    if unit == "wall_ms":
        return tool.timeout_ms
    executor = _executor(tool)
    if tool.executor_kind != MODEL:
        return 0 if unit == "tokens" else tool.contract.governance.max_cost or 0
    # The adapter may ask again inside one attempt, and each answer is billed.
    times = 1 + _int(executor.get("retries"), 0)
    given, output = len(arguments), _max_tokens(executor, arguments)
    if unit == "tokens":
        return times * (given + output)
    price = _price(tool, executor, budgets)
    if price is None:
        return tool.contract.governance.max_cost
    return times * _money(given, output, price)


def has_price(tool: CompiledTool, budgets: Budgets) -> bool:
    """Whether anything says what a call of this model costs."""
    return _price(tool, _executor(tool), budgets) is not None or tool.contract.governance.max_cost is not None


def actual(unit: str, tool: CompiledTool | None, receipt: Receipt, reserved: int, budgets: Budgets) -> int:
    """What an attempt used, by its receipt; never less than nothing."""
    if unit in ("calls", "requests"):
        return 1
    if unit == "fan_out":
        return 0
    if unit == "wall_ms":
        return min(MAX_AMOUNT, max(0, receipt.finished_at - receipt.started_at + 999) // 1_000)
    result = _result(receipt)
    if tool is None or result is None:
        return reserved
    if tool.executor_kind != MODEL:
        return reserved if unit == "tokens" else _said(tool, result, reserved)
    given, output = usage_of(receipt)
    if given < 0 or output < 0:
        return reserved
    if unit == "tokens":
        return min(MAX_AMOUNT, given + output)
    price = _price(tool, _executor(tool), budgets)
    return _said(tool, result, reserved) if price is None else min(MAX_AMOUNT, _money(given, output, price))


def usage_of(receipt: Receipt) -> tuple[int, int]:
    """Tokens of the input and of the answer, by a model's receipt; -1 where it does not say."""
    usage = (_result(receipt) or {}).get("usage")
    used = cast("dict[str, Json]", usage) if isinstance(usage, dict) else {}
    given, output = _int(used.get("input_tokens"), -1), _int(used.get("output_tokens"), -1)
    return (given if given <= MAX_AMOUNT else -1), (output if output <= MAX_AMOUNT else -1)


def _money(given: int, output: int, price: tuple[int, int]) -> int:
    return -(-(given * price[0] + output * price[1]) // MTOK)


def _price(tool: CompiledTool, executor: dict[str, Json], budgets: Budgets) -> tuple[int, int] | None:
    return budgets.prices.get(tool.name) or budgets.prices.get(str(executor.get("model", "")))


def _said(tool: CompiledTool, result: dict[str, Json], reserved: int) -> int:
    """What the result says at the contract's `cost`, in micro-units."""
    path = tool.contract.governance.cost.removeprefix("$.")
    value = value_at(result, path) if path else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_AMOUNT:
        return reserved
    return math.ceil(value)


def _max_tokens(executor: dict[str, Json], arguments: bytes) -> int:
    most = _int(executor.get("max_tokens"), DEFAULT_MAX_TOKENS)
    value = orjson.loads(arguments)
    wanted = value.get("max_tokens") if isinstance(value, dict) else None
    return (
        min(most, wanted) if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0 else most
    )


def _result(receipt: Receipt) -> dict[str, Json] | None:
    stored = receipt.kind == STORED
    try:
        value = orjson.loads((receipt.said if stored else receipt.result) or b"null")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and (stored or receipt.kind == "finished") else None


def _executor(tool: CompiledTool) -> dict[str, Json]:
    return cast("dict[str, Json]", orjson.loads(tool.executor))


def _int(value: Json, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
