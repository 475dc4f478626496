"""A shop whose sales can be taken back: a release of its own, and its tools with their effects in memory.

    order ▸ {id}    cancel {id}    look {id} ▸ {status}      ship {order} ▸ {parcel}     recall {parcel}      mail {text}

`shop.order` is taken back by `shop.cancel` and read back by `shop.look`; `shop.ship` by `shop.recall`; `shop.mail` cannot be. `shop.book {item} ▸ {id}` is taken back by the key it was sent with: `shop.unbook {key}`.
Never random: ids are counted. Next: `integration/test_saga.py`, `unit/test_lineage.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import orjson
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.executors.adapter import Failed as ToolFailed
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.records import Dispatch

BY = "rollback-north-bank"
TEXT = {"type": "string", "maxLength": 100}


def contract(name: str, tool_class: str, arguments: list[str], result: list[str], **more: object) -> str:
    """A contract whose arguments and results are texts."""
    return json.dumps(
        {
            "name": name,
            "description": "A test's tool.",
            "inputSchema": {"type": "object", "properties": dict.fromkeys(arguments, TEXT), "required": arguments},
            "outputSchema": {"type": "object", "properties": dict.fromkeys(result, TEXT)},
            "x-sluicegate": {
                "class": tool_class, "executor": {"kind": "http", "url": f"http://tools.invalid/{name}"},
                "timeout_ms": 2_000, **more,
            },
        }
    )  # fmt: skip


def memory(op: str, arguments: list[str]) -> str:
    """A contract of the ledger's own memory."""
    return json.dumps(
        {
            "name": f"memory.{op}",
            "inputSchema": {"type": "object", "properties": {name: {} for name in arguments}, "required": arguments[:2]},
            "x-sluicegate": {
                "class": "read_only" if op == "read" else "idempotent", "executor": {"kind": "memory", "op": op},
            },
        }
    )  # fmt: skip


FILES = {
    "release.yaml": "name: shop\nversion: '1'\nroles: [banking, retail, rollback]\n",
    "contracts/order.json": contract(
        "shop.order", "irreversible", ["item"], ["id"],
        compensate={"tool": "shop.cancel", "arguments": {"id": "$.result.id"}},
        verify={"tool": "shop.look", "arguments": {"id": "$.result.id"}, "expect": "result.status == 'cancelled'"},
    ),
    "contracts/cancel.json": contract("shop.cancel", "idempotent", ["id"], ["id"]),
    "contracts/look.json": contract("shop.look", "read_only", ["id"], ["status", "place"], protected=["id"]),
    "contracts/ship.json": contract(
        "shop.ship", "irreversible", ["order"], ["parcel"], protected=["order"],
        compensate={"tool": "shop.recall", "arguments": {"parcel": "$.result.parcel"}},
    ),
    "contracts/book.json": contract(
        "shop.book", "irreversible", ["item"], ["id"],
        compensate={"tool": "shop.unbook", "arguments": {"key": "$.key"}},
        verify={"tool": "shop.booked", "arguments": {"key": "$.key"}, "expect": "result.status != 'open'"},
    ),
    "contracts/unbook.json": contract("shop.unbook", "idempotent", ["key"], []),
    "contracts/booked.json": contract("shop.booked", "read_only", ["key"], ["status"]),
    "contracts/recall.json": contract("shop.recall", "idempotent", ["parcel"], []),
    "contracts/mail.json": contract("shop.mail", "irreversible", ["text"], []),
    "contracts/write.json": memory("write", ["scope", "key", "value"]),
    "contracts/read.json": memory("read", ["scope", "key"]),
    "policies/shop.cedar": """
@id("sell")
permit (principal in Role::"banking", action in [Action::"shop.order", Action::"shop.look", Action::"shop.ship",
    Action::"shop.book", Action::"shop.mail", Action::"memory.write", Action::"memory.read"], resource);
@id("cancel-oneself")
permit (principal in Role::"banking", action == Action::"shop.cancel", resource) when { context.args.id != "never" };
@id("hand-on")
permit (principal in Role::"banking", action == Action::"handoff", resource);
@id("take-back")
permit (principal in Role::"rollback", action in [Action::"shop.cancel", Action::"shop.recall", Action::"shop.look",
    Action::"shop.unbook", Action::"shop.booked"], resource);
""",
}  # fmt: skip


@cache
def release() -> CompiledRelease:
    """The compiled release."""
    return compile_release(FILES)


class Shop:
    """What the tools do.

    Attributes:
        orders, parcels: id -> its status; bookings: by idempotency key.
        lost: tools whose answers nobody hears, though they act.
        effects: effects by intent.
        broken: tools that fail.
        deaf: tools that say they did, and did not.
    """

    def __init__(self) -> None:
        self.orders: dict[str, str] = {}
        self.parcels: dict[str, str] = {}
        self.mails: list[str] = []
        self.effects: Counter[str] = Counter()
        self.done: list[str] = []
        self.broken: set[str] = set()
        self.deaf: set[str] = set()
        self.lost: set[str] = set()
        self.bookings: dict[str, str] = {}

    async def __call__(self, call: Dispatch) -> Answer:
        """One call."""
        args = orjson.loads(call.arguments)
        if call.tool in self.broken:
            return ToolFailed("refused_by_tool", "closed today", sent=True)
        if call.tool not in ("shop.look", "shop.booked"):
            self.effects[call.intent_id] += 1
            self.done.append(f"{call.tool} {' '.join(args.values())}")
        result: dict[str, str] = {}
        if call.tool == "shop.order":
            result["id"] = f"order-{1000 + len(self.orders)}"
            self.orders[result["id"]] = "open"
        elif call.tool == "shop.ship":
            result["parcel"] = f"parcel-{1000 + len(self.parcels)}"
            self.parcels[result["parcel"]] = "sent"
        elif call.tool == "shop.look":
            result["status"] = self.orders.get(args["id"], "unknown")
        elif call.tool == "shop.cancel" and call.tool not in self.deaf:
            self.orders[args["id"]] = "cancelled"
        elif call.tool == "shop.recall":
            self.parcels[args["parcel"]] = "back"
        elif call.tool == "shop.mail":
            self.mails.append(args["text"])
        elif call.tool == "shop.book":
            self.bookings[call.idempotency_key] = "open"
        elif call.tool == "shop.unbook" and call.tool not in self.deaf:
            self.bookings[args["key"]] = "cancelled"
        elif call.tool == "shop.booked":
            result["status"] = self.bookings.get(args["key"], "unknown")
        if call.tool in self.lost:
            return ToolFailed("timeout", "nobody heard the answer")
        return Finished(orjson.dumps(result))
