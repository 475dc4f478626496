"""What a release did in this environment, read from its ledger: what an attestation says.

Scans each partition in Kafka from when the release was first used here, as far as it is committed now. Reads headers only, never
content, and writes nothing but the one control event that says who attested what. Next: `processors/control/attestation.py` (the
form), `commands/promote.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sluicegate.processors.control.attestation import envelope, statement
from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.releases.file import pack
from sluicegate.processors.verify import reading
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.times import iso
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.keys.files import PrivateKey
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.scan import since as first_since
from sluicegate.streams.settings import Settings

MARGIN_US = 60_000_000
"""Clocks of whoever wrote control and of the workers differ by seconds at most; reading a minute more costs nothing."""

Advance = Callable[[int], None]


@dataclass(slots=True)
class Ran:
    """What was decided under a release.

    Attributes:
        first, last: microseconds; 0 when nothing was.
        sessions: 8 bytes of each one's hash: 1,000,000 are 60 MB.
        ledger: (partition, seq, header hash) of the newest record that was read.
    """

    first: int = 0
    last: int = 0
    sessions: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    ledger: list[tuple[int, int, str]] = field(default_factory=list)

    def note(self, head: reading.Head, rest: reading.Rest) -> None:
        """One outcome under the release."""
        self.first = self.first or rest.decided_at
        self.first, self.last = min(self.first, rest.decided_at), max(self.last, rest.decided_at)
        if rest.session_id:
            name = f"{rest.agent_id}\0{rest.session_id}".encode()
            self.sessions.add(hashlib.sha256(name).digest()[:8])
        if head.stage == "route" and head.status in ("routed", "refused"):
            self.counts["intents"] += 1
        self.counts[head.status] += 1


async def ran(
    settings: Settings, digest: str, since: int, on_start: Callable[[int], Advance] | None = None
) -> Ran:
    """Read what was decided under `digest` since a time in microseconds."""
    found = Ran()
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=5))
    try:
        wanted = places(settings.space, "outcomes", range(await topics.partitions_of(settings)))
        whole = await stretches(consumer, wanted)
        begun = await first_since(consumer, whole, max(0, since - MARGIN_US) // 1000)
        ledgers = [
            Stretch(s.place, begun[s.place] if begun[s.place] < s.end else s.begin, s.end) for s in whole
        ]
        advance = on_start(sum(s.end - s.begin for s in ledgers)) if on_start else lambda count: None
        for stretch in ledgers:
            last: bytes = b""
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    last = reading.split(record.value or b"").header
                    head = reading.head(last)
                    rest = reading.rest(head.rest)
                    if rest.release == digest:
                        found.note(head, rest)
                advance(len(batch))
            if last:
                seq = reading.head(last).seq
                found.ledger.append((stretch.place.partition, seq, header_hash(last).hex()))
    finally:
        await consumer.stop()
    return found


def first_used(history: list[Control], digest: str) -> int:
    """When control first let this release decide anything here, in microseconds. Raises `Terminal` when it never did."""
    for control in history:
        arm = control.canary.digest if control.canary is not None else ""
        if digest in (control.deployed, arm, *control.pins.values()):
            return control.at
    env = history[-1].env if history else ""
    raise Terminal(f"{digest} never ran in `{env}`: it was never deployed, a canary or pinned there")


async def attest(
    settings: Settings, digest: str, key: PrivateKey, on_start: Callable[[int], Advance] | None = None
) -> tuple[dict[str, object], dict[str, object]]:
    """The signed file, and what it says. Raises `Terminal` for a release that never ran here, or was rolled back."""
    reader = await control_log.read(settings, keep_history=True)
    control = reader.control
    if digest in control.aborted:
        raise Terminal(
            f"{digest} was rolled back in `{control.env}`, deploy it again before you attest that it runs"
        )
    found = await ran(settings, digest, first_used(reader.history or [], digest), on_start)
    if not found.sessions or not found.counts["intents"]:
        raise Terminal(f"{digest} never ran in `{control.env}`: no intent was decided under it")
    predicate = predicate_of(control, found)
    payload = json.dumps(
        statement(digest, control.published.get(digest, ""), predicate), sort_keys=True
    ).encode()
    return envelope(payload, key.kid, key.secret, pack(await releases.fetch(settings, digest))), predicate


def predicate_of(control: Control, found: Ran) -> dict[str, object]:
    """What the statement says about the release."""
    return {
        "environment": control.env,
        "log_id": control.log_id.hex(),
        "signing": control.signing,
        "engine": ENGINE,
        "ran_from": iso(found.first),
        "ran_to": iso(found.last),
        "sessions": len(found.sessions),
        "intents": found.counts["intents"],
        "refused": found.counts["refused"],
        "released": found.counts["released"],
        "withheld": found.counts["withheld"],
        "failed": found.counts["failed"],
        "in_doubt": found.counts["in_doubt"],
        "control_head": control.head,
        "ledger": [
            {"partition": partition, "seq": seq, "header_hash": digest}
            for partition, seq, digest in found.ledger
        ],
    }
