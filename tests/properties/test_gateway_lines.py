"""Two tenants behind one gateway: whoever comes and goes, a reply reaches its own agent's askers and listeners, and nobody else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sluicegate.gateway.hub import Hub
from sluicegate.schemas import codec
from sluicegate.schemas.records import Reply
from sluicegate.streams.settings import Settings

AGENTS = [f"{tenant}-{n}" for tenant in ("north", "south") for n in range(3)]
SESSIONS = ["one", "two"]
"""Of every agent: the names are the same, so that the name alone opens nothing."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hear", "leave", "watch", "stop", "reply", "piece", "forged"]),
        st.sampled_from(AGENTS),
        st.sampled_from(SESSIONS),
    ),
    max_size=80,
)


@dataclass
class Record:
    key: bytes
    value: bytes
    offset: int


@given(steps=STEPS)
def test_a_reply_reaches_its_own_agent_and_session_only(steps: list[tuple[str, str, str]]) -> None:
    hub = Hub(Settings(env="test", home=Path("/nonexistent")))
    got: dict[tuple[str, str], list[str]] = defaultdict(list)
    expected: dict[tuple[str, str], list[str]] = defaultdict(list)
    hearing: set[str] = set()
    watching: dict[tuple[str, str], list[tuple[str, Callable[[], None]]]] = defaultdict(list)
    for number, (step, agent, session) in enumerate(steps):
        intent = f"{agent}:{number}"
        if step == "hear":
            hub.hear(agent, lambda said, mine=agent: got["reply", mine].append(said.intent_id))  # type: ignore[misc]
            hearing.add(agent)
        elif step == "leave":
            hub.leave(agent)
            hearing.discard(agent)
        elif step == "watch":
            name = f"{agent}/{session}/{number}"
            stop = hub.watch(
                agent, session, lambda o, said, mine=name: got["watch", mine].append(said.intent_id)
            )  # type: ignore[misc]
            watching[agent, session].append((name, stop))
        elif step == "stop" and watching[agent, session]:
            watching[agent, session].pop()[1]()
        elif step in ("reply", "forged"):
            # Forged: under the key of one agent, about another.
            about = AGENTS[AGENTS.index(agent) - 1] if step == "forged" else agent
            reply = Reply(bytes(16), intent, about, session, "released", "execute", "", [], 1)
            hub._tell(Record(agent.encode(), codec.encode(reply), number))  # type: ignore[arg-type]
            if step == "reply" and agent in hearing:
                expected["reply", agent].append(intent)
            for name, _ in watching[agent, session] if step == "reply" else ():
                expected["watch", name].append(intent)
        elif step == "piece":
            hub._tell_piece(agent.encode(), intent.encode())  # nobody asked for pieces: nobody gets any
    assert {k: v for k, v in got.items() if v} == {k: v for k, v in expected.items() if v}
    for watchers in watching.values():
        while watchers:
            watchers.pop()[1]()
    for agent in list(hearing):
        hub.leave(agent)
    assert not hub._told  # nothing is left behind
