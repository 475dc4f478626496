"""Sending: an exchange goes out with the decision that made it; and the outcomes of those that came.

An outcome of the stage `transfer` is `noted` and carries the numbers that the fold needs (`crossing/homes.py`), named, so that an
analyst can read them. Never decides what is sent. Next: `crossing/exchanges.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sluicegate.processors.crossing.homes import TRANSFER
from sluicegate.processors.outcomes import Origin, Outcome
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import Exchange, ExchangeFacts
from sluicegate.schemas.topics import partition_of

NOBODY = bytes(16)
"""The exchange id of an alarm's outcome."""


def home_partition(work: Work, home: str) -> int:
    """Where a home lives."""
    return partition_of(home, work.state.partitions)


def send(
    work: Work,
    cause: Outcome,
    kind: str,
    home: str,
    to_partition: int,
    amounts: Mapping[str, int],
    *,
    deadline_at: int = 0,
    body: bytes = b"",
    waits: OpenIntent | Origin | Exchange | None = None,
) -> None:
    """Send an exchange that follows from an outcome of this decision. `waits`: names what waits for the answer."""
    sent = work.decision.exchanges
    ident = cause.event_id
    if any(one.exchange_id == ident for one in sent):
        ident = hashlib.sha256(b"%b/%d" % (ident, len(sent))).digest()[:16]
    who = (
        ("", "", "", "")
        if waits is None
        else (waits.tenant, waits.agent_id, waits.session_id, waits.intent_id)
    )
    sent.append(
        Exchange(
            ident, kind, home, to_partition, work.state.partition, *who, work.now, deadline_at, list(amounts),
            list(amounts.values()), body,
        )
    )  # fmt: skip


def taken(work: Work, exchange: Exchange, amounts: Mapping[str, int], reason: str = "") -> Outcome:
    """The outcome of an exchange. With a reason it was not acted on, and nothing is folded."""
    facts = ExchangeFacts(
        exchange.exchange_id, exchange.kind[:80], exchange.home[:1_024], exchange.from_partition,
        exchange.deadline_at, list(amounts), list(amounts.values()),
    )  # fmt: skip
    return emit(work, TRANSFER, "noted", facts, reason, caused_by=exchange.exchange_id)


def alarmed(work: Work, kind: str, home: str, amounts: Mapping[str, int]) -> Outcome:
    """The outcome of an alarm, folded as those of exchanges are."""
    facts = ExchangeFacts(NOBODY, kind, home, work.state.partition, 0, list(amounts), list(amounts.values()))
    return emit(work, TRANSFER, "noted", facts)


def amounts_of(record: Exchange | ExchangeFacts) -> dict[str, int]:
    """The named amounts; of a record whose lists do not fit, those that have a partner."""
    return dict(zip(record.names, record.amounts, strict=False))
