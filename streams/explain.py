"""`sluicegate explain INTENT`: the story of one intent, told from the ledger.

Who asked, for whom, in which session, under which release and control head; what each stage said, when and by which
policies, in their own text; claims, attempts, the result, and where the time went. Content is opened with the key
store, so what was erased reads ERASED. Reads only. Next: `find.py`, `commands/explain.py` (how it is printed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluicegate.processors import lifecycle
from sluicegate.processors.budget_words import cost_in_words, in_words
from sluicegate.processors.budgets import STAGE as BUDGET
from sluicegate.processors.compensate import undo_id
from sluicegate.processors.control import Control
from sluicegate.processors.policy_files import parse_policies
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.scores import SCORE_MAX
from sluicegate.streams import control_log, kafka, releases
from sluicegate.streams.find import Finder, LedgerEvent
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 20
RESULT_CHARS = 500
ERASED = "ERASED"

_CACHE = {
    "ask": "asks the cache of another partition",
    "wait": "waits for an equal call that runs already",
    "run": "runs for all who ask the same",
    "hit": "answered from the cache of `{}`",
    "lost": "the cached result's bytes are gone",
    "turned": "another candidate is asked now: its answer is for who waits already, and is not kept",
    "leave": "waits for that call no more, it is another one by now",
}

Opener = Callable[[str, bytes, bytes], bytes | None]


@dataclass(slots=True)
class Step:
    """One stage's word. `ms` counts from the first one."""

    seq: int
    offset: int
    at: str
    ms: float
    stage: str
    status: str
    reason: str
    policies: list[str]
    detail: str = ""
    remedy: str = ""
    attempt: int = 0
    by: str = ""
    input: str = ""
    event: str = ""
    release: str = ""


@dataclass(slots=True)
class Story:
    """One intent from request to end."""

    intent_id: str
    agent_id: str
    tenant: str
    roles: list[str] = field(default_factory=list)
    partition: int = 0
    state: str = ""
    kind: str = ""
    tool: str = ""
    tool_version: str = ""
    tool_class: str = ""
    arguments: str = ""
    goal: str = ""
    issued_at: str = ""
    session_id: str = ""
    session: dict[str, str] = field(default_factory=dict)
    release: str = ""
    release_name: str = ""
    control_head: int = -1
    engine: str = ""
    steps: list[Step] = field(default_factory=list)
    policies: dict[str, str] = field(default_factory=dict)
    result: str = ""
    times_ms: dict[str, float] = field(default_factory=dict)
    taken_back: str = ""
    source: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


async def explain(settings: Settings, intent_id: str, opener: Opener, *, agent: str = "") -> Story:
    """Find and tell. Raises `Terminal` when there is no such intent, or several agents used the id."""
    if not intent_id:  # records that belong to no intent have it
        raise Terminal("an intent's id is not empty, name one that `sluicegate intents` lists")
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        finder = Finder(settings, consumer)
        await finder.open()
        events = await finder.intent(intent_id, agent)
        if not events:
            who = f" of agent `{agent}`" if agent else ""
            raise Terminal(f"the ledger of `{settings.env}` knows no intent `{intent_id}`{who}, look for it with `sluicegate intents`")  # fmt: skip
        agents = sorted({e.header.agent_id for e in events})
        if len(agents) > 1:
            raise Terminal(f"intent `{intent_id}` was asked by {len(agents)} agents, say which: --agent {' or '.join(agents)}")  # fmt: skip
        first = events[0]
        opened = None
        for cause in first.header.caused_by:
            opened = await finder.event(first.partition, cause, first.offset)
    finally:
        await consumer.stop()
    control = await control_log.read(settings, keep_history=True)
    story = tell(events, opened, control.history or [], opener)
    story.policies = await _policy_texts(settings, story)
    story.taken_back = _taken_back(control.control, story)
    story.source = finder.source
    return story


def _taken_back(control: Control, story: Story) -> str:
    """What operators ordered about it, an empty text for nothing."""
    ident = undo_id(story.agent_id, story.intent_id)
    one = control.orders.get(ident)
    return (
        ""
        if one is None
        else f"{one.state} by {one.who}, control event {one.order}: {ident} of {one.agent_id}"
    )


def tell(
    events: list[LedgerEvent], opened: LedgerEvent | None, history: list[Control], opener: Opener
) -> Story:
    """The story of one agent's intent, from its ledger records in order."""
    first = events[0].header
    story = Story(
        first.intent_id, first.agent_id, first.tenant, partition=first.partition, session_id=first.session_id
    )
    story.control_head, story.release, story.engine = first.control_head, first.release, first.engine
    if 0 <= first.control_head < len(history):
        control = history[first.control_head]
        known = control.agents.get(first.agent_id)
        story.roles = list(known.roles) if known else []
        story.release_name = control.published.get(first.release, "")
    _session(story, opened, opener)
    previous = ""
    said: bytes | str | None = None
    for event in events:
        h = event.header
        place = f"{h.input_topic}/{h.input_partition}/{h.input_offset}"
        content = content_of(event, opener)
        step = Step(
            h.seq, event.offset, _iso(h.decided_at), (h.decided_at - first.decided_at) / 1000, h.stage, h.status,
            h.reason, h.policies, input=place, event=h.event_id.hex(), release=h.release,
        )  # fmt: skip
        known_reason = REASONS.get(h.reason)
        step.remedy = known_reason.remedy if known_reason else ""
        _facts(story, step, event.facts)
        if place != previous:
            said = content
        elif content is not None:
            step.detail = content if isinstance(content, str) else content.decode("utf-8", "replace")
        if said is not None and h.stage != BUDGET:  # what an input says belongs to what was decided about it
            _input(story, step, said)
            said = None
        previous = place
        story.steps.append(step)
        following = lifecycle.follow(story.state, h.status)
        story.state = following if following is not None else story.state or h.status
    story.times_ms = _times(events)
    return story


def _session(story: Story, opened: LedgerEvent | None, opener: Opener) -> None:
    if opened is None or not isinstance(opened.facts, r.SessionFacts):
        return
    facts, content = opened.facts, content_of(opened, opener)
    story.session = {
        "opened_at": _iso(opened.header.decided_at), "on_behalf_of": facts.on_behalf_of, "origin": facts.origin,
        "subject": opened.header.subject,
    }  # fmt: skip
    record = content if isinstance(content, str) else record_in(content)
    if isinstance(record, str):
        story.session["goal"] = record
    elif isinstance(record, r.Message | r.Intent):
        story.session["goal"] = record.goal


def content_of(event: LedgerEvent, opener: Opener) -> bytes | str | None:
    """The plain bytes, ERASED, or None when there is no content."""
    if event.sealed is None:
        return None
    try:
        value = opener(event.header.subject, event.header.event_id, event.sealed)
    except SluicegateError as error:
        return str(error)
    return ERASED if value is None else value


def record_in(value: bytes | None) -> object:
    """The record in an input's bytes, signed or not; None when there is none."""
    try:
        record = codec.decode(value or b"")
        return codec.decode(record.payload) if isinstance(record, r.Envelope) else record
    except SluicegateError:
        return None


def _facts(story: Story, step: Step, facts: object) -> None:
    match facts:
        case r.IntentFacts():
            story.kind, story.tool, story.tool_version = facts.kind, facts.tool, facts.version
            story.issued_at = _iso(facts.issued_at)
        case r.AttemptFacts():
            story.tool_class, step.attempt = facts.tool_class, facts.attempt
            step.by = f"asks {facts.candidate} ({facts.why})" if facts.candidate else facts.executor
            if isinstance(facts, r.StreamFacts):
                step.by += f", streamed {facts.mode}"
                step.by += f", replaces message {facts.replaces}" if facts.replaces else ""
        case r.PlanFacts():
            story.tool_class, step.attempt, step.by = facts.tool_class, facts.attempt, facts.executor
        case r.HoldFacts():
            story.tool_class = facts.tool_class
            step.by = f"{facts.quorum} of {' or '.join(facts.reviewers) or 'any person'} must agree"
        case r.ReviewFacts():
            step.by = f"{facts.reviewer}, {len(facts.approvals)} of {facts.quorum} agreed"
        case r.ClaimFacts():
            step.attempt, step.by = facts.attempt, facts.executor
        case r.JobFacts():
            step.attempt, step.detail = facts.attempt, facts.note
            step.by = f"waits for {facts.waits_for}, look {facts.polls}, at most until {_iso(facts.ends_at)}"
        case r.AnswerFacts():
            step.attempt, step.detail = facts.attempt, facts.error_class
            served = f"{facts.candidate} as {facts.served_model}" if facts.served_model else facts.candidate
            sure = f", confidence {facts.confidence / 1_000:.3f}" if facts.confidence >= 0 else ""
            step.by = f"{served or facts.executed_by}{sure}"
            if isinstance(facts, r.StreamedFacts):
                step.by += _streamed(facts)
        case r.TakenBackFacts():
            step.attempt, step.by = facts.attempt, facts.executed_by
            step.detail = (
                f"taken back by `{facts.undo}` of `{facts.undone_by}`, ordered as control event {facts.order}"
            )
        case r.ResultFacts():
            step.attempt, step.by = facts.attempt, facts.executed_by
            step.detail = facts.error_class
        case r.CacheFacts():
            step.by, step.detail = facts.executed_by, _CACHE.get(facts.op, "").format(facts.made_by)
        case r.CellFacts():
            step.detail = f"memory of `{facts.scope}`, partition {facts.home}"
            step.detail += f", version {facts.version}" if facts.version else ""
        case r.MemoryFacts():
            step.detail = f"memory of `{facts.scope}`, version {facts.version}"
        case r.PromptFacts():
            step.detail = f"prompt `{facts.prompt}` sha256 {facts.digest.hex()[:12]}"
        case r.ScoreFacts():
            step.by = facts.scorer
            step.detail = f"{facts.metric} {facts.value / SCORE_MAX:g} by {facts.kind} `{facts.scorer}`"
        case r.ChoiceFacts():
            step.detail = _choice(facts)
        case r.StageFacts() | r.IntakeFacts():
            step.detail = facts.detail
        case r.BudgetFacts():
            step.attempt, step.detail = facts.attempt, in_words(facts)
        case r.SpendFacts():
            step.attempt, step.by, step.detail = (
                facts.attempt,
                facts.model or facts.contract,
                cost_in_words(facts),
            )


def _streamed(facts: r.StreamedFacts) -> str:
    """What left before the end, and whether that is what was released."""
    if not facts.pieces:
        return f", streamed {facts.mode}, nothing before its end"
    said = "as released" if facts.same else "not as released"
    return f", streamed {facts.mode}, message {facts.message} of {facts.pieces} pieces, {said}, sha256 {facts.streamed.hex()[:12]}"


def _choice(facts: r.ChoiceFacts) -> str:
    """What a model call was told, and every candidate in the order it would be asked."""
    said = [facts.detail] if facts.detail else []
    if facts.prompt:
        said.append(f"prompt `{facts.prompt}` sha256 {facts.prompt_digest.hex()[:12]}")
    if facts.unversioned:
        said.append("brings system text that no release holds")
    rows = zip(facts.candidates, facts.scores, facts.standing, strict=True)
    said += [f"{name} score {score}: {standing}" for name, score, standing in rows]
    return "; ".join(said)


def _input(story: Story, step: Step, content: bytes | str | None) -> None:
    """What the input's own bytes add: the request, a person's word, a result."""
    if isinstance(content, str):
        step.detail = content
        if step.stage == "route" and not story.arguments:
            story.arguments = content
        return
    match record_in(content):
        case r.Intent() as asked if step.status != lifecycle.ATTACHED:
            story.arguments, story.goal = asked.arguments.decode("utf-8", "replace"), asked.goal
        case r.Review() as review:
            step.by = step.by or review.reviewer
            step.detail = f"{review.verdict}: {review.why}" if review.why else review.verdict
            if review.arguments is not None:
                step.detail += f", with {review.arguments.decode('utf-8', 'replace')}"
        case r.Resolution() as said:
            undone = step.detail if step.status == "resolved" and step.detail != said.verdict else ""
            step.by, step.detail = said.reviewer, ": ".join(filter(None, (said.verdict, undone, said.why)))
            story.result = (said.result or b"").decode("utf-8", "replace")[:RESULT_CHARS]
        case r.Receipt() as receipt if step.status in ("dispatched", "waiting"):
            step.detail = (
                receipt.error or "the answer does not fit the contract"
            )  # and another attempt followed
        case r.Receipt() as receipt if step.status in lifecycle.EXECUTED_TERMINAL:
            step.detail = receipt.error or step.detail
            story.result = (receipt.result or b"").decode("utf-8", "replace")[:RESULT_CHARS]
        case _:
            pass


def _times(events: list[LedgerEvent]) -> dict[str, float]:
    """Milliseconds of each hop. The first and the tool's are by other clocks than the ledger's."""
    at: dict[str, int] = {}
    times: dict[str, float] = {}
    for event in events:
        status = "end" if event.header.status in lifecycle.TERMINAL else event.header.status
        if status != lifecycle.ATTACHED:
            at.setdefault(status, event.header.decided_at)
        if isinstance(event.facts, r.IntentFacts) and "asked to decided" not in times:
            times["asked to decided"] = (event.header.decided_at - event.facts.issued_at) / 1000
        if isinstance(event.facts, r.ResultFacts):
            times["in the tool"] = (event.facts.finished_at - event.facts.started_at) / 1000
    start = events[0].header.decided_at
    for name, since, until in (
        ("held for a person", "held", "permitted"),
        ("dispatched to claimed", "dispatched", "claimed"),
        ("claimed to end", "claimed", "end"),
    ):
        if since in at and until in at and at[until] >= at[since]:
            times[name] = (at[until] - at[since]) / 1000
    if "end" in at:
        times["decided to end"] = (at["end"] - start) / 1000
    return times


async def _policy_texts(settings: Settings, story: Story) -> dict[str, str]:
    """The deciding policies in their own text, out of the release that decided."""
    wanted: dict[str, set[str]] = {}
    for step in story.steps:
        if step.policies and step.release:
            wanted.setdefault(step.release, set()).update(step.policies)
    texts: dict[str, str] = {}
    for digest, ids in wanted.items():
        try:
            files = await releases.fetch(settings, digest)
        except SluicegateError as error:
            texts.update(dict.fromkeys(ids, f"(not at hand: {error})"))
            continue
        book = parse_policies({p: t for p, t in files.items() if p.endswith(".cedar")})
        texts.update({p.policy_id: p.text.strip() for p in book.policies if p.policy_id in ids})
    return texts


def _iso(micros: int) -> str:
    """UTC, to the millisecond; the number itself where it is no time."""
    try:
        return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(micros)
