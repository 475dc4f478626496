"""Expressions: CEL as a release writes it, compiled once, with what cannot work refused at once.

Known are the names the writer may use and `FUNCTIONS`, none of which knows a clock or anything outside. Never decides what
an answer means: guardrails refuse by it, routes choose by it. Next: `guardrails/rules.py`, `models/routes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import cel
from sluicegate.schemas.errors import Terminal

MAX_EXPRESSION_CHARS = 2_000
ERROR_CHARS = 200
FUNCTIONS = frozenset(
    ("size", "contains", "startsWith", "endsWith", "matches", "int", "double", "string", "timestamp", "duration")
)  # fmt: skip
"""Named functions of CEL that an expression may use: all of them know neither a clock nor anything outside."""

STRING = r"(?:[rR]?\"(?:[^\"\\]|\\.)*\"|[rR]?'(?:[^'\\]|\\.)*')"
_STRINGS = re.compile(STRING)
_PATTERNS = re.compile(rf"\bmatches\s*\(\s*(?:({STRING})\s*\))?")
_MACRO = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")


class ExpressionError(Exception):
    """An expression could not say yes or no."""


def compile_expression(
    text: str, where: str, known: Collection[str], functions: Collection[str] = FUNCTIONS
) -> cel.Program:
    """Compile one expression. Raises `Terminal` that begins with `where`."""
    try:
        program = cel.compile(text)
    except (ValueError, UnicodeError) as error:
        raise Terminal(f"{where} does not compile: {short(error)}") from error
    bare = without_texts(text)
    bound = {m[1] for m in _MACRO.finditer(bare)}
    for name in program.variables():
        if name not in known and name not in bound:
            raise Terminal(f"{where} uses `{name}`, which is not one of {', '.join(sorted(known))}")
    for name in program.functions():
        if name.isidentifier() and not name.startswith("_") and name not in functions:
            raise Terminal(f"{where} calls `{name}`, which is not one of {', '.join(sorted(functions))}")
    # INVARIANT: one walk over a list inside another would make the time quadratic in what an agent sends
    # (tests/unit/test_guardrails.py::test_a_rule_that_cannot_work_is_refused_with_its_id).
    if _nested(bare):
        raise Terminal(f"{where} looks through a list inside a list, write two rules")
    for found in _PATTERNS.finditer(text):
        _check_pattern(where, found[1])
    return program


def truth(program: cel.Program, context: cel.Context) -> bool:
    """The expression's answer. Raises `ExpressionError` when it has none."""
    try:
        answer = program.execute(context)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no `Exception`
        raise ExpressionError(" ".join(str(error).split())[:ERROR_CHARS]) from error
    if type(answer) is not bool:
        raise ExpressionError(f"it answers {type(answer).__name__}, not true or false")
    return answer


def without_texts(text: str) -> str:
    """The expression with every literal text emptied, to look for names in."""
    return _STRINGS.sub("''", text)


def short(error: Exception) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())[:300]


def _check_pattern(where: str, literal: str | None) -> None:
    if literal is None:
        raise Terminal(f"{where} makes a regular expression out of values, write it as one text in the rule")
    try:
        cel.evaluate("''.matches(p)", {"p": cel.evaluate(literal)})
    except (ValueError, RuntimeError) as error:
        raise Terminal(f"{where} has a regular expression that is none: {short(error)}") from error


def _nested(bare: str) -> bool:
    """Whether a macro stands within the parentheses of another."""
    for found in _MACRO.finditer(bare):
        depth, at = 1, found.end()
        while at < len(bare) and depth:
            depth += {"(": 1, ")": -1}.get(bare[at], 0)
            at += 1
        if _MACRO.search(bare, found.end(), at):
            return True
    return False
