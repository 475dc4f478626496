"""`sluicegate release attest` where a release ran, and `sluicegate promote` where it shall run next."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control import attestation
from sluicegate.processors.control.policy import OPERATOR
from sluicegate.processors.releases import file as release_file
from sluicegate.processors.releases.file import digest_of
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.control import DryRun, Why, change_now, say
from sluicegate.streams.commands.output import bars, console
from sluicegate.streams.commands.release import release
from sluicegate.streams.control import attest, deployments, operations
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import default_path, operator
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

MAX_FILE_BYTES = 96 * 1024 * 1024
"""An attestation with the largest release in it."""


@release.command("attest")
def release_attest(
    digest: Annotated[str, typer.Argument(help="the digest (or its beginning) or name of a published release; what is deployed if left out")] = "",
    file: Annotated[Path, typer.Option("-o", "--output", help="the file to write")] = Path("attestation.json"),
    key: Annotated[Path | None, typer.Option("--key", help="who signs; else SLUICEGATE_OPERATOR_KEY, else <home>/keys/operator.jwk")] = None,
    why: Why = "",
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Sign that a release ran here: how long, how many sessions and intents, e.g. `sluicegate release attest -o promo.json`.

    The file holds the statement, the signature and the release itself: it is all that travels to the next environment, where
    `sluicegate promote` takes it. What it says is read from the ledger, and who signed it stands on control.
    """
    settings = attach(Settings.from_env())
    named = os.environ.get("SLUICEGATE_OPERATOR_KEY", "").strip()
    signer = key_files.load(key or (Path(named).expanduser() if named else default_path(settings.home)))
    control = asyncio.run(control_log.read(settings)).control
    found = deployments.find(control, digest) if digest else control.deployed
    known = control.keys.get(signer.kid)
    if control.signing == "signed" and (
        known is None or known.role != OPERATOR or known.public != signer.public
    ):
        raise Terminal(
            f"key `{signer.kid}` is no valid operator's or attestor's of `{control.env}`, give another --key"
        )
    with bars("reading (records)") as on_start:
        made, said = asyncio.run(attest.attest(settings, found, signer, on_start))
    about = f"{deployments.named(control, found)}: {said['sessions']} sessions and {said['intents']} intents in `{control.env}`, {said['refused']} refused"
    if dry_run:
        console().print(f"would attest {about}", markup=False)
        return
    body: dict[str, object] = {"digest": found, "payload": made["payload"], "kid": signer.kid}
    head = asyncio.run(
        control_log.append(
            settings, Keys(settings.home), [("release.vouched", body)], who=operator(), why=why
        )
    )
    file.write_text(json.dumps(made) + "\n", "utf-8")
    console().print(f"attested {about} (control event {head}), signed by {signer.kid}: {file}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def promote(
        file: Annotated[
            Path, typer.Argument(help="what `sluicegate release attest` wrote in the other environment")
        ],
        weight: Annotated[
            str, typer.Option("--canary", help="begin a canary of this share instead, e.g. 10%")
        ] = "",
        now: Annotated[bool, typer.Option("--now", help="for open sessions, too")] = False,
        why: Why = "",
        dry_run: DryRun = False,
    ) -> None:
        """Put the very release that ran elsewhere into force here, e.g. `sluicegate promote promo.json --why "a week in staging"`.

        The signature has to be of a key that is registered here for the role `attestor`, and the release's digest the one that
        was signed. From then on it counts as attested: `context.attested` in `control.cedar`.
        """
        settings = attach(Settings.from_env())
        body, data = _read(file)
        say(
            change_now(
                _plan(settings, body, data, weight, now=now, store=not dry_run), why, dry_run, settings
            ),
            dry_run,
        )


def _read(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The event's body, and the files of the release that came along."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is larger than any")
        body, data = attestation.read(file.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = (error.strerror or "").lower() if isinstance(error, OSError) else error
        raise Terminal(
            f"`{file}` is no attestation ({said}), make one with `sluicegate release attest`"
        ) from error
    if data is None:
        raise Terminal(f"`{file}` brings no release, make it with `sluicegate release attest`")
    return body, release_file.unpack(data)


def _plan(
    settings: Settings, body: dict[str, str], files: dict[str, str], weight: str, *, now: bool, store: bool
) -> deployments.Plan:
    """Published, attested, and in force. What the signature is about is looked at before anything is stored."""
    row: dict[str, object] = dict(body)
    control = asyncio.run(control_log.read(settings)).control
    found = attestation.check(replace(control, at=control_log.clock(control)), row)
    if isinstance(found, str):
        raise Terminal(f"the attestation is not taken: {found}")
    if digest_of(files) != found[0]:
        raise Terminal(
            f"the release in the file is {digest_of(files)}, and {found[0]} is what ran: it was changed on its way"
        )
    _, published = asyncio.run(operations.bytes_in(settings, files, store=store))
    before = [published, (attestation.KIND, row)]
    if weight:
        return deployments.start_canary(before, found[0], weight, auto=True)
    return deployments.deploy(before, found[0], now=now)
