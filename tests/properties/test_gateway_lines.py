"""Two tenants behind one gateway: whoever comes and goes, a reply reaches its own agent's askers and listeners, and nobody else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sluicegate.gateway.hub import Hub
from sluicegate.streams.settings import Settings

AGENTS = [f"{tenant}-{n}" for tenant in ("north", "south") for n in range(3)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["hear", "leave", "watch", "stop", "reply", "piece"]), st.sampled_from(AGENTS)),
    max_size=60,
)


@dataclass
class Record:
    key: bytes
    value: bytes
    offset: int


@given(steps=STEPS)
def test_a_reply_reaches_its_own_agent_only(steps: list[tuple[str, str]]) -> None:
    hub = Hub(Settings(env="test", home=Path("/nonexistent")))
    got: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    expected: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    hearing: set[str] = set()
    watching: dict[str, list[tuple[str, object]]] = defaultdict(list)
    for number, (step, agent) in enumerate(steps):
        value = f"{agent}:{number}".encode()
        if step == "hear":
            hub.hear(agent, lambda key, said, mine=agent: got["reply", mine].append(said))  # type: ignore[misc]
            hearing.add(agent)
        elif step == "leave":
            hub.leave(agent)
            hearing.discard(agent)
        elif step == "watch":
            name = f"{agent}/{number}"
            stop = hub.watch(agent, lambda p, o, said, mine=name: got["watch", mine].append(said))  # type: ignore[misc]
            watching[agent].append((name, stop))
        elif step == "stop" and watching[agent]:
            watching[agent].pop()[1]()  # type: ignore[operator]
        elif step == "reply":
            hub._tell(0, Record(agent.encode(), value, number))  # type: ignore[arg-type]
            if agent in hearing:
                expected["reply", agent].append(value)
            for name, _ in watching[agent]:
                expected["watch", name].append(value)
        elif step == "piece":
            hub._tell_piece(agent.encode(), value)  # nobody asked for pieces: nobody gets any
    assert {k: v for k, v in got.items() if v} == {k: v for k, v in expected.items() if v}
    for watchers in watching.values():
        while watchers:
            watchers.pop()[1]()  # type: ignore[operator]
    for agent in list(hearing):
        hub.leave(agent)
    assert not hub._told  # nothing is left behind
