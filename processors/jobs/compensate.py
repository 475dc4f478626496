"""Compensation: which call takes another one back, and how one sees that it did, as the contract says.

    "compensate": {"tool": "refund", "arguments": {"payment": "$.result.id", "amount": "$.args.amount", "note": "taken back"}}
    "verify": {"tool": "get_payment", "arguments": {"id": "$.result.id"}, "expect": "result.status == 'refunded'"}

A text that begins with `$.args.` or `$.result.` names a value of the call or of its result, and `$.key` is the idempotency key
that the tool was sent: all that is known of a call in doubt. Anything else stands for itself. A result that is a text with JSON in it, as many MCP servers answer, is read as that JSON. `expect` is CEL over `result` (of the tool that reads back), `args` and `original` (of the call taken back).
Pure: it only says what would be asked; the calls are authorised like any other.
Next: `releases/compensate_check.py`, `replay/lineage.py`, `streams/undo/rollback.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import cel
import orjson
from pydantic import BaseModel, ConfigDict, Field

ARGS, RESULT, KEY = "$.args.", "$.result.", "$.key"
NAMES = frozenset(("result", "args", "original"))
"""What `expect` may look at."""
MAX_EXPECT_CHARS = 2_000
MIN_SHARED_CHARS = 6
MAX_TRIES = 20
"""Of one compensation, each under an id of its own: the next one only after a try that had no effect."""


class Compensation(BaseModel):
    """`compensate` of a contract."""

    model_config = ConfigDict(extra="forbid")
    tool: str
    arguments: dict[str, object] = {}


class Verification(BaseModel):
    """`verify` of a contract: reads back what the compensation did."""

    model_config = ConfigDict(extra="forbid")
    tool: str
    arguments: dict[str, object] = {}
    expect: str = Field(min_length=1, max_length=MAX_EXPECT_CHARS)


def undo_id(agent_id: str, intent_id: str, attempt: int = 1) -> str:
    """The id of the intent that takes this call back: the same however often, and by whomever, it is asked for.

    `attempt`: 2 and more after tries that had no effect.
    """
    base = "undo-" + hashlib.sha256(f"{agent_id}\0{intent_id}".encode()).hexdigest()[:32]
    return base if attempt == 1 else f"{base}.{attempt}"


def check_id(undo: str, order: int) -> str:
    """The id of the read-back of a compensation, in the run that control event `order` began."""
    return f"check-{base_of(undo).removeprefix('undo-')}.{order}"


def base_of(intent_id: str) -> str:
    """The id without its number of tries."""
    return intent_id.partition(".")[0]


def saga_id(agent_id: str, intent_id: str) -> str:
    """The id of the saga that begins at this call: the same at every run."""
    return "saga-" + undo_id(agent_id, intent_id).removeprefix("undo-")


def arguments_of(
    said: Compensation | Verification, args: object, result: object, key: str = ""
) -> tuple[dict[str, object], str]:
    """(the arguments, what is missing for them: a path, or an empty text)."""
    found: dict[str, object] = {}
    for name, value in said.arguments.items():
        if isinstance(value, str) and value.startswith((ARGS, RESULT)):
            root = args if value.startswith(ARGS) else opened(result)
            try:
                value = _at(root, value.removeprefix(ARGS).removeprefix(RESULT))
            except LookupError:
                return {}, str(said.arguments[name])
        elif value == KEY:
            if not key:
                return {}, KEY
            value = key
        found[name] = value
    return found, ""


def opened(result: object) -> object:
    """A result, or the JSON in it when it is a text with some."""
    if isinstance(result, str) and result[:1] in ("{", "["):
        try:
            return orjson.loads(result)
        except orjson.JSONDecodeError:
            return result
    return result


def _at(value: object, path: str) -> object:
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise LookupError(part)
        value = value[part]
    return value


def shared_value(args: object, result: object) -> str:
    """A value of a result that stands in a later call's arguments, whole; an empty text for none.

    Shorter texts and numbers than `MIN_SHARED_CHARS` occur by chance. It says no more than that: the value may come from elsewhere.
    """
    told = set(_leaves(opened(result)))
    return next((leaf for leaf in _leaves(args) if leaf in told), "")


def _leaves(value: object) -> Iterator[str]:
    """Texts and numbers in a value, as texts, in order."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif (
        isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and len(str(value)) >= MIN_SHARED_CHARS
    ):
        yield str(value)


def unfit(expect: str) -> str:
    """What is wrong with an expectation, or an empty text."""
    try:
        program = cel.compile(expect)
    except (ValueError, UnicodeError) as error:
        return f"does not compile: {' '.join(str(error).split())[:200]}"
    strange = sorted(set(program.variables()) - NAMES)
    return f"uses `{strange[0]}`, which is not one of {', '.join(sorted(NAMES))}" if strange else ""


def met(expect: str, result: object, args: object, original: object) -> tuple[bool, str]:
    """Whether what was read back is as expected, and why not. Whatever goes wrong in the expression is a no."""
    try:
        answer = cel.compile(expect).execute(
            {"result": opened(result), "args": args, "original": opened(original)}
        )
    except BaseException as error:  # a panic of the library is no `Exception`
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return False, f"`{expect}` cannot be told: {' '.join(str(error).split())[:200]}"
    return (True, "") if answer is True else (False, f"`{expect}` does not hold")
