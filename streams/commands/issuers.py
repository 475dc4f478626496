"""`sluicegate issuers add | refresh | list | remove`: whose tokens say for whom a session is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control.tokens import algorithm_of
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.issuers import add_issuer, read_jwks, refresh_issuers, remove_issuer
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys import oidc
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

issuers = typer.Typer(help="Whose tokens say for whom a session is.", no_args_is_help=True)

IssuerName = Annotated[str, typer.Argument(help="the tokens' `iss`, such as https://login.example.com")]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(issuers, name="issuers")


@issuers.command("add")
def issuers_add(
    issuer: IssuerName,
    audience: Annotated[str, typer.Option(help="must be among the tokens' `aud`")],
    jwks: Annotated[
        Path | None,
        typer.Option(
            "--jwks", help="a file with the issuer's public keys, a JWKS; else it is asked for them"
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="put before `sub`, so that two issuers name nobody alike")] = "",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Register an issuer, or replace its keys, e.g. `sluicegate issuers add https://login.example.com --audience gate`.

    Its keys are those it publishes (OpenID Connect discovery, https), `issuers refresh` takes up newer ones. With --jwks nothing is
    ever fetched: rotate by adding it again with the new file. EdDSA, ES256 and RS256.
    """
    found = asyncio.run(oidc.fetch(issuer)) if jwks is None else read_jwks(jwks)
    settings = attach(Settings.from_env())
    head = asyncio.run(
        add_issuer(
            settings,
            Keys(settings.home),
            issuer,
            audience,
            found,
            prefix,
            why,
            discover=jwks is None,
            dry_run=dry_run,
        )
    )
    count = len(found)
    text = f"would register `{issuer}` with {count} key(s)" if dry_run else f"registered `{issuer}` with {count} key(s) as control event {head}"  # fmt: skip
    console().print(text, markup=False)


@issuers.command("refresh")
def issuers_refresh(
    issuer: Annotated[
        str, typer.Argument(help="one of them; default: all that were added without --jwks")
    ] = "",
    why: Why = "its keys changed",
    dry_run: DryRun = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take up the keys that issuers publish now, e.g. `sluicegate issuers refresh`: for whom a session is goes by these.

    The monitor does so about once an hour by itself (docs/identity.md). One that cannot be asked keeps the keys it has; exit code 1 says so.
    """
    settings = attach(Settings.from_env())
    rows = asyncio.run(refresh_issuers(settings, Keys(settings.home), issuer, why, dry_run=dry_run))
    show(("issuer", "keys", "state"), rows, output)
    if any(state.startswith("kept") for _, _, state in rows):
        raise typer.Exit(1)


@issuers.command("list")
def issuers_list(output: OutputOption = Format.TABLE) -> None:
    """List issuers and their keys, e.g. `sluicegate issuers list -o json`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    rows = [
        (
            i.issuer,
            i.audience,
            i.prefix,
            " ".join(algorithm_of(json.loads(k)) for k in i.keys),
            "asked" if i.discover else "file",
        )
        for i in control.issuers.values()
    ]
    show(("issuer", "audience", "prefix", "keys", "from"), sorted(rows), output)


@issuers.command("remove")
def issuers_remove(issuer: IssuerName, why: Why = "", dry_run: DryRun = False) -> None:
    """Believe an issuer no more; open sessions stay, e.g. `sluicegate issuers remove https://login.example.com`."""
    settings = attach(Settings.from_env())
    head = asyncio.run(remove_issuer(settings, Keys(settings.home), issuer, why, dry_run=dry_run))
    text = f"would remove `{issuer}`" if dry_run else f"removed `{issuer}` as control event {head}"
    console().print(text, markup=False)
