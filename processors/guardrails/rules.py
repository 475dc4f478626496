"""Guardrails as a release writes them, and compiled: what must not be in a call or a result.

    guardrails:                        # in release.yaml
      - id: no-cards-in-mail
        on: call                       # or result
        tools: ["mail.*"]              # names with `*`
        detect: [card, iban]           # what is looked for (guardrails/detectors.py) ...
        fields: [args.body]            # ... and where; everywhere when absent
        when: args.to.endsWith("@example.org")      # CEL; with `detect`, both must hold
        verdict: refuse                # refuse | hold | redact on a call, withhold | redact on a result
        mode: enforce                  # or observe: recorded, not applied
        say: do not send card numbers by mail
      - id: ask-the-sanctions-list
        on: call
        plugin: sanctions              # an entry point of the group `sluicegate.guardrails`, run by an executor
        timeout_ms: 500
        verdict: refuse                # or hold: what its objection means
        on_failure: refuse             # or hold, pass: when it hangs, crashes or is not there

Everything is compiled once a release. What cannot work (an expression that does not parse, a name nobody knows, a pattern
that is no regular expression) is refused here, with the rule's id. Never evaluates a rule. Next: `guardrails/guardrails.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import cel
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sluicegate.processors.conform import Json
from sluicegate.processors.guardrails.detectors import DETECTORS
from sluicegate.processors.guardrails.recall_rules import Recalled
from sluicegate.processors.guardrails.recipes import NoSuchPath, compile_recipes, look_up, steps_of
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.policy.expressions import FUNCTIONS as COMMON
from sluicegate.processors.policy.expressions import (
    MAX_EXPRESSION_CHARS,
    STRING,
    compile_expression,
    without_texts,
)
from sluicegate.schemas.errors import Terminal

MAX_RULES = 200
"""Guardrails in one release. One costs 1 to 20 us a call it is about, and a call is rarely about more than ten."""
MAX_SAY_CHARS = 300

DEFAULT_PLUGIN_MS, MAX_PLUGIN_MS = 2_000, 30_000
MAX_PLUGINS = 8
"""Plug-ins asked about one call, one after the other."""

CALL_VERDICTS, RESULT_VERDICTS = ("refuse", "hold", "redact"), ("withhold", "redact")

_SHARED = frozenset(("tool", "agent", "session", "environment"))
VARIABLES = {"call": _SHARED | {"args", "seen"}, "result": _SHARED | {"result"}}
FUNCTIONS = COMMON | {"detects"}
"""Named functions of CEL that a rule may use."""

_KINDS = re.compile(rf"\bdetects\s*\(\s*(?:({STRING})\s*,)?")
_ARGUMENT = re.compile(r"\bargs\.([A-Za-z_]\w*)")
_SEEN = re.compile(r"\bseen\b(?:\.([A-Za-z_]\w*))?")


class Guardrail(BaseModel):
    """One rule of `release.yaml`."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    on: Literal["call", "result"]
    tools: list[str] = Field(["*"], min_length=1, max_length=100)
    when: str = Field("", max_length=MAX_EXPRESSION_CHARS)
    detect: list[str] = []
    fields: list[str] = Field([], max_length=32)
    verdict: Literal["", "refuse", "hold", "redact", "withhold"] = ""
    mode: Literal["enforce", "observe"] = "enforce"
    say: str = Field("", max_length=MAX_SAY_CHARS)
    plugin: str = Field("", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    timeout_ms: int = Field(DEFAULT_PLUGIN_MS, gt=0, le=MAX_PLUGIN_MS)
    on_failure: Literal["refuse", "hold", "pass"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _on(cls, value: object) -> object:
        """YAML 1.1 reads the bare key `on` as true."""
        if isinstance(value, dict) and True in value:
            return {("on" if key is True else key): item for key, item in value.items()}
        return value


@dataclass(frozen=True, slots=True)
class Rule:
    """A guardrail compiled for one tool.

    Attributes:
        program: the compiled `when`, None when there is none.
        kinds: detectors, all of which are asked; empty when there are none.
        fields: steps of the paths that the detectors look at.
        recipes: what `redact` takes out.
        plugin: the plug-in to ask, or empty; `on_failure`: what its failure means, `refuse`, `hold` or `pass`.
        seen: the names of earlier results that the program looks at.
    """

    rule_id: str
    verdict: str
    observe: bool
    say: str
    program: cel.Program | None
    kinds: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    recipes: tuple[str, ...]
    plugin: str = ""
    timeout_ms: int = 0
    on_failure: str = "refuse"
    seen: tuple[Recalled, ...] = ()


@dataclass(frozen=True, slots=True)
class Guardrails:
    """The rules of a release by tool, in the order they stand in `release.yaml`."""

    calls: dict[str, tuple[Rule, ...]]
    results: dict[str, tuple[Rule, ...]]


NO_GUARDRAILS = Guardrails({}, {})


def compile_guardrails(
    guardrails: Sequence[Guardrail], inputs: dict[str, dict[str, Json]], outputs: dict[str, dict[str, Json]],
    recalls: dict[str, Recalled] | None = None,
) -> Guardrails:  # fmt: skip
    """Compile. `inputs` and `outputs`: tool -> JSON Schema. Raises `Terminal` with the rule's id."""
    if len(guardrails) > MAX_RULES:
        raise Terminal(f"`release.yaml` has {len(guardrails)} guardrails, at most {MAX_RULES} are taken")
    calls: dict[str, list[Rule]] = {}
    results: dict[str, list[Rule]] = {}
    seen: set[str] = set()
    for guardrail in guardrails:
        if guardrail.id in seen:
            raise Terminal(f"guardrail `{guardrail.id}` stands twice, rename one")
        seen.add(guardrail.id)
        on_call = guardrail.on == "call"
        for tool, rule in _compile(guardrail, inputs if on_call else outputs, recalls or {}):
            (calls if on_call else results).setdefault(tool, []).append(rule)
    for tool, rules in calls.items():
        if sum(bool(rule.plugin) for rule in rules) > MAX_PLUGINS:
            raise Terminal(f"tool `{tool}` has more than {MAX_PLUGINS} guardrails with plug-ins")
    return Guardrails({t: tuple(r) for t, r in calls.items()}, {t: tuple(r) for t, r in results.items()})


def _compile(
    guardrail: Guardrail, schemas: dict[str, dict[str, Json]], recalls: dict[str, Recalled]
) -> Iterator[tuple[str, Rule]]:
    where = f"guardrail `{guardrail.id}`"
    named = HANDOFF in guardrail.tools  # by its name only: `*` means tools
    tools = [
        t for t in sorted(schemas)
        if (named if t == HANDOFF else any(fnmatchcase(t, pattern) for pattern in guardrail.tools))
    ]  # fmt: skip
    if not tools:
        raise Terminal(f"{where} is about `{', '.join(guardrail.tools)}`, and no contract has such a name")
    allowed = CALL_VERDICTS if guardrail.on == "call" else RESULT_VERDICTS
    verdict = guardrail.verdict or allowed[0]
    if verdict not in allowed:
        raise Terminal(f"{where} says `{verdict}` on a {guardrail.on}, choose one of {', '.join(allowed)}")
    if HANDOFF in tools and (verdict != "refuse" or guardrail.plugin or guardrail.mode == "observe"):
        raise Terminal(
            f"{where} is about hand-offs, which it can only refuse: no plug-in, no `mode: observe`"
        )
    if guardrail.plugin and (guardrail.on != "call" or verdict == "redact" or guardrail.detect):
        raise Terminal(
            f"{where} asks a plug-in, which can refuse or hold a call: it takes `when`, no `detect`"
        )
    if not guardrail.when and not guardrail.detect and not guardrail.plugin:
        raise Terminal(f"{where} looks for nothing, give it `when` or `detect`")
    for kind in guardrail.detect:
        if kind not in DETECTORS:
            raise Terminal(f"{where} detects `{kind}`, which is not one of {', '.join(DETECTORS)}")
    if verdict == "redact" and not guardrail.detect and not guardrail.fields:
        raise Terminal(f"{where} redacts nothing, give it `fields` or `detect`")
    program = _program(guardrail, where, [schemas[t] for t in tools]) if guardrail.when else None
    recalled = _recalled(guardrail.when, where, recalls)
    if HANDOFF in tools and recalled:
        raise Terminal(f"{where} is about hand-offs and uses `seen`, which only calls have")
    kinds = tuple(k for k in DETECTORS if k in guardrail.detect)
    missing: list[NoSuchPath] = []
    for tool in tools:
        fields = []
        for path in guardrail.fields or ["$"]:
            try:
                fields.append(look_up(schemas[tool], path, where)[0])
            except NoSuchPath as error:
                missing.append(error)
        if not fields:
            continue
        recipes: tuple[str, ...] = ()
        if verdict == "redact" and kinds:
            recipes = tuple(f"{path}#{','.join(kinds)}" for path in fields)
        elif verdict == "redact":
            recipes = compile_recipes(schemas[tool], fields, where)
        steps = tuple(tuple(steps_of(path)) for path in fields)
        yield (
            tool,
            Rule(
                guardrail.id, verdict, guardrail.mode == "observe", guardrail.say, program, kinds, steps, recipes,
                guardrail.plugin, guardrail.timeout_ms, guardrail.on_failure, recalled,
            ),
        )  # fmt: skip
    if len(missing) >= len(tools) * max(1, len(guardrail.fields)):
        raise missing[0]


def _program(guardrail: Guardrail, where: str, schemas: list[dict[str, Json]]) -> cel.Program:
    text = guardrail.when
    program = compile_expression(text, where, VARIABLES[guardrail.on], FUNCTIONS)
    for found in _KINDS.finditer(text):
        kind = cel.evaluate(found[1]) if found[1] else ""
        if kind not in DETECTORS:
            raise Terminal(f"{where} detects `{kind or '?'}`, write one of {', '.join(DETECTORS)} as a text")
    _check_arguments(where, without_texts(text), schemas)
    return program


def _recalled(text: str, where: str, recalls: dict[str, Recalled]) -> tuple[Recalled, ...]:
    names = {m[1] for m in _SEEN.finditer(without_texts(text))}
    for name in names:
        if name not in recalls:
            known = ", ".join(sorted(recalls)) or "nothing"
            raise Terminal(f"{where} uses `seen.{name or '?'}`, and `recall` in `release.yaml` has {known}")
    return tuple(recalls[name] for name in sorted(names))


def _check_arguments(where: str, bare: str, schemas: list[dict[str, Json]]) -> None:
    for name in sorted({m[1] for m in _ARGUMENT.finditer(bare)}):
        missing: list[NoSuchPath] = []
        for schema in schemas:
            try:
                look_up(schema, name, where)
            except NoSuchPath as error:
                missing.append(error)
        if len(missing) == len(schemas):
            raise missing[0]
