"""The layers: schemas ◀ processors ◀ {streams, sinks, executors, gateway, adapters}, read from the sources' own syntax.

Pure layers import no clock, chance, network, storage or files; every module says what it is and stays readable in one
sitting; nothing tracked names a machine. Each check is shown to fail on a counterexample.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("schemas", "processors")
OUTER = ("streams", "sinks", "executors", "gateway", "adapters")
ALLOWED = {"schemas": {"schemas"}, "processors": {*PURE}} | {layer: {*PURE, *OUTER} for layer in OUTER}
"""Layer -> the layers it may import."""

IMPURE = frozenset(
    [
        "time",
        "random",
        "secrets",
        "uuid",
        "asyncio",
        "threading",
        "multiprocessing",
        "concurrent",
        "subprocess",
        "signal",
        "select",
        "selectors",
        "socket",
        "ssl",
        "http",
        "urllib",
        "aiohttp",
        "httpx",
        "requests",
        "aiokafka",
        "confluent_kafka",
        "kafka",
        "faust",
        "mode",
        "sqlite3",
        "dbm",
        "shelve",
        "clickhouse",
        "clickhouse_connect",
        "chdb",
        "os",
        "sys",
        "pathlib",
        "shutil",
        "tempfile",
        "glob",
    ]
)
"""Modules that bring in a clock, chance, the network, storage, files or the process."""
IMPURE_NAMES = frozenset(("now", "utcnow", "today", "open", "input", "__import__", "getrandbits", "urandom"))
"""Calls that do the same without an import of their own (`datetime.now()`, `open()`)."""
MAY_IMPORT = {"schemas/codec.py": {"importlib.resources"}}
MAX_LINES = 400

MACHINE_PATH = re.compile(
    r"(?<![\w.$}])(?:/(?:home|Users)/[A-Za-z][\w.-]*/|/(?:root|work)/[\w.]|[A-Za-z]:\\\\?Users\\)"
)
"""A path that exists on one machine only."""


def modules(*layers: str) -> list[Path]:
    """The layers' source files."""
    return sorted(p for layer in layers for p in (ROOT / layer).rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported name, dotted, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_faults(layer: str, tree: ast.AST) -> list[str]:
    """Imports that point outwards."""
    found = []
    for name in imported(tree):
        head, *rest = name.split(".")
        if head == "sluicegate" and (not rest or rest[0] not in ALLOWED[layer]):
            found.append(name)
        if head == "tests":
            found.append(name)
    return found


def impurities(tree: ast.AST, allowed: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """What a pure module must not touch."""
    found = []
    for name in imported(tree):
        if name.split(".")[0] in IMPURE or (name.startswith("importlib") and name not in allowed):
            found.append(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in IMPURE_NAMES:
                found.append(f"{called}()")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append("async")
    return found


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_inwards_only(layer: str) -> None:
    faults = {name_of(p): layer_faults(layer, ast.parse(p.read_text("utf-8"))) for p in modules(layer)}
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize("path", modules(*PURE), ids=name_of)
def test_pure_layers_touch_nothing(path: Path) -> None:
    allowed = MAY_IMPORT.get(name_of(path), set())
    assert impurities(ast.parse(path.read_text("utf-8")), allowed) == []


@pytest.mark.parametrize("path", modules(*PURE, *OUTER), ids=name_of)
def test_every_module_says_what_it_is_and_is_not_too_long(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.name == "__init__.py" and not text.strip():
        return  # marks a package, says nothing
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= MAX_LINES


def command_faults(tree: ast.AST) -> list[str]:
    """Modules of commands that are imported: what others need stands beside them."""
    return [name for name in imported(tree) if name.startswith("sluicegate.streams.commands.")]


def test_only_commands_import_commands() -> None:
    others = [p for p in modules(*PURE, *OUTER) if p.parent.name != "commands"]
    faults = {name_of(p): command_faults(ast.parse(p.read_text("utf-8"))) for p in others}
    assert {name: found for name, found in faults.items() if found} == {}


def test_every_layer_that_exists_is_covered() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "bench", "docs", "examples"} <= set(ALLOWED)
    assert set(PURE) | {"streams", "sinks", "executors"} <= packages  # the walk above found something


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path.is_symlink():
            continue
        try:
            yield name, path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # an archive


def test_no_tracked_file_names_a_machine() -> None:
    found = {}
    for name, text in tracked_texts():
        hits = [m.group() for m in MACHINE_PATH.finditer(text)]
        if hits and name != name_of(Path(__file__)):
            found[name] = hits[:3]
    assert found == {}


# -- the checks can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("schemas", "from sluicegate.processors import state"),
        ("schemas", "import sluicegate"),
        ("processors", "from sluicegate.streams.kafka import producer"),
        ("processors", "def f():\n    from sluicegate import sinks"),
        ("streams", "from sluicegate.bench import x"),
        ("sinks", "from tests.driver import Driver"),
    ],
)
def test_an_outward_import_is_found(layer: str, source: str) -> None:
    assert layer_faults(layer, ast.parse(source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from datetime import datetime\nx = datetime.now()",
        "def f():\n    import random",
        "import importlib",
        "open('x')",
        "async def f():\n    await g()",
        "from pathlib import Path",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert impurities(ast.parse(source)) != []


def test_an_import_of_a_command_is_found() -> None:
    assert command_faults(ast.parse("from sluicegate.streams.commands.topics import counts")) != []
    assert command_faults(ast.parse("from sluicegate.streams import commands, topics")) == []


def test_a_relative_import_is_found() -> None:
    with pytest.raises(AssertionError, match="relative"):
        layer_faults("schemas", ast.parse("from . import codec"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see " + "/ho" + "me/someone/x", True),
        ("'" + "/Us" + "ers/someone/x'", True),
        ("cd " + "/wo" + "rk/main", True),
        ("/ro" + "ot/.cache", True),
        ("C:\\Us" + "ers\\someone", True),
        ("https://example.com/home/page/", False),
        ("$HOME/work/x, <home>/roles, /homework/", False),
    ],
)
def test_a_machine_path_is_told_from_others(text: str, named: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is named
