"""Local mode: the gate in this process, without Kafka. For unit tests, and to try a policy.

    gate = Gate.local("release/", tools={"shop.refund": lambda order, amount: {"ok": True}})
    print(gate.check("support-7", "shop.refund", {"order": "7", "amount": 900}, roles=["support"]))
    async with gate.agent("support-7", roles=["support"]) as agent, agent.session("refund order 7") as session:
        await session.call_tool("shop.refund", {"order": "7", "amount": 12})

The same `decide` and `apply` as in a worker, and the same SDK. Nothing is signed, sealed or kept; nobody outside sees it:
never for production. Next: `sdk/local_transport.py` (how the SDK comes here), `testing.py` (for pytest).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Person
from sluicegate.processors.lifecycle import ATTACHED
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.releases.rehearsal import Verdict, ask, reviewers
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay.one_partition import OnePartition
from sluicegate.processors.state import PartitionState
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import ControlFacts, HoldFacts, Review, ReviewFacts
from sluicegate.streams.client import AgentClient
from sluicegate.streams.control import operations, releases
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.in_process import now_us
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.local_transport import Clock, LocalTransport, Switchboard, told
from sluicegate.streams.settings import Settings

ENVIRONMENT = "local"
DEFAULT_TENANT = "default"


class FakeClock:
    """A clock that moves when told. Microseconds, as every time here."""

    def __init__(self, start_us: int = 0) -> None:
        self._now = start_us or now_us()

    def __call__(self) -> int:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._now += int(seconds * 1e6)


class Gate:
    """A gate in memory. Belongs to one event loop; make it with `Gate.local`."""

    def __init__(
        self, files: dict[str, str], agents: list[operations.Row], tools: Mapping[str, Callable[..., object]],
        clock: Clock, environment: str,
    ) -> None:  # fmt: skip
        self.release = compile_release(files)
        people = reviewers(self.release)
        control = Control(
            0, bytes(16), environment, 1, "dev", {}, {p.person_id: p for p in people},
            published={self.release.digest: f"{self.release.name} {self.release.version}"},
            deployed=self.release.digest, release=self.release, releases={self.release.digest: self.release},
        )  # fmt: skip
        self._ledger = OnePartition(control, PartitionState(bytes(16), 0, 1, environment))
        self._board = Switchboard(self._ledger, clock, tools)
        if agents:
            self.order("agents.registered", agents=agents)

    @classmethod
    def local(
        cls,
        release: Path | str,
        *,
        tools: Mapping[str, Callable[..., object]] | None = None,
        agents: Mapping[str, Mapping[str, object]] | None = None,
        clock: Clock = now_us,
        environment: str = ENVIRONMENT,
    ) -> Gate:
        """A gate that decides under a release folder.

        Args:
            release: the folder. Its `agents.yaml`, where there is one, says who is registered.
            tools: functions that stand for tools, by contract name; they get the arguments by name.
            agents: {id: {roles, team, tenant}} besides.
            clock: microseconds since the epoch; a `FakeClock` for tests.
            environment: as policies see it.

        Raises:
            Terminal: it is no release, or does not check.
        """
        folder = Path(release)
        rows = operations.read_agents(folder / "agents.yaml") if (folder / "agents.yaml").is_file() else []
        rows += [{"agent_id": name, **about} for name, about in (agents or {}).items()]
        return cls(releases.read_folder(folder), rows, tools or {}, clock, environment)

    # -- asking -------------------------------------------------------------------------------------------------

    def agent(
        self, agent_id: str, *, roles: Sequence[str] | None = None, team: str = "", tenant: str = DEFAULT_TENANT
    ) -> AgentClient:  # fmt: skip
        """The SDK's client of an agent, registered on the spot if it has `roles`; it speaks for the channel, too."""
        self._register(agent_id, roles, team, tenant)
        settings = Settings(env=ENVIRONMENT, home=Path(os.devnull))
        return AgentClient(agent_id, settings=settings, channel=True, transport=LocalTransport(self._board))

    def check(
        self,
        agent_id: str,
        tool: str,
        arguments: Mapping[str, Json],
        *,
        said: Sequence[str] | str = (),
        goal: str = "",
        task: Mapping[str, Json] | None = None,
        on_behalf_of: str = "",
        roles: Sequence[str] | None = None,
        team: str = "",
        tenant: str = DEFAULT_TENANT,
    ) -> Verdict:
        """What the gate would say to this call in a session of its own. Nothing is called, and nothing remembered.

        Args:
            said: what the user said before: arguments that must come from somewhere may come from there.
            goal, task: what the session is for, as a channel says it.
            roles, team, tenant: of an agent that is not registered yet.
        """
        self._register(agent_id, roles, team, tenant)
        agent = self._ledger.control.agents.get(agent_id)
        if agent is None:
            unknown = REASONS["unknown_agent"]
            return Verdict("refuse", "route", unknown.code, (), unknown.remedy, unknown.for_model)
        return ask(
            self.release, agent, tool, client_json.dumps(dict(arguments)), control=self._ledger.control,
            said=[said] if isinstance(said, str) else said, goal=goal, on_behalf_of=on_behalf_of,
            task=task,
        )  # fmt: skip

    # -- people, operators, time --------------------------------------------------------------------------------

    def approve(
        self, intent_id: str, by: str = "", *, arguments: Mapping[str, Json] | None = None, why: str = ""
    ) -> str:  # fmt: skip
        """A person agrees to a held call, as it is or with other `arguments`; the call's status after it.

        `by`: one who is registered; default: of those who have every role the release asks reviewers for, the first who
        did not agree yet. Raises `Terminal` when nothing is held under that id.
        """
        return self._word(intent_id, "approve", by, arguments, why)

    def reject(self, intent_id: str, by: str = "", *, why: str = "") -> str:
        """A person says no to a held call; the call's status after it. Raises as `approve`."""
        return self._word(intent_id, "reject", by, None, why)

    def order(self, kind: str, /, **body: object) -> None:
        """A control event, such as `gate.order("quarantine.added", scope="tool", value="shop.refund", why="a test")`.

        `agent.rolled_back` {agent_id, cut: seq | at: microseconds, why} is taken in at once; `seq` is the place in `events`.
        """
        control = self._ledger.control
        facts = ControlFacts(kind, "local", "", rfc8785.dumps(body))  # type: ignore[arg-type]
        after = control_fold.fold(control, control.head + 1, facts)
        if after.release is None:
            after.release = control.releases.get(after.deployed)
        self._ledger.control = after
        self._board.restore()

    def advance(self, seconds: float) -> int:
        """Time passes, and what is due happens; how many outcomes that made. Only with a `FakeClock`."""
        clock = self._board.clock
        if not isinstance(clock, FakeClock):
            raise Terminal("only a fake clock can be moved: pass clock=FakeClock() to `Gate.local`")
        clock.advance(seconds)
        return self._board.tick()

    @property
    def events(self) -> list[Outcome]:
        """Everything that was decided, oldest first."""
        return list(self._ledger.outcomes)

    def of(self, intent_id: str) -> list[tuple[str, str, str]]:
        """The life of an intent: (stage, status, reason) of each of its outcomes."""
        found = [o for o in self._ledger.outcomes if o.origin.intent_id == intent_id]
        return [(o.stage, o.status, o.reason) for o in found]

    def _register(self, agent_id: str, roles: Sequence[str] | None, team: str, tenant: str) -> None:
        if roles is not None:
            row = {"agent_id": agent_id, "tenant": tenant, "team": team, "roles": list(roles)}
            self.order("agents.registered", agents=[row])

    def _word(
        self, intent_id: str, verdict: str, by: str, arguments: Mapping[str, Json] | None, why: str
    ) -> str:
        found = [o for o in self._ledger.outcomes if o.origin.intent_id == intent_id and o.status != ATTACHED]
        if not found or found[-1].status != "held":
            raise Terminal(
                f"intent `{intent_id[:80]}` is not held: take the id of a `Held` nobody answered yet"
            )
        facts, origin = cast("HoldFacts | ReviewFacts", found[-1].facts), found[-1].origin
        agreed = facts.approvals if isinstance(facts, ReviewFacts) else []
        edited = None if arguments is None else client_json.dumps(dict(arguments))
        review = Review(
            uuid.uuid4().hex, origin.agent_id, intent_id, verdict, facts.action_digest, by or self._next(agreed),
            self._board.now, why, origin.release, edited,
        )  # fmt: skip
        before = len(self._ledger.outcomes)
        decisions = self._board.take("reviews", review)
        last = next(o for o in reversed(self._ledger.outcomes[before:]) if o.origin.intent_id == intent_id)
        reply = told(decisions, intent_id)
        if last.status == ATTACHED:
            raise Terminal(
                f"the word of `{review.reviewer}` changed nothing (`{last.reason}`): {reply.for_developer if reply else ''}"
            )
        return last.status

    def _next(self, agreed: Sequence[str]) -> str:
        people: Mapping[str, Person] = self._ledger.control.people
        return next((p for p in people if p not in agreed), "")
