"""The shop's tools: an order costs what its number says, and a refund is always taken."""

from __future__ import annotations


def order(order: str) -> dict[str, object]:
    """What was paid."""
    return {"order": order, "paid": paid(order)}


def refund(order: str, amount: float) -> dict[str, object]:
    """Money goes back."""
    return {"order": order, "refunded": amount}


def paid(order: str) -> float:
    """Between 10 and 59."""
    return 10.0 + sum(order.encode()) % 50
