"""Writes `docs/lifecycle.md` from `processors/lifecycle.py`: `python -m docs.make_lifecycle`. A test holds them together."""

from __future__ import annotations

from pathlib import Path

from sluicegate.processors import lifecycle as life

MEANINGS = {
    "": "not on the ledger yet",
    "routed": "known agent, open session, contract found; the first record of an intent that was not refused at once",
    "permitted": "Cedar permitted it, or a person approved it and Cedar permits it still",
    "validated": "bound to its action digest",
    "held": "waits for people: as many as its policies ask for; expires after 24 h, or earlier where they say so",
    "waiting": (
        "waits for guardrail plug-ins, whose answer, failure or silence decides; for a budget's grant; "
        "for an equal call that runs already; or until a model may be asked again"
    ),
    "dispatched": "offered to executors, or permitted to run in process; a lease of 5 s",
    "claimed": "one executor has it: from here the call may have happened",
    "parked": "the tool works on, or the call's end is looked up: polled, called back, or given up at its bound",
    "in_doubt": "claimed, no receipt, may not be repeated: a person or a late receipt says what happened",
    "refused": "a stage or a person said no",
    "expired": "nobody took it, or nobody agreed, in time",
    "voided": "taken back before it ran (not emitted yet)",
    "released": "the result passed its check and went to the agent; without a dispatch it came from the cache",
    "withheld": "it ran; the result did not pass its check and the agent does not see it",
    "failed": "it ran, or could not run, and the error is known",
    "resolved": "a person settled what was in doubt",
}
"""State -> what it means. A test refuses a state without one."""

HEAD = """# The life of an intent

Generated from `processors/lifecycle.py` by `python -m docs.make_lifecycle`; do not edit. `sluicegate ledger verify`
checks the same table, and the ClickHouse view `intents` is made of the same lists.

An intent's state is the status of its last record on the ledger, except `{attached}`, which attaches to an intent in any
state and changes nothing: a duplicate, a conflict, a late receipt.
"""


def _life(state: str) -> str:
    if state in life.DECIDED_TERMINAL:
        return "ended without an execution"
    if state in life.EXECUTED_TERMINAL:
        return "ended after an execution"
    if state in life.OPEN:
        return "open"
    return "passing" if state in life.PASSING else "start"


def page() -> str:
    """The page's text."""
    states = (life.START, *life.PASSING, *life.OPEN, *life.DECIDED_TERMINAL, *life.EXECUTED_TERMINAL)
    lines = [
        HEAD.format(attached=life.ATTACHED),
        "| state | kind | what may follow | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for state in states:
        follows = " ".join(f"`{s}`" for s in life.TABLE.get(state, ())) or "nothing"
        lines.append(
            f"| {f'`{state}`' if state else '(new)'} | {_life(state)} | {follows} | {MEANINGS[state]} |"
        )
    other = ", ".join(f"`{s}`" for s in life.OTHER)
    lines += ["", "`passing`: between two stages of one pass; no committed intent rests there.", "",
              f"Statuses of ledger records that are no step of an intent's life: {other}.", ""]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("lifecycle.md").write_text(page(), "utf-8")
