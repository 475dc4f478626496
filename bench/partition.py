"""A ledger partition in memory for benches that ask what is decided, not how fast: decide, fold, and call the tool at once.

    gate = Partition(release_folder, agents, tool)
    gate.open("s-1", agent, "pay my rent")
    answer = gate.call("s-1", "banking.send_money", {...})       # Answer(status="held", ...)
    answer = gate.approve(answer)

The same `decide` and `apply` as the workers run, fed with the same records; what is left out is Kafka, the sealing of
content and the clock. Never used by the product. Next: `bench/agentdojo.py`, `tests/driver.py` (with the ledger's bytes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Input
from sluicegate.processors.outcomes import Decision, Origin, Outcome, event_id
from sluicegate.processors.pipeline import decide
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import PartitionState, apply
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams.control.releases import read_folder

T0 = 1_795_000_000_000_000
"""Microseconds; 2026-11-18. Time moves by `STEP_US` with every input, so that a run repeats byte for byte."""
STEP_US = 1_000
LOG_ID = bytes(range(16))
REVIEWER = "bench-approver"

Tool = Callable[[str, str, dict[str, object]], object]
"""(session, tool, arguments) -> a JSON value; raises `ToolError`."""


class ToolError(Exception):
    """The tool failed: its first line becomes the receipt's error."""


@dataclass
class Answer:
    """What a call led to.

    Attributes:
        status: of the last outcome: released, refused, held, failed, ...
        held: the call was shown to a person, whatever they said.
        policies: what decided, from the outcome that refused or held it, else from the permit.
        grounded: protected argument -> (where its value comes from, label), as on the ledger.
    """

    session: str
    intent_id: str
    tool: str
    arguments: dict[str, object]
    status: str
    reason: str = ""
    detail: str = ""
    held: bool = False
    policies: list[str] = field(default_factory=list)
    grounded: dict[str, tuple[str, str]] = field(default_factory=dict)
    result: object = None
    digest: bytes = b""


class Partition:
    """One partition under one release, with the tools in this process."""

    def __init__(self, folder: Path, agents: list[str], role: str, tool: Tool) -> None:
        self.release = compile_release(read_folder(folder))
        self._tool = tool
        self._now = T0
        self._offsets: Counter[str] = Counter()
        self._inputs: dict[tuple[str, int], bytes] = {}
        self._ids = 0
        self._agent_of: dict[str, str] = {}
        self._library = Library()
        rows = [{"agent_id": a, "tenant": "bench", "team": role, "roles": [role]} for a in agents]
        self.control = _control(self.release, rows)
        self._state = PartitionState(LOG_ID, 0)
        origin = Origin("", "", "", "", SYSTEM, self._now, "", 0, 0, self.control.head, "", ENGINE)
        facts = r.GenesisFacts(LOG_ID, 1, "bench", "dev")
        apply(
            self._state,
            Outcome(origin, event_id(LOG_ID, 0, 0, "genesis", 0), "genesis", "genesis", "", facts),
        )

    def open(self, session: str, agent: str, goal: str) -> None:
        """A channel opens a session for its user."""
        self._agent_of[session] = agent
        self._feed(
            "messages",
            r.Message(self._id(), agent, session, "session.open", self._now, goal, on_behalf_of="user"),
        )

    def say(self, session: str, text: str) -> None:
        """The channel reports what the user said."""
        self._feed(
            "messages",
            r.Message(
                self._id(), self._agent_of[session], session, "session.user_said", self._now, text=text
            ),
        )

    def close(self, session: str) -> None:
        """The channel closes a session."""
        self._feed(
            "messages", r.Message(self._id(), self._agent_of[session], session, "session.close", self._now)
        )

    def call(self, session: str, tool: str, arguments: dict[str, object]) -> Answer:
        """An agent asks for a call; the tool runs here if it is permitted."""
        intent_id = self._id()
        intent = r.Intent(
            intent_id,
            self._agent_of[session],
            session,
            "tool_call",
            tool,
            orjson.dumps(arguments),
            self._now,
            None,
        )
        return self._finish(Answer(session, intent_id, tool, arguments, ""), self._feed("intents", intent))

    def approve(self, held: Answer) -> Answer:
        """A person agrees to a held call."""
        review = r.Review(
            self._id(),
            self._agent_of[held.session],
            held.intent_id,
            "approve",
            held.digest,
            REVIEWER,
            self._now,
            "bench",
            self.release.digest,
        )
        return self._finish(replace(held), self._feed("reviews", review))

    # -- inside -------------------------------------------------------------------------------------------------

    def _finish(self, answer: Answer, decision: Decision) -> Answer:
        last = decision.outcomes[-1]
        answer.status, answer.reason = last.status, last.reason
        answer.detail = decision.replies[-1].for_developer if decision.replies else ""
        for outcome in decision.outcomes:
            answer.policies = outcome.policies or answer.policies
            if isinstance(outcome.facts, r.StageFacts | r.HoldFacts) and getattr(
                outcome.facts, "grounded_arguments", None
            ):
                f = outcome.facts
                places = zip(f.grounded_from, f.grounded_labels, strict=True)
                answer.grounded = dict(zip(f.grounded_arguments, places, strict=True))
        if last.status == "held":
            answer.held, answer.digest = True, last.facts.action_digest  # type: ignore[attr-defined]
        for dispatch in decision.dispatches:
            self._run(answer, dispatch)
        return answer

    def _run(self, answer: Answer, dispatch: r.Dispatch) -> None:
        receipt = r.Receipt(
            dispatch.dispatch_id, dispatch.intent_id, dispatch.agent_id, dispatch.session_id, "claimed",
            dispatch.attempt, "bench", self._now, 0,
        )  # fmt: skip
        if dispatch.tool_class != "read_only":
            self._feed("receipts", receipt)
        try:
            result = self._tool(dispatch.session_id, dispatch.tool, orjson.loads(dispatch.arguments))
            receipt = replace(receipt, kind="finished", result=orjson.dumps(result))
        except ToolError as error:
            receipt = replace(receipt, kind="failed", error_class="crashed", error=str(error)[:300])
        decision = self._feed("receipts", replace(receipt, finished_at=self._now))
        last = decision.outcomes[-1]
        answer.status, answer.reason = last.status, last.reason
        answer.detail = decision.replies[-1].for_developer
        answer.result = orjson.loads(receipt.result) if last.status == "released" and receipt.result else None

    def _feed(self, topic: str, record: object) -> Decision:
        value = codec.encode(record)
        offset = self._offsets[topic]
        self._offsets[topic] += 1
        self._inputs[topic, offset] = value
        self._now += STEP_US
        source = Input(topic, 0, offset, value, library=self._library)
        decision = decide(self._state, self.control, source, self._now)
        while decision.needs:
            for place in decision.needs:
                source.contents[place] = self._inputs.get(place)
            decision = decide(self._state, self.control, source, self._now)
        self._library.remember(source, decision)
        for outcome in decision.outcomes:
            apply(self._state, outcome)
        return decision

    def _id(self) -> str:
        self._ids += 1
        return f"i-{self._ids}"


def _control(release: CompiledRelease, agents: list[dict[str, object]]) -> Control:
    """Control after genesis, registration and deployment."""
    events: list[tuple[str, dict[str, object]]] = [
        ("genesis", {"log_id": LOG_ID.hex(), "env": "bench", "partitions": 1, "signing": "dev"}),
        ("agents.registered", {"agents": agents}),
        ("people.registered", {"people": [{"person_id": REVIEWER, "roles": ["reviewer"]}]}),
        ("release.published", {"digest": release.digest, "name": release.name, "version": release.version}),
        ("release.deployed", {"digest": release.digest}),
    ]
    control = Control()
    for seq, (kind, body) in enumerate(events):
        facts = r.ControlFacts(kind, "bench", "a bench", rfc8785.dumps(body))  # type: ignore[arg-type]
        control = control_fold.fold(control, seq, facts)
    control.release = release
    return control
