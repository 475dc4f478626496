"""A held call as people are shown it: the exact arguments, why they are asked, and what its session did before.

Everything comes from the ledger and the release that holds the call; content is opened with the key store, so what was
erased reads ERASED. The arguments are hashed here again: what does not hash to the digest that an approval is bound to
is said to be inexact, and is not to be approved. Reads only. Next: `commands/approvals.py` (how it is printed).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sluicegate.processors import lifecycle
from sluicegate.processors.approval.holds import hold_of
from sluicegate.processors.conform import Misfit, conform, parse
from sluicegate.processors.guardrails.recipes import redact
from sluicegate.processors.payload import record_in
from sluicegate.processors.releases.release import CompiledRelease, CompiledTool, compile_release
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.validate import action_digest
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.times import iso
from sluicegate.streams import kafka
from sluicegate.streams.control import releases
from sluicegate.streams.inspect.contents import ERASED, content_of
from sluicegate.streams.inspect.find import Finder, LedgerEvent
from sluicegate.streams.inspect.open_intents import open_intents
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 20
TEXT_CHARS = 200
"""Of one line of what happened before."""
MAX_BEFORE = 40
"""Lines of what happened before: the goal, and the newest ones."""


@dataclass(frozen=True, slots=True)
class Before:
    """One thing of the session's past: `goal`, `user`, `call`, `result`, or how a call ended else."""

    at: int
    what: str
    text: str


@dataclass(slots=True)
class Pending:
    """A held call, for people.

    Attributes:
        entry: as the ledger's state has it, with the digest and release that an approval is bound to.
        why: what the policies say.
        arguments: canonical JSON of what would run; empty when it cannot be read.
        original: as it was held first; another text when a person edited it.
        exact: whether `arguments` hash to the digest.
        erased: whether what was asked for opens for nobody any more, since its subject was erased.
        policies: id -> text.
        grounded: (argument, where its value comes from, label of that place).
        on_behalf_of, before: the session.
    """

    entry: OpenIntent
    why: str = ""
    arguments: bytes = b""
    original: bytes = b""
    exact: bool = False
    erased: bool = False
    policies: dict[str, str] = field(default_factory=dict)
    grounded: list[tuple[str, str, str]] = field(default_factory=list)
    on_behalf_of: str = ""
    before: list[Before] = field(default_factory=list)
    tool: CompiledTool | None = None

    def edited(self, raw: bytes) -> bytes:
        """Canonical arguments of an edit. Raises `Terminal` when they do not fit the contract."""
        if self.tool is None:
            raise Terminal(f"the release that holds it has no contract `{self.entry.tool}`, reject the call")
        found = conform(self.tool.validator, self.tool.typer, raw)
        if isinstance(found, Misfit):
            raise Terminal(
                f"the edited arguments do not fit `{self.entry.tool}`: {found.reason}: {found.detail}"
            )
        return found.canonical


async def held(settings: Settings, intent_id: str = "", agent: str = "") -> list[OpenIntent]:
    """Calls that wait for people, those that expire first before the others."""
    entries = await open_intents(settings, ("held",))
    wanted = [e for e in entries if intent_id in ("", e.intent_id) and agent in ("", e.agent_id)]
    return sorted(wanted, key=lambda e: (e.due_at, e.agent_id, e.intent_id))


async def reasons(settings: Settings, entries: list[OpenIntent]) -> list[str]:
    """Why each call is held, in the words of its policies, out of the releases that hold them."""
    compiled: dict[str, CompiledRelease] = {}
    for digest in {e.hold_release for e in entries}:
        compiled[digest] = compile_release(await releases.fetch(settings, digest), proven=True)
    found = []
    for entry in entries:
        book = compiled[entry.hold_release].book
        hold = hold_of([p for p in book.policies if p.policy_id in entry.hold_policies])
        found.append(hold.why if hold is not None else f"guardrail {', '.join(entry.hold_policies)}")
    return found


async def load(settings: Settings, entry: OpenIntent, opener: Opener, *, session: bool = True) -> Pending:
    """Everything people are shown of a held call; without its session when only the call itself is asked for."""
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        finder = Finder(settings, consumer)
        await finder.open()
        events = await finder.intent(entry.intent_id, entry.agent_id)
        past = await finder.session(entry.session_id, entry.agent_id) if session else []
    finally:
        await consumer.stop()
    compiled = compile_release(await releases.fetch(settings, entry.hold_release), proven=True)
    return tell(entry, events, past, compiled, opener)


def tell(
    entry: OpenIntent, events: list[LedgerEvent], past: list[LedgerEvent], compiled: CompiledRelease, opener: Opener
) -> Pending:  # fmt: skip
    """A held call from its records, its session's and its release."""
    shown = Pending(entry, tool=compiled.tools.get(entry.tool))
    shown.policies = {
        p.policy_id: p.text.strip() for p in compiled.book.policies if p.policy_id in entry.hold_policies
    }
    asks = [e for e in events if isinstance(e.facts, r.HoldFacts)]
    if asks:
        _ask(shown, asks, opener)
        shown.before = _before(past, asks[0], opener)
    edits = [e for e in events if isinstance(e.facts, r.ReviewFacts) and e.facts.edited]
    if edits:
        record = record_in(_bytes(content_of(edits[-1], opener)))
        shown.arguments = (record.arguments or b"") if isinstance(record, r.Review) else b""
    shown.arguments, shown.exact = _exact(shown)
    opened = next((e.facts for e in past if isinstance(e.facts, r.SessionFacts)), None)
    shown.on_behalf_of = opened.on_behalf_of if opened else ""
    return shown


def _ask(shown: Pending, asks: list[LedgerEvent], opener: Opener) -> None:
    for event in asks:
        content = content_of(event, opener)
        shown.erased = shown.erased or content == ERASED
        try:
            body = json.loads(_bytes(content) or b"{}")
        except ValueError:
            body = {}
        if "arguments" in body:
            raw = json.dumps(body["arguments"], ensure_ascii=False).encode()
            shown.original, shown.why = shown.original or raw, str(body.get("why", ""))
            shown.arguments = raw
    facts = asks[-1].facts
    assert isinstance(facts, r.HoldFacts)
    shown.grounded = list(
        zip(facts.grounded_arguments, facts.grounded_from, facts.grounded_labels, strict=True)
    )


def _exact(shown: Pending) -> tuple[bytes, bool]:
    """The canonical arguments, and whether they are those that an approval is bound to."""
    parsed, tool = parse(shown.arguments), shown.tool
    if isinstance(parsed, Misfit) or tool is None:
        return shown.arguments, False
    args, canonical = parsed
    found = parse(json.dumps(redact(args, shown.entry.redacted.split()), ensure_ascii=False).encode())
    tried = [canonical] if isinstance(found, Misfit) else [canonical, found[1]]
    for candidate in tried:
        if action_digest(tool.name, tool.version, candidate) == shown.entry.action_digest:
            return candidate, True
    return canonical, False


def _before(past: list[LedgerEvent], ask: LedgerEvent, opener: Opener) -> list[Before]:
    """What the session heard, asked and got before the call was held, oldest first."""
    lines: list[Before] = []
    tools: dict[str, str] = {}
    for event in past:
        h = event.header
        if h.seq >= ask.header.seq:
            break
        if h.intent_id == ask.header.intent_id:
            continue
        line = _line(event, tools, opener)
        if line is not None:
            lines.append(line)
    if len(lines) <= MAX_BEFORE:
        return lines
    left = len(lines) - MAX_BEFORE
    return [lines[0], Before(lines[1].at, "…", f"{left} more"), *lines[-(MAX_BEFORE - 1) :]]


def _line(event: LedgerEvent, tools: dict[str, str], opener: Opener) -> Before | None:
    h = event.header
    content = content_of(event, opener)
    record = content if isinstance(content, str) else record_in(content)
    if h.status == "opened":
        return Before(h.decided_at, "goal", _one(getattr(record, "goal", record)))
    if h.status == "heard":
        return Before(h.decided_at, "user", _one(getattr(record, "text", record)))
    if isinstance(event.facts, r.IntentFacts):
        tools[h.intent_id] = event.facts.tool
        if h.status == "routed":
            arguments = _one(getattr(record, "arguments", record))
            return Before(h.decided_at, "call", f"{event.facts.tool} {arguments}")
    if h.intent_id not in tools or h.status not in lifecycle.TERMINAL:
        return None
    if h.status == "released":
        return Before(
            h.decided_at, "result", f"{tools[h.intent_id]} {_one(getattr(record, 'result', record))}"
        )
    return Before(h.decided_at, h.status, f"{tools[h.intent_id]} {h.reason}".strip())


def _bytes(content: bytes | str | None) -> bytes | None:
    return content if isinstance(content, bytes) else None


def _one(value: object) -> str:
    """One printable line."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = " ".join(str(value if isinstance(value, str) else "").split())
    text = "".join(c if c.isprintable() else "·" for c in text)
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def afterwards(shown: Pending) -> str:
    """Whether what is agreed to could be taken back."""
    if shown.entry.tool_class == "read_only":
        return "nothing to take back: it only reads"
    said = shown.tool.contract.governance.compensate if shown.tool is not None else None
    return f"can be taken back by {said.tool}" if said is not None else "cannot be taken back"


def as_json(shown: Pending) -> dict[str, object]:
    """For programs: `-o json`, and the gateway."""
    e = shown.entry
    return {
        "intent_id": e.intent_id, "agent_id": e.agent_id, "tenant": e.tenant, "tool": e.tool, "class": e.tool_class,
        "why": shown.why, "policies": shown.policies, "quorum": e.quorum, "reviewers": list(e.reviewers),
        "approvals": list(e.approvals), "held_at": iso(e.held_at), "expires_at": iso(e.due_at),
        "action_digest": e.action_digest.hex(), "release": e.hold_release, "exact": shown.exact,
        "arguments": json_of(shown.arguments), "original": json_of(shown.original), "edited": bool(e.edit_topic),
        "grounded": [{"argument": a, "from": f, "label": la} for a, f, la in shown.grounded],
        "session_id": e.session_id, "on_behalf_of": shown.on_behalf_of, "afterwards": afterwards(shown),
        "before": [{"at": iso(b.at), "what": b.what, "text": b.text} for b in shown.before],
    }  # fmt: skip


def json_of(value: bytes) -> object:
    """What a text says, None where it is no JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return None
