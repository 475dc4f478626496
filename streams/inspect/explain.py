"""`sluicegate explain INTENT`: the story of one intent, told from the ledger.

Who asked, for whom, in which session, under which release and control head; what each stage said, when and by which
policies, in their own text; which data, whose approvals, claims, attempts, cost, the result, and where the time went; what
it caused, and whether all is at hand to decide it again. Content is opened with the key store, so what was erased reads
ERASED. Reads only. Next: `inspect/named.py` (what a name means), `inspect/story.py` (the data), `commands/explain.py` (how it is printed).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import cast

from aiokafka import AIOKafkaConsumer
from sluicegate.processors import lifecycle
from sluicegate.processors.budget.budgets import STAGE as BUDGET
from sluicegate.processors.control.control import Control
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.large_arguments import told_arguments
from sluicegate.processors.payload import record_in
from sluicegate.processors.policy.files import parse_policies
from sluicegate.processors.replay.account import account, asked_anew
from sluicegate.processors.replay.lineage import TooWide
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.replay.reproduce import ENGINE_MISSING, EXPIRED
from sluicegate.processors.sessions.task import said_in
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.times import iso
from sluicegate.schemas.topics import space_of
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.inspect import named
from sluicegate.streams.inspect.contents import ERASED, content_of
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.inspect.lineage_reader import LineageReader
from sluicegate.streams.inspect.story import Step, Story, add_facts
from sluicegate.streams.replay import engines
from sluicegate.streams.replay.reproduce import erased_by
from sluicegate.streams.scan import FETCH_WAIT_MS, places, stretches
from sluicegate.streams.settings import Settings

RESULT_CHARS = 500
AT_HAND = "AT_HAND"
RELEASE_MISSING = "RELEASE_MISSING"
NOT_AT_HAND = "(not at hand"
"""Begins what stands for a policy's text when its release cannot be read."""


async def explain(
    settings: Settings, intent_id: str, opener: Opener, *, agent: str = "", caused: bool = True
) -> Story:
    """Find and tell one intent. Raises `Terminal` when there is no such intent, or several agents used the id."""
    stories = await explain_all(settings, intent_id, opener, agent=agent, caused=caused)
    if len(stories) > 1:
        raise Terminal(f"`{intent_id}` names {len(stories)} intents, name one of them: {', '.join(s.intent_id for s in stories[:5])}")  # fmt: skip
    return stories[0]


async def explain_all(
    settings: Settings, name: str, opener: Opener, *, agent: str = "", caused: bool = True
) -> list[Story]:
    """The stories of every intent that a name means. Raises `Terminal` when it means none."""
    control = await control_log.read(settings, keep_history=True)
    found = await named.find(settings, name, opener, agent=agent)
    intents, history = found.intents(), control.history or []
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        used = {(e.generation, e.partition) for events in intents.values() for e in events}
        begins = await _begins(settings, consumer, used)
        texts: dict[str, dict[str, str] | str] = {}
        stories = []
        for events in intents.values():
            causes = set(named.first_caused(events).header.caused_by)
            opened = next((e for e in reversed(found.opened) if e.header.event_id in causes), None)
            story = tell(events, opened, history, opener)
            story.policies = await _policy_texts(settings, story, texts)
            story.taken_back = _taken_back(control.control, story)
            story.source = found.source
            begin = max(begins[e.generation, e.partition] for e in events)
            story.reproducible = _at_hand(settings, story, events, opener, history, begin)
            if caused:
                there = replace(settings, generation=story.generation)
                story.caused = await _caused(there, consumer, story)
            stories.append(story)
        return stories
    finally:
        await consumer.stop()


async def _begins(
    settings: Settings, consumer: AIOKafkaConsumer, used: set[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """Where these partitions, by (generation, partition), begin."""
    order = sorted(used)
    spaces = [space_of(settings.env, number) for number, _ in order]
    found = [
        place for space, (_, p) in zip(spaces, order, strict=True) for place in places(space, "outcomes", [p])
    ]
    ledgers = await stretches(consumer, found)
    return {key: one.begin for key, one in zip(order, ledgers, strict=True)}


async def _caused(settings: Settings, consumer: AIOKafkaConsumer, story: Story) -> list[dict[str, object]]:
    """The calls that followed from it, and what they took from whom; nothing of a call without a result."""
    try:
        reader = LineageReader(settings, consumer, lambda _: None)
        root = await reader.root(story.intent_id, story.agent_id)
        if root.end < 0 and root.to is None:
            return []
        found = await reader.followed(root, wide=True, seen=False)
    except (TooWide, Terminal) as error:
        return [{"not_told": str(error)}]
    rows: list[dict[str, object]] = []
    for key in found.calls[1:]:
        call = reader.lineage.calls[key]
        links = [f"{link.how} of {link.parent[1]}" for link in found.links[key]]
        rows.append({"agent_id": key[0], "intent_id": key[1], "tool": call.tool, "state": call.state, "how": links})  # fmt: skip
    for key, link in found.unsure.items():
        rows.append(
            {"agent_id": key[0], "intent_id": key[1], "tool": reader.lineage.calls[key].tool,
             "state": reader.lineage.calls[key].state, "how": [f"perhaps: it {link.how} the result of {link.parent[1]}"]}
        )  # fmt: skip
    return rows


def _at_hand(
    settings: Settings, story: Story, events: list[LedgerEvent], opener: Opener, history: list[Control], begin: int
) -> dict[str, str]:  # fmt: skip
    """Whether all is there that deciding it again takes; `sluicegate reproduce` does it."""
    for version in sorted({e.header.engine for e in events}):
        try:
            engines.find(engines.folder(settings), version)
        except engines.MissingError as error:
            return {"verdict": ENGINE_MISSING, "why": str(error)}
    for event in events:
        if content_of(event, opener) == ERASED:
            return {"verdict": ERASED, "why": erased_by(history, event.header.subject)}
    if begin > 0:
        why = f"the ledger partition begins at offset {begin} in kafka, restore what was before from the archive"
        return {"verdict": EXPIRED, "why": why}
    missing = [text for text in story.policies.values() if text.startswith(NOT_AT_HAND)]
    if missing:
        return {"verdict": RELEASE_MISSING, "why": missing[0]}
    return {"verdict": AT_HAND, "why": f"sluicegate reproduce {story.intent_id} --agent {story.agent_id}"}


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
    story.generation = events[0].generation
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
            h.seq, event.offset, iso(h.decided_at, "milliseconds"), (h.decided_at - first.decided_at) / 1000, h.stage, h.status,
            h.reason, h.policies, input=place, event=h.event_id.hex(), release=h.release, generation=event.generation,
        )  # fmt: skip
        known_reason = REASONS.get(h.reason)
        step.remedy = known_reason.remedy if known_reason else ""
        add_facts(story, step, event.facts)
        if place != previous:
            said = content
        elif content is not None:
            step.detail = content if isinstance(content, str) else content.decode("utf-8", "replace")
        if said is not None and h.stage != BUDGET:  # what an input says belongs to what was decided about it
            _input(story, step, said)
            said = None
        previous = place
        story.steps.append(step)
        if asked_anew(h.status, event.facts):
            story.state = ""
        following = lifecycle.follow(story.state, h.status)
        story.state = following if following is not None else story.state or h.status
    story.times_ms = _times(events)
    _accounts(story, events)
    return story


def _accounts(story: Story, events: list[LedgerEvent]) -> None:
    """What the facts alone say of data, people, attempts and cost."""
    made = account((e.header, e.facts) for e in events)
    story.prompt, story.prompt_digest, story.served = made.prompt, made.prompt_digest, made.served
    story.data = [asdict(touch) for touch in made.data]
    story.approvals = [{**one, "at": iso(cast(int, one["at"]), "milliseconds")} for one in made.approvals]
    story.attempts = [
        {**asdict(one), "started_at": iso(one.started_at, "milliseconds") if one.started_at else "",
         "finished_at": iso(one.finished_at, "milliseconds") if one.finished_at else ""}
        for one in made.attempts
    ]  # fmt: skip
    story.cost = {
        "micros": made.money if made.money >= 0 else None,
        "input_tokens": made.input_tokens if made.input_tokens >= 0 else None,
        "output_tokens": made.output_tokens if made.output_tokens >= 0 else None,
    }


def _session(story: Story, opened: LedgerEvent | None, opener: Opener) -> None:
    if opened is None or not isinstance(opened.facts, r.SessionFacts):
        return
    facts, content = opened.facts, content_of(opened, opener)
    story.session = {
        "opened_at": iso(opened.header.decided_at, "milliseconds"), "on_behalf_of": facts.on_behalf_of, "origin": facts.origin,
        "subject": opened.header.subject,
    }  # fmt: skip
    record = content if isinstance(content, str) else record_in(content)
    if isinstance(record, str):
        story.session["goal"] = record
    elif isinstance(record, r.Message | r.Intent | r.Transfer):
        story.session["goal"] = record.goal
        said = said_in(record)
        if said is not None and said.fields not in (b"", b"{}"):
            story.session["task"] = f"{said.fields.decode()}, in the {said.by}'s words"


def _input(story: Story, step: Step, content: bytes | str | None) -> None:
    """What the input's own bytes add: the request, a person's word, a result."""
    if isinstance(content, str):
        step.detail = content
        if step.stage == "route" and not story.arguments:
            story.arguments = content
        return
    match record_in(content):
        case r.Intent() as asked if step.status != lifecycle.ATTACHED:
            story.arguments, story.goal = told_arguments(asked).decode("utf-8", "replace"), asked.goal
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


async def _policy_texts(
    settings: Settings, story: Story, known: dict[str, dict[str, str] | str]
) -> dict[str, str]:
    """The deciding policies in their own text, out of the release that decided.

    `known`: release -> its policies' texts, or what stands for them; a release is read once for all stories.
    """
    wanted: dict[str, set[str]] = {}
    for step in story.steps:
        if step.policies and step.release:
            wanted.setdefault(step.release, set()).update(step.policies)
    texts: dict[str, str] = {}
    for digest, ids in wanted.items():
        if digest not in known:
            known[digest] = await _policies_of(settings, digest)
        book = known[digest]
        if isinstance(book, str):
            texts.update(dict.fromkeys(ids, book))
        else:
            texts.update({name: text for name, text in book.items() if name in ids})
    return texts


async def _policies_of(settings: Settings, digest: str) -> dict[str, str] | str:
    try:
        files = await releases.fetch(settings, digest)
    except SluicegateError as error:
        return f"{NOT_AT_HAND}: {error})"
    book = parse_policies({p: t for p, t in files.items() if p.endswith(".cedar")})
    return {p.policy_id: p.text.strip() for p in book.policies}
