"""What texts name is there: files of this repository, commands, and the test that holds an `INVARIANT`.

Whether that test can fail, nothing here tells: break the code once and look. Read next: CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("schemas", "processors", "streams", "sinks", "executors", "gateway", "adapters")

FILE = re.compile(r"(?<![\w/.$}{<*-])((?:[\w-]+/)*[\w-]+\.(?:py|md|sql|avsc))\b")
"""A file of ours, as prose writes it; what begins elsewhere (`/…`, `../…`, `{…}/…`) is left out."""
NOT_OURS = frozenset(["prompts/NAME.md", "briefly/prompts/triage.md"])
"""What stands for a name, or is shown of another place."""


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name]


TRACKED = tracked()
SOURCES = [n for n in TRACKED if n.endswith(".py") and n.split("/")[0] in LAYERS]
PAGES = [n for n in TRACKED if n.endswith(".md")]
KNOWN = {name.removesuffix(".txt") for name in TRACKED}
COMMANDS = set(
    re.findall(r"^\| `([a-z][a-z -]+)`", (ROOT / "docs" / "commands.md").read_text("utf-8"), re.MULTILINE)
)
GROUPS = {name.split()[0] for name in COMMANDS}
COMMAND = re.compile(r"`sluicegate ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
ENDS = {"/".join(parts[i:]) for name in KNOWN if (parts := name.split("/")) for i in range(len(parts))}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each block of comments and of each docstring, those of constants included."""
    block, last = list[str](), 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != last + 1:
            yield last, " ".join(block)
            block = []
        block.append(token.string.lstrip("# "))
        last = line
    if block:
        yield last, " ".join(block)
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def missing(text: str) -> list[str]:
    """Files that a text names and that are not here."""
    return [name for name in FILE.findall(text) if name not in ENDS and name not in NOT_OURS]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def invariant_fault(said: str, tests: dict[str, set[str]]) -> str:
    """What is wrong with the tests that an `INVARIANT` names, or an empty text. `tests`: file -> its functions."""
    files = re.findall(r"\btests/[\w/]+(?:\.py)?", said)
    names = re.findall(r"\btest_\w+\b(?!\.py)", said)
    if not files and not names:
        return "it names no test"
    for file in files:
        if file not in tests and not any(known.startswith(file.rstrip("/") + "/") for known in tests):
            return f"there is no `{file}`"
    where = [file for file in files if file in tests] or list(tests)
    for name in names:
        if not any(name in tests[file] for file in where):
            return f"there is no `{name}`"
    return ""


@functools.cache
def all_tests() -> dict[str, set[str]]:
    return {n: functions(ROOT / n) for n in TRACKED if n.startswith("tests/") and n.endswith(".py")}


def invariants(text: str) -> Iterator[tuple[int, str]]:
    """Line and sentence, from its word on to the end of its paragraph."""
    for line, said in prose(text):
        for one in re.split(r"\bINVARIANT:", said)[1:]:
            yield line, one.split("\n\n")[0]


def test_every_invariant_names_a_test_that_is_there() -> None:
    tests, found, faults = all_tests(), 0, set[tuple[str, str]]()
    for name in SOURCES:
        for _, said in invariants((ROOT / name).read_text("utf-8")):
            found += 1
            if fault := invariant_fault(said, tests):
                faults.add((name, fault))
    assert not faults, faults
    assert found > 150


def test_every_file_that_comments_and_docstrings_name_is_there() -> None:
    faults = [
        (name, gone)
        for name in SOURCES
        for _, said in prose((ROOT / name).read_text("utf-8"))
        for gone in missing(said)
    ]
    assert not faults, faults


def unknown_commands(text: str) -> list[str]:
    """Commands that a text tells people to type, and that the page of commands (made from `--help`) does not have."""
    found = []
    for first, second in COMMAND.findall(text):
        if first not in COMMANDS and f"{first} {second}" not in COMMANDS and (second or first not in GROUPS):
            found.append(f"{first} {second}".strip())
    return found


@pytest.mark.parametrize("name", ["README.md", "docs", "examples", *LAYERS])
def test_every_command_that_is_named_is_there(name: str) -> None:
    files = [n for n in TRACKED if n == name or n.startswith(f"{name}/")]
    faults = {n: unknown_commands((ROOT / n).read_text("utf-8")) for n in files if n.endswith((".py", ".md"))}
    assert {n: found for n, found in faults.items() if found} == {}


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_is_there(name: str) -> None:
    assert missing((ROOT / name).read_text("utf-8")) == []


# -- the checks can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# INVARIANT: a\n# holds (tests/unit/test_names.py).\n", ""),
        (
            "# INVARIANT: a holds (tests/unit/test_names.py::test_a_relation).\n",
            "there is no `test_a_relation`",
        ),
        ("# INVARIANT: a holds (test_every_file_that_a_page_names_is_there).\n", ""),
        ("# INVARIANT: a holds (tests/unit/test_gone.py).\n", "there is no `tests/unit/test_gone.py`"),
        ("# INVARIANT: a holds (tests/crash, `ledger verify`).\n", ""),
        ("# INVARIANT: a holds.\n\n# tests/unit/test_names.py says more\n", "it names no test"),
        ('def f():\n    """F.\n\n    INVARIANT: a holds.\n    """\n', "it names no test"),
    ],
)
def test_an_invariant_without_its_test_is_found(text: str, fault: str) -> None:
    [(_, said)] = invariants(text)
    assert invariant_fault(said, all_tests()) == fault


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("run `sluicegate ledger verify`, `sluicegate alarms` or `sluicegate status -o json`", []),
        ("run `sluicegate down`", ["down"]),
        ("run `sluicegate ledger mend`", ["ledger mend"]),
    ],
)
def test_a_command_that_is_not_there_is_found(text: str, unknown: list[str]) -> None:
    assert unknown_commands(text) == unknown


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Next: `codec.py`, `processors/state.py`, docs/verify.md.", []),
        ("Next: `header.py`.", ["header.py"]),
        ("see processors/codec.py", ["processors/codec.py"]),
        ("see [them](../docs/verify.md) and `{home}/keys.py`", []),
    ],
)
def test_a_file_that_is_gone_is_found(text: str, gone: list[str]) -> None:
    assert missing(text) == gone
