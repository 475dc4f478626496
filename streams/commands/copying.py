"""`sluicegate replay --mode copy`: records of a topic into another one. Called by `replay.py`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from sluicegate.processors.replay.copies import ANEW, Target, refusal
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.commands.output import Format, bars, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.replay.copying import Told, copy
from sluicegate.streams.replay.replay import How
from sluicegate.streams.replay.window import Window
from sluicegate.streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say of the target."""

    into: str
    into_env: str
    name: str
    create: bool


def target_of(settings: Settings, topic: str, asked: Asked) -> Target:
    """Where it goes. Raises `WrongUsage` for where it may not."""
    env, into = asked.into_env or settings.env, asked.into or topic
    if why := refusal(settings.env, topic, env, into):
        raise WrongUsage(why)
    anew = env != settings.env and into in ANEW
    return Target(env, into, asked.name or f"{settings.env}.{topic}", anew)


def run_copy(window: Window, asked: Asked, how: How, output: Format) -> None:
    """Copy and say what came of it."""
    target = target_of(Settings.from_env(), window.topic, asked)
    settings = attach(Settings.from_env())
    with bars("copying (offsets)") as on_start:
        told = asyncio.run(
            copy(
                settings, window, target, only=how.only, resume=how.resume, rate=how.rate, create=asked.create,
                on_start=on_start,
            )
        )  # fmt: skip
    if output in (Format.JSON, Format.JSONL):
        print(json.dumps(told.as_json(), indent=2 if output is Format.JSON else None))
        return
    show(("partition", "copied"), sorted(told.partitions.items()), output, f"{told.topic} into {told.into}")
    if output is Format.TABLE:
        console().print(_said(told), markup=False)


def _said(told: Told) -> str:
    parts = [f"{told.copied:,} copied"]
    if told.left_out:
        parts.append(f"{told.left_out:,} left out")
    if told.unreadable:
        parts.append(f"{told.unreadable:,} unreadable and not copied")
    if told.resumed:
        parts.append("gone on from the position file")
    return f"{', '.join(parts)}, in {told.seconds:.1f} s"
