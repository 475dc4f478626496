"""The public functions of a Python module as tools: arguments and types from their signatures.

Imports the module, and so runs its top level, with the rights of whoever asks; calls nothing in it.
Next: `processors/releases/first_contracts.py`, `commands/release_init.py`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from sluicegate.processors.releases.first_contracts import Found
from sluicegate.schemas.errors import Terminal


def functions_of(name: str, prefix: str) -> list[Found]:
    """One tool for each public function that the module defines. Raises `Terminal`, also for an unusable signature."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        module = importlib.import_module(name)
    except Exception as error:  # its top level is anybody's code
        raise Terminal(
            f"module `{name}` cannot be imported: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    public = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = []
    for function_name in public:
        function = getattr(module, function_name, None)
        if inspect.isfunction(function) and (function.__module__ == name or hasattr(module, "__all__")):
            executor: dict[str, object] = {"kind": "python", "entry": f"{name}:{function_name}"}
            description = inspect.getdoc(function) or ""
            found.append(
                Found(prefix + function_name, description.split("\n\n")[0], _schema(name, function), executor)
            )
    return found


def _schema(module: str, function: Any) -> dict[str, object]:
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
        raise Terminal(f"`{module}.{function.__name__}` takes arguments by place, a tool has them by name")
    try:
        schema: dict[str, object] = TypeAdapter(function).json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Terminal(
            f"`{module}.{function.__name__}` has a signature without a JSON schema: {said}"
        ) from error
    return schema
