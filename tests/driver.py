"""A ledger partition in memory: decide, fold and seal as the ledger loop does, with a fake clock and a key store.

    d = Driver()
    d.open_session()
    dispatch = d.call("banking.get_balance").dispatches[0]
    d.finish(dispatch, b'{"ok":true}')
    d.records            # what stands on the ledger: (offset, value)

The release is `examples/release` plus the tools of `desk.*` below: one a class, one held, one in process. Never
touches Kafka, a clock or a file outside the examples. Next: `streams/ledger.py` (the real loop).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import orjson
import rfc8785
import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sluicegate.processors.agents.fold import AgentFold, Cuts
from sluicegate.processors.agents.orders import orders_in
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Input, Tick
from sluicegate.processors.outcomes import ZERO_HASH, Decision, Origin, Outcome, event_id, from_header, seal
from sluicegate.processors.pipeline import decide
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import PartitionState, apply
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.places import stand

T0 = 1_795_000_000_000_000
"""Microseconds; 2026-11-18."""
STEP_US = 1_000
"""Time between two inputs."""
LOG_ID = bytes(range(16))
AGENT = "banking-agent-gpt-4o-2024-05-13"
OTHER_AGENT = "retail-agent-gpt-4.1"
SESSION = "session-1"
PERSON = "person-2"
PEOPLE: list[dict[str, object]] = [
    {"person_id": PERSON, "name": "Ana", "roles": ["desk"]},
    {"person_id": "person-3", "name": "Ben", "roles": ["desk", "treasury"]},
    {"person_id": "person-4", "name": "Cem", "roles": ["treasury"]},
    {"person_id": "person-5", "name": "", "roles": []},
]
"""Who may review in tests."""
RELEASE = Path(__file__).parent.parent / "examples" / "release"


def _contract(name: str, tool_class: str, kind: str = "http") -> str:
    value = {"type": "string", "maxLength": 100}
    executor = {"kind": kind, "url": f"http://tools.invalid/{name}"} if kind == "http" else {"kind": kind}
    return json.dumps(
        {
            "name": name,
            "description": "A test's tool.",
            "inputSchema": {"type": "object", "properties": {"value": value}},
            "outputSchema": {"type": "object"},
            "x-sluicegate": {"version": "1", "class": tool_class, "executor": executor, "timeout_ms": 2_000},
        }
    )


DESK_FILES = {
    "contracts/desk.read.json": _contract("desk.read", "read_only"),
    "contracts/desk.set.json": _contract("desk.set", "idempotent"),
    "contracts/desk.look.json": _contract("desk.look", "queryable"),
    "contracts/desk.pay.json": _contract("desk.pay", "irreversible"),
    "contracts/desk.ask.json": _contract("desk.ask", "irreversible"),
    "contracts/desk.wire.json": _contract("desk.wire", "irreversible"),
    "contracts/desk.local.json": _contract("desk.local", "irreversible", "in_process"),
    "contracts/desk.never.json": _contract("desk.never", "read_only"),
    "policies/desk.cedar": """
@id("desk-use")
permit (principal, action in [Action::"desk.read", Action::"desk.set", Action::"desk.look", Action::"desk.pay",
    Action::"desk.local"], resource);
@id("desk-ask")
@hold("a person agrees to this")
permit (principal, action == Action::"desk.ask", resource);
@id("desk-wire")
@hold("two people agree to this")
@quorum("2")
@reviewers("desk treasury")
@expires("4h")
permit (principal, action == Action::"desk.wire", resource);
@id("desk-wire-free")
permit (principal, action == Action::"desk.wire", resource) when { context.args has value && context.args.value == "free" };
@id("desk-wire-never")
forbid (principal, action == Action::"desk.wire", resource) when { context.args has value && context.args.value == "never" };
@id("desk-not-this")
forbid (principal, action == Action::"desk.pay", resource) when { context.args has value && context.args.value == "no" };
""",
}
"""Tools for tests: `desk.never` is permitted to nobody, `desk.pay` is forbidden with the value `no`, `desk.ask` needs one
person and `desk.wire` two, but for the values `free` and `never`."""


def release_files(*, extended: bool = True, edition: str = "1") -> dict[str, str]:
    """The release's files, for the caller to change. Another `edition` has another digest and decides alike."""
    return dict(_files(extended, edition))


@cache
def _files(extended: bool, edition: str) -> dict[str, str]:
    files = {"release.yaml": (RELEASE / "release.yaml").read_text("utf-8") + f"edition: '{edition}'\n"}
    for folder in ("contracts", "policies"):
        for path in sorted((RELEASE / folder).iterdir()):
            files[f"{folder}/{path.name}"] = path.read_text("utf-8")
    return {**files, **DESK_FILES} if extended else files


@cache
def release(*, extended: bool = True, edition: str = "1") -> CompiledRelease:
    """The compiled release, once per test process."""
    return compile_release(release_files(extended=extended, edition=edition))


@cache
def agents() -> list[dict[str, object]]:
    """Rows of `agents.registered`, from the example's registry."""
    found = yaml.safe_load((RELEASE / "agents.yaml").read_text("utf-8"))["agents"]
    return [{"agent_id": name, **row} for name, row in found.items()]


class MemoryKeys:
    """The key store's `seal` and `open`, in memory. Keys follow from the subject, so runs repeat byte for byte."""

    def __init__(self) -> None:
        self.destroyed: set[str] = set()

    def _cipher(self, subject: str) -> AESSIV:
        return AESSIV((subject.encode() or b"-").ljust(64, b"\0")[:64])

    def seal(self, subject: str, event: bytes, content: bytes) -> bytes:
        """Ciphertext."""
        return self._cipher(subject).encrypt(content, [event])

    def open(self, subject: str, event: bytes, sealed: bytes) -> bytes | None:
        """The content, or None when the subject was erased."""
        if subject in self.destroyed:
            return None
        try:
            return self._cipher(subject).decrypt(sealed, [event])
        except InvalidTag as error:
            raise Terminal("content does not open, it was changed or moved") from error


class Record(NamedTuple):
    """One ledger record and its Kafka offset."""

    offset: int
    value: bytes


@dataclass(frozen=True)
class Event:
    """One ledger record, decoded."""

    header: r.Header
    facts: object
    sealed: bytes | None


def read(record: Record) -> Event:
    """Decode a ledger record by the Avro library."""
    outcome = codec.decode_as(r.Outcome, record.value)
    return Event(codec.decode_as(r.Header, outcome.header), codec.decode(outcome.facts), outcome.content)


class Driver:
    """One ledger partition and its control ledger.

    Attributes:
        records: the partition's ledger. Offsets have a hole after each input, where Kafka has a commit marker.
        control_records, controls: the control ledger, and its fold as of each head.
        inputs: topic -> offset -> bytes, as the input topics would hold them.
        before: (generation, partition) -> the inputs of partitions before a seam (`seam_driver.py`).
        dispatches, replies, dead_letters, transfers, exchanges: everything that went out.
    """

    def __init__(
        self,
        *,
        partition: int = 0,
        partitions: int = 1,
        extended: bool = True,
        signing: str = "dev",
        keys: MemoryKeys | None = None,
    ) -> None:
        self.partition, self.now = partition, T0
        self.log_id = LOG_ID
        self.keys = keys or MemoryKeys()
        self.records: list[Record] = []
        self.control_records: list[Record] = []
        self.controls: list[Control] = []
        self.inputs: dict[str, dict[int, bytes]] = {}
        self.before: dict[tuple[int, int], dict[str, dict[int, bytes]]] = {}
        self.next_offset: Counter[str] = Counter()
        self.dispatches: list[r.Dispatch] = []
        self.replies: list[r.Reply] = []
        self.dead_letters: list[r.DeadLetter] = []
        self.transfers: list[r.Transfer] = []
        self.exchanges: list[r.Exchange] = []
        self.library = Library()
        self._markers = 0
        self._ids = 0
        self._control_prev = self._prev = ZERO_HASH
        self._releases: dict[str, CompiledRelease] = {}
        self.control_event("genesis", log_id=LOG_ID.hex(), env="test", partitions=partitions, signing=signing)
        self.control_event("agents.registered", agents=agents())
        self.control_event("people.registered", people=PEOPLE)
        self.deploy(release(extended=extended))
        self.state = PartitionState(LOG_ID, partition)
        self._genesis(partitions, signing)

    # -- control ------------------------------------------------------------------------------------------------

    @property
    def control(self) -> Control:
        """Control as of its head."""
        return self.controls[-1]

    @property
    def rules(self) -> dict[str, CompiledRelease]:
        """Every published release by its digest, as `ledger verify` gets their rules."""
        return self._releases

    def control_event(self, kind: str, /, who: str = "operator", **body: object) -> Control:
        """Append one control event and fold it."""
        before = self.controls[-1] if self.controls else Control()
        seq = before.head + 1
        facts = r.ControlFacts(kind, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
        self.now += STEP_US
        origin = Origin("", "", "operator", "", SYSTEM, self.now, "control", 0, seq, before.head, before.deployed, ENGINE)  # fmt: skip
        outcome = Outcome(origin, event_id(LOG_ID, 0, seq, "control", 0), "control", "recorded", kind, facts)
        value, self._control_prev = seal(outcome, LOG_ID, 0, seq, self._control_prev, self.keys.seal)
        self.control_records.append(Record(2 * seq, value))
        after = control_fold.fold(before, seq, facts, self.now)
        after.releases = self._releases
        if after.deployed and after.release is None:
            after.release = self._releases[after.deployed]
        self.controls.append(after)
        return after

    def deploy(self, compiled: CompiledRelease, *, now: bool = False) -> None:
        """Publish and deploy a release; `now` for open sessions, too."""
        self.publish(compiled)
        self.control_event("release.deployed", digest=compiled.digest, **({"now": True} if now else {}))

    def publish(self, compiled: CompiledRelease) -> None:
        """Make a release known."""
        self._releases[compiled.digest] = compiled
        self.control_event("release.published", digest=compiled.digest, name=compiled.name, version=compiled.version)  # fmt: skip

    # -- the loop -----------------------------------------------------------------------------------------------

    def _genesis(self, partitions: int, signing: str) -> None:
        origin = Origin("", "", "", "", SYSTEM, self.now, "", self.partition, 0, self.control.head, "", ENGINE)  # fmt: skip
        ident = event_id(LOG_ID, self.partition, 0, "genesis", 0)
        facts = r.GenesisFacts(LOG_ID, partitions, "test", signing)
        self._fold(Decision(outcomes=[Outcome(origin, ident, "genesis", "genesis", "", facts)]))

    def _fold(self, decision: Decision) -> Decision:
        for outcome in decision.outcomes:
            value, self._prev = seal(
                outcome, self.log_id, self.partition, self.state.seq, self._prev, self.keys.seal
            )
            self.records.append(Record(len(self.records) + self._markers, value))
            apply(self.state, outcome)
            self.state.prev_hash = self._prev
        self._markers += bool(decision.outcomes)  # the commit marker's offset
        self.dispatches += decision.dispatches
        self.replies += decision.replies
        self.dead_letters += decision.dead_letters
        self.transfers += decision.transfers
        self.exchanges += decision.exchanges
        return decision

    def _decide(self, source: Input | Tick, control: Control) -> Decision:
        source.library = self.library
        decision = decide(self.state, control, source, self.now)
        while decision.needs:
            for topic, offset in decision.needs:
                source.contents[topic, offset] = self.bytes_at(topic, offset)
            decision = decide(self.state, control, source, self.now)
        self.library.remember(source, decision)
        return self._fold(decision)

    def bytes_at(self, topic: str, offset: int) -> bytes | None:
        """An input's bytes, here or, after a seam, in a partition of an earlier generation."""
        place = stand(offset)
        if place is not None:
            return self.before[place.generation, place.partition].get(topic, {}).get(place.offset)
        return self.inputs.get(topic, {}).get(offset)

    def feed(
        self, topic: str, record: object, *, stale: bool = False, control: Control | None = None
    ) -> Decision:
        """One record, or raw bytes, arrives on an input topic and is decided."""
        value = record if isinstance(record, bytes) else codec.encode(record)
        offset = self.next_offset[topic]
        self.next_offset[topic] += 1
        self.inputs.setdefault(topic, {})[offset] = value
        self.now += STEP_US
        source = Input(topic, self.partition, offset, value, stale)
        return self._decide(source, control or self.control)

    def tick(self, ahead_us: int = 0) -> Decision:
        """Time passes, and one deadline is acted on if one is due."""
        self.now += STEP_US + ahead_us
        return self._decide(Tick(self.partition, self.now), self.control)

    def roll_back(self, agent: str = AGENT, **to: object) -> Decision:
        """An operator orders an agent back (`cut`, `at`, `undoes`), and the partition takes the order in."""
        control = self.control_event("agent.rolled_back", agent_id=agent, why="a test", **to)
        return self.restore(control.head)

    def restore(self, event: int) -> Decision:
        """The partition takes in an order of control's: its own ledger is folded up to the cut, as the loop does."""
        order = next(o for o in orders_in(self.controls) if o.event == event)
        fold = AgentFold(self.partition, order.agent_id)
        cuts = Cuts([order], self.partition, self.state.partitions)
        for record in self.records:
            one = read(record)
            h = one.header
            fold.state.seq = h.seq
            cuts.before(fold.state, h.decided_at)
            if fold.wants(h.seq, h.agent_id, h.decided_at, h.stage):
                fold.take(from_header(h, one.facts))
        self.now += STEP_US
        fold.state.seq = len(self.records)
        cuts.before(fold.state, self.now)
        self.inputs["rollback"] = cuts.values
        decision = self._decide(Tick(self.partition, self.now, order=event), self.control)
        del self.inputs["rollback"]
        return decision

    def skip(self, topic: str, count: int = 1) -> None:
        """Leave offsets out, as the markers of the senders' transactions do."""
        self.next_offset[topic] += count

    # -- what agents, channels, executors and people send -------------------------------------------------------

    def new_id(self, prefix: str = "i") -> str:
        """A fresh id."""
        self._ids += 1
        return f"{prefix}-{self._ids}"

    def open_session(self, session: str = SESSION, agent: str = AGENT, *, user: str = "person-1") -> Decision:
        """A channel opens a session."""
        message = r.Message(self.new_id("m"), agent, session, "session.open", self.now, "pay my rent", user)
        return self.feed("messages", message)

    def say(self, text: str, session: str = SESSION, agent: str = AGENT) -> Decision:
        """The user says something."""
        message = r.Message(self.new_id("m"), agent, session, "session.user_said", self.now, text=text)
        return self.feed("messages", message)

    def close_session(self, session: str = SESSION, agent: str = AGENT) -> Decision:
        """A channel closes a session."""
        return self.feed("messages", r.Message(self.new_id("m"), agent, session, "session.close", self.now))

    def intent(
        self, tool: str = "desk.read", arguments: dict[str, object] | bytes | None = None, *, agent: str = AGENT,
        session: str = SESSION, intent_id: str = "", kind: str = "tool_call", deadline_at: int | None = None,
    ) -> r.Intent:  # fmt: skip
        """An intent, not sent."""
        raw = arguments if isinstance(arguments, bytes) else orjson.dumps(arguments or {})
        return r.Intent(intent_id or self.new_id(), agent, session, kind, tool, raw, self.now, deadline_at)

    def call(
        self, tool: str = "desk.read", arguments: dict[str, object] | None = None, **more: object
    ) -> Decision:
        """An agent asks for a tool call."""
        return self.feed("intents", self.intent(tool, arguments, **more))  # type: ignore[arg-type]

    def receipt(
        self, dispatch: r.Dispatch, kind: str, *, attempt: int | None = None, topic: str = "receipts", **more: object
    ) -> Decision:  # fmt: skip
        """A receipt of a dispatch: `claimed`, `finished` or `failed`."""
        record = r.Receipt(
            dispatch.dispatch_id, dispatch.intent_id, dispatch.agent_id, dispatch.session_id, kind,
            dispatch.attempt if attempt is None else attempt, "executor-1", self.now, 0 if kind == "claimed" else self.now,
        )  # fmt: skip
        return self.feed(topic, replace(record, **more))

    def claim(self, dispatch: r.Dispatch) -> Decision:
        """An executor claims."""
        return self.receipt(dispatch, "claimed")

    def finish(self, dispatch: r.Dispatch, result: bytes = b'{"ok":true}') -> Decision:
        """Claim where the class needs it, and finish."""
        if dispatch.tool_class != "read_only":
            self.claim(dispatch)
        return self.receipt(dispatch, "finished", result=result)

    def hand_off(
        self, to: str, session: str, *, agent: str = AGENT, by: str = SESSION, goal: str = "go on", **terms: object
    ) -> Decision:  # fmt: skip
        """An agent hands work on; what goes to `transfers` is not delivered."""
        raw = orjson.dumps({"agent": to, "session": session, **terms})
        intent = self.intent("", raw, agent=agent, session=by, kind="handoff")
        return self.feed("intents", replace(intent, goal=goal))

    def deliver(self, transfer: r.Transfer | None = None) -> Decision:
        """The last transfer, or this one, arrives. Only for a ledger of one partition."""
        return self.feed("transfers", transfer or self.transfers[-1])

    def review(
        self, held: Decision, verdict: str = "approve", *, digest: bytes | None = None, person: str = PERSON,
        arguments: bytes | None = None,
    ) -> Decision:  # fmt: skip
        """A person's word on a held call."""
        return self.feed(
            "reviews", self.word(held, verdict, digest=digest, person=person, arguments=arguments)
        )

    def word(
        self, held: Decision, verdict: str = "approve", *, digest: bytes | None = None, person: str = PERSON,
        arguments: bytes | None = None,
    ) -> r.Review:  # fmt: skip
        """A review, not sent, of what the decision left held."""
        outcome = held.outcomes[-1]
        facts = outcome.facts
        assert isinstance(facts, r.HoldFacts | r.ReviewFacts)
        return r.Review(
            self.new_id("r"), outcome.origin.agent_id, outcome.origin.intent_id, verdict,
            facts.action_digest if digest is None else digest, person, self.now, "because", outcome.origin.release,
            arguments,
        )  # fmt: skip

    def everyday(self, rounds: int = 1) -> None:
        """A bit of everything: every class, every way an intent ends, duplicates, garbage, ticks."""
        for n in range(rounds):
            session = f"s-{n}"
            self.open_session(session)
            self.say("please", session)
            for tool in ("desk.read", "desk.set", "desk.look", "desk.pay"):
                self.finish(self.call(tool, {"value": str(n)}, session=session).dispatches[0])
            self.call("desk.never", session=session)
            self.call("desk.pay", {"value": "no"}, session=session)
            self.call("desk.pay", {"value": 7}, session=session)
            self.call("no.such.tool", session=session)
            twice = self.intent("desk.read", {"value": "twice"}, session=session)
            self.finish(self.feed("intents", twice).dispatches[0])
            self.feed("intents", twice)
            self.feed("intents", replace(twice, arguments=b'{"value":"other"}'))
            self.feed("intents", b"garbage")
            self.review(self.call("desk.ask", session=session))
            self.review(self.call("desk.ask", session=session), "reject")
            wire = self.call("desk.wire", {"value": str(n)}, session=session)
            self.review(wire)
            edited = self.review(wire, person="person-3", arguments=b'{"value":"less"}')
            self.review(wire, person="person-4")
            self.finish(self.review(edited).dispatches[0])
            local = self.call("desk.local", session=session)
            o = local.outcomes[0].origin
            done = r.Receipt(
                b"", o.intent_id, AGENT, session, "finished", 1, "agent", self.now, self.now, b"{}"
            )
            self.feed("intents", replace(done, dispatch_id=local.outcomes[-2].event_id))
            self.receipt(self.dispatches[0], "finished", result=b"{}")
            doubt = self.call("desk.pay", {"value": "lost"}, session=session).dispatches[0]
            self.claim(doubt)
            self.call("desk.read", session=session)
            for _ in range(8):
                self.tick(10_000_000)
            self.receipt(doubt, "finished", result=b"{}")
            self.close_session(session)
