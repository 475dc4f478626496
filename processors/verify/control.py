"""The control ledger, checked: its chain, its genesis, and that whoever changed control was permitted to.

It is folded here, too, since the other ledgers are judged by it: by the fold that workers use, under the releases' own
rules. Pure. Next: `control/authority.py` (what is permitted), `verify/partition.py` (who needs the fold).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import in_use
from sluicegate.processors.outcomes import event_id
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.transparency.tiles import Read
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.chain import Chain
from sluicegate.processors.verify.tree import Head
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable


class ControlChecker(Chain):
    """The control ledger's own chain; also folds it, since the other ledgers are judged by it.

    `rules`: digest -> the rules of every release whose bytes are whole, None where it has no `control.cedar`. Without
    them an event of theirs would seem to count that workers leave out.
    """

    def __init__(
        self, rules: Mapping[str, CompiledRelease | None], mac_keys: dict[str, bytes] | None = None
    ) -> None:
        super().__init__(-1)
        self._start = Control(mac_keys=mac_keys or {})
        self.controls: list[Control] = []
        self._rules = rules
        self._absent: set[str] = set()
        self._leaves: list[bytes] = []

    def add(self, offset: int, value: bytes) -> None:
        """Check one record."""
        if not self.records:  # the genesis names the log
            self.log_id = _log_id_of(value)
        self.records += 1
        linked = self._link(offset, value)
        if linked is None:
            return
        before = self.controls[-1] if self.controls else self._start
        try:
            rest = reading.rest(linked.rest)
            facts = codec.decode_as(r.ControlFacts, linked.facts)
            before.release = self._rules.get(before.deployed)
            after, wrong = control_fold.fold_any(before, linked.seq, facts, rest.decided_at)
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            self._bad(
                "readable", offset, f"control event {linked.seq} cannot be read ({type(error).__name__})"
            )
            self._lose(linked.seq)
            self.seq = linked.seq + 1
            return
        if wrong:
            self._bad("readable", offset, f"control event {linked.seq} cannot be read ({wrong})")
        # INVARIANT: what workers leave out is found (tests/unit/test_verify_control.py).
        elif reason := control_fold.refusal(before, linked.seq, facts, rest.decided_at):
            self._bad(
                "authority",
                offset,
                f"control event {linked.seq} (`{facts.kind[:40]}`) has no effect: {reason}",
            )
        self._releases(after, offset)
        if (facts.kind == "genesis") != (self.records == 1):
            self._bad("genesis", offset, f"control event {linked.seq} is `{facts.kind}`")
        if linked.event_id != event_id(self.log_id, 0, linked.seq, "control", 0):
            self._bad("event_id", offset, f"control event {linked.seq} has another id than its place gives")
        if rest.control_head != before.head or rest.release != before.deployed:
            self._bad(
                "control_head", offset, f"control event {linked.seq} was not written on the head before it"
            )
        self.controls.append(after)
        self._sum(linked.seq)
        self._leaves.append(self.prev_hash)
        self.seq = linked.seq + 1

    def grow(self, heads: Iterable[Head], kept: int = 0, read: Read | None = None) -> None:
        """After the last record: which keys may sign heads is said in here."""
        super().grow(heads, kept, read)
        if self.tree is not None and len(self._leaves) == self.seq:
            for leaf in self._leaves:
                self.prev_hash = leaf
                self._grow()
            self.end_tree()
        else:
            self._lose(len(self._leaves))

    def _releases(self, control: Control, offset: int) -> None:
        for digest in in_use(control) - self._rules.keys() - self._absent:
            self._absent.add(digest)
            self._bad(
                "release", offset, f"release `{digest}` decides from here on, and its bytes are not there"
            )


def _log_id_of(value: bytes) -> bytes:
    try:
        return reading.head(reading.split(value).header).log_id
    except Unreadable:
        return b""
