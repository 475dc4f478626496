"""`sluicegate approvals | approvals show | approve | reject`: people's word on held calls."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Review, ReviewFacts
from sluicegate.schemas.times import iso
from sluicegate.streams import reviewing
from sluicegate.streams.commands import approvals_text as text
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operations import operator
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import pending
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

approvals = typer.Typer(
    help="List the calls that wait for people, e.g. `sluicegate approvals -o json`.",
    invoke_without_command=True,
)
COLUMNS = ("intent_id", "agent_id", "tool", "why", "age", "expires_in", "agreed", "by", "reviewers", "edited", "held_at",
           "expires_at", "session_id", "policies", "action_digest")  # fmt: skip
SHORT = 9
"""Columns of a table; the other formats have all."""

FOLLOW_S = 30.0
"""How long `approve` waits for the end of a call that goes on."""

DIGEST_HEX = 64

Intent = Annotated[str, typer.Argument(help="as `sluicegate approvals` lists it")]
Agent = Annotated[str, typer.Option("--agent", help="when several agents used the id; also faster")]
Person = Annotated[
    str, typer.Option("--as", help="you, as `sluicegate people register` knows you; else the login name")
]
Key = Annotated[
    Path | None, typer.Option("--key", help="signed environments: your key file, else yours in <home>/keys")
]
Digest = Annotated[
    str, typer.Option("--digest", help="the digest you saw: the approval is void for any other")
]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask again on a terminal")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be sent only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(approvals, name="approvals")
    app.command("approve")(approve)
    app.command("reject")(reject)


@approvals.callback()
def approvals_list(
    context: typer.Context,
    agent: Annotated[str, typer.Option("--agent", help="only this agent's")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """List calls that wait for people, those that expire first before the others, e.g. `sluicegate approvals -o json`.

    Read from the ledger itself: nothing is missing, right after a restart too.
    """
    if context.invoked_subcommand is not None:
        return
    rows = asyncio.run(_rows(attach(Settings.from_env()), agent))
    if output is Format.TABLE:
        show(COLUMNS[:SHORT], [row[:SHORT] for row in rows], output)
    else:
        show(COLUMNS, rows, output)


async def _rows(settings: Settings, agent: str) -> list[tuple[object, ...]]:
    entries = await pending.held(settings, agent=agent)
    now = time.time_ns() // 1000
    return [
        (
            e.intent_id, e.agent_id, e.tool, why, text.span(now - e.held_at), text.span(e.due_at - now),
            f"{len(e.approvals)} of {e.quorum}", " ".join(e.approvals), " or ".join(e.reviewers) or "anybody",
            bool(e.edit_topic), iso(e.held_at), iso(e.due_at), e.session_id, " ".join(e.hold_policies),
            e.action_digest.hex(),
        )
        for e, why in zip(entries, await pending.reasons(settings, entries), strict=True)
    ]  # fmt: skip


@approvals.command("show")
def approvals_show(intent: Intent, agent: Agent = "", output: OutputOption = Format.TABLE) -> None:
    """Show one held call: the exact arguments, why, and what the session did before, e.g. `sluicegate approvals show i-7`."""
    settings = attach(Settings.from_env())
    shown = asyncio.run(_load(settings, intent, agent))
    if output in (Format.JSON, Format.JSONL):
        indent = 2 if output is Format.JSON else None
        print(json.dumps(pending.as_json(shown), indent=indent, ensure_ascii=False))
    else:
        text.print_call(console(), shown)


async def _load(settings: Settings, intent: str, agent: str, *, session: bool = True) -> pending.Pending:
    keys = Keys(settings.home)
    try:
        return await pending.load(settings, await _entry(settings, intent, agent), keys.open, session=session)
    finally:
        keys.close()


async def _entry(settings: Settings, intent: str, agent: str) -> OpenIntent:
    found = await pending.held(settings, intent, agent)
    if not found:
        console().print(
            f"`{intent}` is not held, look where it stands: sluicegate explain {intent}", markup=False
        )
        raise typer.Exit(1)
    if len(found) > 1:
        agents = " or ".join(e.agent_id for e in found)
        raise Terminal(f"intent `{intent}` of {len(found)} agents is held, say which: --agent {agents}")
    return found[0]


def approve(
    intent: Intent,
    edit: Annotated[
        str, typer.Option("--edit", help="other arguments: a JSON object, or @file; all of them, not a part")
    ] = "",
    person: Person = "",
    why: Annotated[str, typer.Option(help="for the record")] = "",
    agent: Agent = "",
    digest: Digest = "",
    key: Key = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Agree to a held call, e.g. `sluicegate approve i-7 --as ana`, or `--edit '{"amount": 10, "to": "DE02"}'`.

    It prints what it sends: the call as it is held now. Your word is bound to those bytes and to the release that asks,
    and counts once. An edit is recorded as yours, and others have to agree to it anew. Exit code 1 and the reason when
    nothing was approved.
    """
    settings = attach(Settings.from_env())
    shown = asyncio.run(_load(settings, intent, agent, session=False))
    arguments = shown.edited(_read(edit)) if edit else None
    text.print_ask(console(), shown, arguments)
    if not shown.exact and not digest and arguments is None:
        instead = "was erased, reject it" if shown.erased else "cannot be shown exactly, edit or reject it"
        console().print(f"not sent: what is held {instead}", markup=False)
        raise typer.Exit(1)
    review = _review(shown.entry, "approve", _who(settings, person, key), why, digest, arguments)
    if dry_run or _stopped(yes, "approve this"):
        console().print(f"nothing was sent; it would be approved as `{review.reviewer}`", markup=False)
        return
    _report(shown.entry, review, asyncio.run(reviewing.send(settings, review, key=key, follow_s=FOLLOW_S)))


def reject(
    intent: Intent,
    why: Annotated[str, typer.Option(help="the agent's developer is told")],
    person: Person = "",
    agent: Agent = "",
    digest: Digest = "",
    key: Key = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Refuse a held call for good, e.g. `sluicegate reject i-7 --as ana --why "not our supplier"`."""
    settings = attach(Settings.from_env())
    entry = asyncio.run(_entry(settings, intent, agent))
    review = _review(entry, "reject", _who(settings, person, key), why, digest, None)
    if dry_run or _stopped(yes, f"reject `{intent}` of {entry.agent_id}"):
        console().print(f"nothing was sent; it would be rejected as `{review.reviewer}`", markup=False)
        return
    _report(entry, review, asyncio.run(reviewing.send(settings, review, key=key)))


def _read(edit: str) -> bytes:
    if not edit.startswith("@"):
        return edit.encode()
    try:
        return Path(edit[1:]).read_bytes()
    except OSError as error:
        raise Terminal(
            f"`{edit[1:]}` cannot be read: {error.strerror}, give --edit @file or the JSON itself"
        ) from error


def _review(
    entry: OpenIntent, verdict: str, person: str, why: str, digest: str, arguments: bytes | None
) -> Review:  # fmt: skip
    seen = entry.action_digest
    if digest:
        try:
            seen = bytes.fromhex(digest)
        except ValueError:
            seen = b""
        if len(seen) * 2 != DIGEST_HEX:
            raise Terminal(
                f"digest `{digest[:80]}` is not {DIGEST_HEX} hex digits, copy it from `sluicegate approvals show`"
            )
    return Review(
        uuid.uuid4().hex, entry.agent_id, entry.intent_id, verdict, seen, person, time.time_ns() // 1000, why,
        entry.hold_release, arguments,
    )  # fmt: skip


def _who(settings: Settings, person: str, key: Path | None) -> str:
    """The reviewer: as named, else whose key it is, else who is at the keyboard."""
    if person or key is None:
        return person or operator()
    found = asyncio.run(control_log.read(settings)).control.keys.get(key_files.load(key).kid)
    if found is None:
        raise Terminal(f"the key in `{key}` is not registered, see `sluicegate keys list`")
    return found.principal


def _stopped(yes: bool, what: str) -> bool:
    """Whether the person at the terminal thinks better of it."""
    return not yes and sys.stdin.isatty() and not typer.confirm(f"{what}?")


def _report(entry: OpenIntent, review: Review, events: list[LedgerEvent]) -> None:
    """Say what became of it; exit code 1 when it is not what was asked for."""
    first, last = events[0].header, events[-1].header
    reason = next((e.header.reason for e in reversed(events) if e.header.reason), "")
    remedy = f"{reason}. {REASONS[reason].remedy}" if reason in REASONS else reason
    wanted = "refused" if review.verdict == "reject" else "held"
    facts = events[0].facts
    if first.status != wanted or not isinstance(facts, ReviewFacts):
        # The first record says what became of the word itself; where it voids it, what follows asks anew.
        void = REASONS[first.reason].remedy if first.reason in REASONS else ""
        console().print(f"void: {first.reason or first.status}. {void}", markup=False)
        raise typer.Exit(1)
    if review.verdict == "reject":
        console().print(f"rejected `{entry.intent_id}` as `{review.reviewer}`, seq {first.seq}", markup=False)
    elif len(events) == 1:
        missing = facts.quorum - len(facts.approvals)
        others = f"{missing} more must agree" + (" to the edited call" if facts.edited else "")
        agreed = ", ".join(facts.approvals)
        console().print(
            f"agreed: {agreed} ({len(facts.approvals)} of {facts.quorum}); {others}", markup=False
        )
    elif last.status in ("refused", "held", "expired", "failed", "withheld", "in_doubt"):
        became = "failed" if last.status == "failed" else f"is {last.status}"
        console().print(f"agreed, but the call {became}: {remedy}", markup=False)
        raise typer.Exit(1)
    else:
        console().print(
            f"approved `{entry.intent_id}` as `{review.reviewer}`: {last.status}, seq {last.seq}",
            markup=False,
        )
