"""What the records of an intent say of data, approvals, attempts and cost: from headers and facts alone, never content.

    asset      what was touched, by a name that is the same wherever it is met
      tool:NAME           a tool or model alias, as it was asked for
      prompt:NAME         a prompt of the release
      memory:SCOPE        a memory scope; cell:HEX is one key of it (keys are personal data: only their digest is kept)
      sha256:HEX          a document, artifact, value, prompt or result, by its bytes
      event:HEX           the ledger event that a protected argument's value was found in
    how        asked, read, write, append, …, rendered, answered, returned, taken from, offered

A table or file that a tool reads by itself is known by the tool's name alone: what its arguments name is content.
Pure. Next: `replay/access.py` (who touched an asset), `streams/inspect/explain.py` (an intent's own).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sluicegate.processors.lifecycle import ATTACHED
from sluicegate.schemas import records as r

TOOL: Final = "tool:"
PROMPT: Final = "prompt:"
MEMORY: Final = "memory:"
CELL: Final = "cell:"
DIGEST: Final = "sha256:"
EVENT: Final = "event:"
KINDS = (TOOL, PROMPT, MEMORY, CELL, DIGEST, EVENT)


@dataclass(frozen=True, slots=True)
class Touch:
    """One asset, and what was done with it. `about`: an argument, a version, a size."""

    asset: str
    how: str
    about: str = ""


def asked_anew(status: str, facts: object) -> bool:
    """Whether a record begins a life, whatever its id stood for before: a refusal that was not remembered, or was forgotten."""
    return isinstance(facts, r.IntentFacts) and facts.remembered and status != ATTACHED


def touches(facts: object) -> Iterator[Touch]:
    """What one record says was touched."""
    match facts:
        case r.IntentFacts():
            yield from _named(TOOL, facts.tool, "asked", facts.version and f"version {facts.version}")
        case r.PromptFacts():
            yield from _named(PROMPT, facts.prompt, "rendered")
            yield from _digest(facts.digest, "rendered", "the prompt's text")
            yield from _digest(facts.result_digest, "returned", f"{facts.result_bytes} bytes")
        case r.MemoryFacts() | r.CellFacts():
            about = f"version {facts.version}" if facts.version else ""
            yield from _named(MEMORY, facts.scope, facts.op, about)
            if facts.cell:
                yield Touch(CELL + facts.cell.hex(), facts.op, f"{facts.scope} {about}".strip())
            yield from _digest(facts.value_digest, facts.op, f"memory of {facts.scope}")
        case r.CacheFacts() if facts.op == "hit":
            yield from _digest(facts.result_digest, "returned", f"from the cache, made by {facts.made_by}")
        case r.ResultFacts():
            yield from _digest(facts.result_digest, "returned", f"{facts.result_bytes} bytes")
        case r.StageFacts() | r.HoldFacts():
            yield from _grounded(facts)
            if isinstance(facts, r.ChoiceFacts):
                yield from _named(PROMPT, facts.prompt, "rendered")
                yield from _digest(facts.prompt_digest, "rendered", "the prompt's text")


def _grounded(facts: r.StageFacts | r.HoldFacts) -> Iterator[Touch]:
    rows = zip(facts.grounded_arguments, facts.grounded_from, facts.grounded_events, strict=False)
    for argument, source, event in rows:
        if event:
            yield Touch(EVENT + event.hex(), "taken from", f"argument {argument}, from {source}")


def _named(kind: str, name: str, how: str, about: str = "") -> Iterator[Touch]:
    if name:
        yield Touch(kind + name, how, about)


def _digest(value: bytes, how: str, about: str) -> Iterator[Touch]:
    if value.strip(b"\0"):
        yield Touch(DIGEST + value.hex(), how, about)


@dataclass(slots=True)
class Attempt:
    """One attempt: who was asked, by whom it was claimed, how it ended."""

    number: int
    asked: str = ""
    claimed_by: str = ""
    started_at: int = 0
    finished_at: int = 0
    end: str = ""
    error: str = ""


@dataclass(slots=True)
class Account:
    """What an intent's records say, by subject. Times in microseconds; amounts in micro-units of the currency.

    Attributes:
        prompt, prompt_digest: what a model was told, by name.
        served: models as their servers named themselves, in order.
        money, input_tokens, output_tokens: -1 where nobody said.
    """

    data: list[Touch] = field(default_factory=list)
    approvals: list[dict[str, object]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    prompt: str = ""
    prompt_digest: str = ""
    served: list[str] = field(default_factory=list)
    money: int = -1
    input_tokens: int = -1
    output_tokens: int = -1
    answered: tuple[int, int] = (-1, -1)
    """Tokens by the answer that counts: what is said where the release has no `spend: true`."""


def account(records: Iterable[tuple[r.Header, object]]) -> Account:
    """Of one intent, from its records in ledger order."""
    made = Account()
    for header, facts in records:
        for touch in touches(facts):
            if touch not in made.data:
                made.data.append(touch)
        _add(made, header, facts)
    # INVARIANT: an answer is counted once: by what was spent, which comes after it, or by itself
    # (tests/unit/test_spend.py::test_an_answer_is_counted_once).
    if made.input_tokens < 0:
        made.input_tokens, made.output_tokens = made.answered
    return made


def _add(made: Account, header: r.Header, facts: object) -> None:
    match facts:
        case r.ReviewFacts():
            made.approvals.append(
                {"by": facts.reviewer, "verdict": facts.verdict, "at": header.decided_at, "edited": facts.edited,
                 "agreed": list(facts.approvals), "quorum": facts.quorum, "authenticated": facts.authenticated}
            )  # fmt: skip
        case r.PlanFacts():
            one = _attempt(made, facts.attempt)
            one.asked = facts.candidate if isinstance(facts, r.AttemptFacts) else facts.executor
        case r.ClaimFacts():
            one = _attempt(made, facts.attempt)
            one.claimed_by, one.started_at = facts.executor, facts.started_at
        case r.ResultFacts():
            _ended(made, header, facts)
        case r.SpendFacts():
            made.money = _sum(made.money, facts.money)
            made.input_tokens = _sum(made.input_tokens, facts.input_tokens)
            made.output_tokens = _sum(made.output_tokens, facts.output_tokens)
        case r.PromptFacts():
            made.prompt, made.prompt_digest = facts.prompt, facts.digest.hex()
        case r.ChoiceFacts() if facts.prompt:
            made.prompt, made.prompt_digest = facts.prompt, facts.prompt_digest.hex()


def _ended(made: Account, header: r.Header, facts: r.ResultFacts) -> None:
    one = _attempt(made, facts.attempt)
    one.started_at, one.finished_at = facts.started_at, facts.finished_at
    one.end, one.error = header.status, facts.error_class
    one.claimed_by = one.claimed_by or facts.executed_by
    if isinstance(facts, r.AnswerFacts) and facts.served_model:
        made.served.append(facts.served_model)
    if isinstance(facts, r.AnswerFacts):
        made.answered = (facts.input_tokens, facts.output_tokens)


def _sum(so_far: int, more: int) -> int:
    return so_far if more < 0 else max(0, so_far) + more


def _attempt(made: Account, number: int) -> Attempt:
    for one in made.attempts:
        if one.number == number:
            return one
    made.attempts.append(Attempt(number))
    return made.attempts[-1]
