"""`sluicegate keys new | add | create | list | revoke`: which keys sign for whom."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control.api_keys import AGENT, DEFAULT_RATE_PER_S, MAX_RATE_PER_S, SCOPES
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.commands.spans import span_us
from sluicegate.streams.control import api_keys, identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

keys = typer.Typer(help="Make, register, list and revoke the keys that sign.", no_args_is_help=True)

Principal = Annotated[str, typer.Argument(help="whose key: an agent, a person, or a name such as `chat`")]
Role = Annotated[str, typer.Option(help=", ".join(identities.ROLES))]
Kid = Annotated[str, typer.Option(help="the key's id, else one is made up")]
Valid = Annotated[str, typer.Option("--valid", help="for how long, such as `90d`; else until revoked")]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys, name="keys")


@keys.command("new")
def keys_new(
    principal: Principal,
    role: Role = "agent",
    kid: Kid = "",
    file: Annotated[Path | None, typer.Option("--file", help="else <home>/keys/<kid>.jwk")] = None,
    valid: Valid = "",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Make a key and register it, e.g. `sluicegate keys new support-7 --role agent`.

    The private half goes to a file only its owner can read; it is never printed and never on Kafka.
    """
    one_of("role", role, identities.ROLES)
    valid_us = span_us(valid) if valid else 0
    settings = attach(Settings.from_env())
    made = asyncio.run(
        identities.new_key(
            settings, Keys(settings.home), principal, role, why, kid=kid, path=file,
            valid_us=valid_us, dry_run=dry_run,
        )
    )  # fmt: skip
    if dry_run:
        console().print(f"would make key {made.kid} in {made.path}", markup=False)
    else:
        text = f"key {made.kid} in {made.path}, control event {made.head}"
        console().print(text + _waiting(made.waits), markup=False)


@keys.command("add")
def keys_add(
    kid: Annotated[str, typer.Argument(help="the key's id")],
    principal: Principal,
    public: Annotated[str, typer.Option("--public", help="64 hex digits, or a JWK file")],
    role: Role = "agent",
    valid: Valid = "",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Register a public key whose private half is elsewhere, e.g. `sluicegate keys add k-1 support-7 --public k.jwk`."""
    one_of("role", role, identities.ROLES)
    valid_us = span_us(valid) if valid else 0
    raw = key_files.public_of(public)
    settings = attach(Settings.from_env())
    head, waits = asyncio.run(
        identities.add_key(
            settings, Keys(settings.home), kid, principal, role, raw, why,
            valid_us=valid_us, dry_run=dry_run,
        )
    )  # fmt: skip
    done = "proposed" if waits else "registered"
    text = f"would register key `{kid}`" if dry_run else f"{done} key `{kid}` as control event {head}"
    console().print(text + _waiting(waits), markup=False)


@keys.command("create")
def keys_create(
    agent: Annotated[str, typer.Argument(help="the agent that this key stands for")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="agent, channel or person; may be repeated")
    ] = None,
    rate: Annotated[
        int, typer.Option("--rate", help="requests a second", min=1, max=MAX_RATE_PER_S)
    ] = DEFAULT_RATE_PER_S,
    valid: Valid = "",
    why: Why = "",
) -> None:
    """Make an API key for the gateway, e.g. `sluicegate keys create support-7 --valid 90d`.

    The key is printed once and kept nowhere. `--scope channel` lets it say what users said: not for an untrusted agent.
    """
    for one in scope or ():
        one_of("scope", one, SCOPES)
    valid_us = span_us(valid) if valid else 0
    settings = attach(Settings.from_env())
    made = asyncio.run(
        api_keys.create(
            settings, Keys(settings.home), agent, scope or [AGENT], why, rate_per_s=rate,
            valid_us=valid_us,
        )
    )  # fmt: skip
    done = "proposed as" if made.waits else "as"
    said = f"key `{made.key_id}` {done} control event {made.head}, shown this once{_waiting(made.waits)}:"
    console().print(said, markup=False)
    print(made.token)


@keys.command("list")
def keys_list(
    principal: Annotated[str, typer.Argument(help="only this one's")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """List keys and whether they are valid now, e.g. `sluicegate keys list support-7`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    now = time.time_ns() // 1000
    rows = [
        (k.kid, k.principal, k.role, k.alg, identities.state_of(k, now), _until(k.not_after), k.public.hex())
        for k in control.keys.values()
        if principal in ("", k.principal)
    ]
    rows += [
        (k.key_id, k.agent_id, f"api: {' '.join(k.scopes)}", "sha256", "valid" if k.not_after > now else "ended",
         _until(k.not_after), k.sha256)
        for k in control.api_keys.values()
        if principal in ("", k.agent_id)
    ]  # fmt: skip
    show(("kid", "principal", "role", "alg", "state", "until", "public"), sorted(rows), output)


@keys.command("revoke")
def keys_revoke(
    kid: Annotated[str, typer.Argument(help="the key's id")],
    after: Annotated[
        str, typer.Option(help="leave it valid for this long, such as `1h`; else it ends now")
    ] = "",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """End a key, e.g. `sluicegate keys revoke support-7.1f2e3d4c --why "laptop lost"`.

    Everything decided after this event refuses what it signed, held calls and second offers too. A key of role `checkpointer` ends
    after 10 s at the earliest, and the checkpoints that it signed before stay good.
    """
    settings = attach(Settings.from_env())
    if not after and not dry_run and kid in asyncio.run(control_log.read(settings)).control.api_keys:
        head = asyncio.run(api_keys.revoke(settings, Keys(settings.home), kid, why))
        console().print(f"API key `{kid}` ends as of control event {head}", markup=False)
        return
    head = asyncio.run(
        identities.revoke_key(
            settings, Keys(settings.home), kid, why, after_us=span_us(after) if after else 0, dry_run=dry_run
        )
    )
    ends = f"ends in {after}" if after else "ends"
    text = f"key `{kid}` would end" if dry_run else f"key `{kid}` {ends} as of control event {head}"
    console().print(text, markup=False)


def _waiting(waits: int) -> str:
    """What is still missing, where `control.cedar` asks for several people."""
    return f"; it takes {waits} people: sluicegate changes list" if waits else ""


def _until(not_after: int) -> str:
    return "" if not_after == identities.FOREVER_US else iso(not_after)
