"""`sluicegate topics list | create | plan`: the topics of an environment, and the rights on them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from sluicegate.schemas.errors import Retryable, WrongUsage
from sluicegate.schemas.topics import TOPICS, full_name
from sluicegate.streams import acl
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import config_of, counts, create, judge

EXIT_FOUND = 1
VISIBLE_LIMIT_S, VISIBLE_POLL_S = 15.0, 0.1

topics = typer.Typer(help="List, make and plan topics and the rights on them.", no_args_is_help=True)


class PlanFormat(StrEnum):
    """What `topics plan` prints."""

    TABLE = "table"
    ACL = "acl"
    KAFKA_ACLS = "kafka-acls"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(topics, name="topics")


@topics.command("list")
def topics_list(output: OutputOption = Format.TABLE) -> None:
    """List this environment's topics as Kafka has them, e.g. `sluicegate topics list -o json`.

    Exit code 1 when one is missing or has another number of partitions than the ledger.
    """
    settings = attach(Settings.from_env())
    found = asyncio.run(counts(settings))
    rows = judge(settings, found)
    show(("topic", "partitions", "state"), rows, output)
    if any(row[2] != "ok" for row in rows):
        raise typer.Exit(EXIT_FOUND)


@topics.command("create")
def topics_create(
    signing: Annotated[
        str, typer.Option(help="dev (unsigned) or signed; fixed for ever by the genesis; dev by default")
    ] = "",
) -> None:
    """Make what is missing, and control's genesis, e.g. `sluicegate topics create --signing signed`.

    In a signed environment also the keys of pipeline and executors, in <home>/keys/mac.json; agents and channels get
    theirs by `sluicegate keys new`. Changes nothing that exists. The number of partitions is SLUICEGATE_PARTITIONS; another one later is `topics repartition`.
    """
    from sluicegate.streams import stack

    if signing not in ("", "dev", "signed"):
        raise WrongUsage(f"signing `{signing}` is not dev or signed, choose one")
    settings = attach(Settings.from_env())
    before = asyncio.run(counts(settings))
    asyncio.run(_create_and_wait(settings))
    control = asyncio.run(stack.prepare(settings, signing))
    made = sum(full_name(settings.space, t.name) not in before for t in TOPICS)
    console().print(
        f"{made} topic(s) made, {len(TOPICS) - made} were there; log {control.log_id.hex()} with "
        f"{control.partitions} partitions, control event {control.head}",
        markup=False,
    )


@topics.command("plan")
def topics_plan(
    form: Annotated[
        PlanFormat, typer.Option("--format", help="table, acl (JSON) or kafka-acls (commands)")
    ] = PlanFormat.TABLE,
    principal: Annotated[
        list[str] | None,
        typer.Option("--principal", help="role=User:name, else User:<env>-<role>; may be repeated"),
    ] = None,
) -> None:
    """What somebody else would have to make, e.g. `sluicegate topics plan --format kafka-acls`.

    Never connects to Kafka.
    """
    settings = Settings.from_env()
    if form is PlanFormat.TABLE:
        names = list(config_of(TOPICS[0]))
        rows = [
            (
                full_name(settings.space, t.name),
                settings.partitions if t.keyed else 1,
                *(config_of(t).get(name, "") for name in names),
            )
            for t in TOPICS
        ]
        show(("topic", "partitions", *names), rows, Format.TABLE)
        return
    rights = acl.plan(settings.env, acl.parse_principals(principal or []), settings.generation or 0)
    if form is PlanFormat.ACL:
        print(json.dumps([asdict(right) for right in rights], indent=2))
    else:
        print("\n".join(right.line() for right in rights))


async def _create_and_wait(settings: Settings) -> None:
    """Make what is missing, and wait until the broker shows it: it acknowledges a topic before it does."""
    await create(settings)
    deadline = time.monotonic() + VISIBLE_LIMIT_S
    while len(await counts(settings)) < len(TOPICS):
        if time.monotonic() > deadline:
            raise Retryable(f"kafka does not show the new topics after {VISIBLE_LIMIT_S:.0f} s, try again")
        await asyncio.sleep(VISIBLE_POLL_S)
