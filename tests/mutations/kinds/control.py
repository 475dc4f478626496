"""The control ledger: who changed what decides, and whether they were permitted to."""

from __future__ import annotations

from dataclasses import replace

import rfc8785
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import AGENT, Event, Record, release
from tests.mutations import scenes
from tests.mutations.registry import kind
from tests.mutations.scenes import OLGA, Scene
from tests.signed_driver import secret_of

KEY = "operator:olga"
OTTO, OTTOS = "otto", "operator:otto"
SECOND = {"digest": release(edition="2").digest}


@kind(
    "a control event of whoever can write the topic, unsigned", "authority", scene=scenes.signed, control=True
)
def unsigned(scene: Scene) -> int:
    return scene.write_control("agent.suspended", OLGA, agent_id=AGENT)


@kind(
    "a control event under an operator's name and another's key",
    "authority",
    scene=scenes.signed,
    control=True,
)
def forged_signature(scene: Scene) -> int:
    return scene.write_control("agent.suspended", OLGA, KEY, secret_of("mallory"), agent_id=AGENT)


@kind("an operator deploys alone what takes two people", "authority", scene=scenes.signed, control=True)
def alone(scene: Scene) -> int:
    return scene.write_control("release.deployed", OLGA, KEY, secret_of(KEY), **SECOND)


@kind(
    "a release is deployed by one whom `control.cedar` does not permit it",
    "authority",
    scene=scenes.signed,
    control=True,
)
def not_permitted(scene: Scene) -> int:
    return scene.write_control("release.deployed", OTTO, OTTOS, secret_of(OTTOS), **SECOND)


@kind(
    "a repartition is begun by one whom `control.cedar` does not permit it",
    "authority",
    scene=scenes.signed,
    control=True,
)
def repartition_not_permitted(scene: Scene) -> int:
    return scene.write_control(
        "generation.begun", OTTO, OTTOS, secret_of(OTTOS), number=1, log_id="07" * 16, partitions=3
    )


@kind("a sentinel does what no alarm asks for", "authority", control=True)
def sentinel(scene: Scene) -> int:
    return scene.write_control("quarantine.added", "sentinel", scope="agent", value=AGENT, why="")


@kind("observing instead of enforcing is set by nobody's right", "authority", control=True)
def mode(scene: Scene) -> int:
    return scene.write_control("mode.set", "person-5", scope="environment", value="test", mode="observe")


@kind(
    "a signed control event is written once more at another place",
    "authority",
    scene=scenes.signed,
    control=True,
)
def replayed(scene: Scene) -> int:
    scene.change_control(lambda events: [*events, events[-1]])
    return len(scene.control) - 1


@kind("a signed control event is edited", "authority", scene=scenes.signed, control=True)
def edited(scene: Scene) -> int:
    def change(events: list[Event]) -> list[Event]:
        body = rfc8785.dumps({"scope": "tool", "value": "desk.pay", "why": ""})
        return [*events[:-1], replace(events[-1], facts=replace(events[-1].facts, body=body))]  # type: ignore[type-var]

    scene.change_control(change)
    return len(scene.control) - 1


@kind("a deployment is left out of control", "control_head")
def deployment_left_out(scene: Scene) -> int:
    scene.change_control(lambda events: [e for e in events if e.header.seq != len(events) - 1])
    return next(i for i, e in enumerate(scene.events()) if e.header.control_head == len(scene.control))


@kind(
    "a control event is dropped",
    "dense",
    also=("chain", "control_head", "approval"),
    rechained=False,
    control=True,
)
def dropped(scene: Scene) -> int:
    del scene.control[2]
    return 2


@kind("control begins with another event than its genesis", "genesis", control=True, also=("control_head", "readable", "log_id", "event_id", "inputs", "release", "partition", "approval", "non_omission"))  # fmt: skip
def no_genesis(scene: Scene) -> int:
    scene.change_control(lambda events: events[1:])
    return 0


@kind("the bytes of a release that decided are gone, or others", "release", control=True)
def release_gone(scene: Scene) -> int:
    del scene.rules[release(edition="2").digest]
    return len(scene.control) - 1


@kind("facts of a control event are edited", "facts_hash", rechained=False, control=True)
def facts(scene: Scene) -> int:
    outcome = codec.decode_as(r.Outcome, scene.control[1].value)
    said = codec.decode_as(r.ControlFacts, outcome.facts)
    scene.control[1] = Record(
        2, codec.encode(replace(outcome, facts=codec.encode(replace(said, who="somebody"))))
    )
    return 1
