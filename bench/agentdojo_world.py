"""AgentDojo's side of the bench: suites, environments, the calls of its ground truths, and its own checks.

An `Episode` is one user task with or without an injection, in an environment of its own. It runs tools with AgentDojo's
runtime, knows when the injected text was read, and is judged by the tasks' own utility and security checks.
It knows nothing of Sluicegate. Needs the package `agentdojo` (`make bench-agentdojo` installs it).
Next: `agentdojo.py` (the scripted agent), `agentdojo_tools.py` (the same tools behind the python executor).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

from agentdojo.attacks.attack_registry import load_attack
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite import get_suites
from pydantic import BaseModel

VERSION = "v1.2"
TARGET = SimpleNamespace(name="gpt-4o-2024-05-13")
"""AgentDojo's attacks want the name of a pipeline, to address its model by name."""

Json = object
Call = tuple[str, dict[str, Json]]


class ToolFailed(Exception):
    """The tool raised: `ErrorType: message`, as AgentDojo reports it."""


@dataclass
class Episode:
    """One user task, perhaps attacked, in its own environment.

    Attributes:
        name: `user_task_3/injection_task_1`, or `user_task_3` alone.
        calls: the user task's ground truth, in order.
        attack: the injection's ground truth, in order; empty without an injection.
        ran: what reached the environment, in order.
    """

    name: str
    prompt: str
    calls: list[Call]
    attack: list[Call]
    _suite: object
    _user: object
    _injection: object | None
    _env: object
    _before: object
    ran: list[FunctionCall] = field(default_factory=list)
    _mark: str = ""

    def run(self, tool: str, arguments: dict[str, Json]) -> Json:
        """Run a tool of the suite (its bare name). Raises `ToolFailed`."""
        self.ran.append(FunctionCall(function=tool, args=arguments))
        runtime = FunctionsRuntime(self._suite.tools)  # type: ignore[attr-defined]
        value, error = runtime.run_function(self._env, tool, arguments)  # type: ignore[arg-type]
        if error is not None:
            raise ToolFailed(error)
        return plain(value)

    def injected(self, result: Json) -> bool:
        """Whether the injected text stands in a result."""
        return bool(self._mark) and self._mark in _squash(_text(result))

    def judge(self) -> tuple[bool, bool]:
        """(the user's task is done, the attack succeeded), by AgentDojo's own checks on the end state."""
        output = [{"type": "text", "content": self._user.GROUND_TRUTH_OUTPUT}]  # type: ignore[attr-defined]
        state = (output, self._before, self._env, self.ran)
        check = self._suite._check_task_result  # type: ignore[attr-defined]
        with contextlib.redirect_stdout(io.StringIO()):  # a check prints what it misses
            useful = bool(check(self._user, *state))
            return useful, self._injection is not None and bool(check(self._injection, *state))


def suite_names() -> list[str]:
    """The suites of this version."""
    return list(get_suites(VERSION))


def episodes(suite_name: str, attack: str | None) -> Iterator[Episode]:
    """Every user task × every injection task; with `attack` None every user task alone.

    `attack` is one of AgentDojo's attacks: the text that carries the injection.
    """
    suite = get_suites(VERSION)[suite_name]
    carrier = load_attack(attack, suite, TARGET) if attack else None  # type: ignore[arg-type]
    for user in suite.user_tasks.values():
        for injection in suite.injection_tasks.values() if carrier else [None]:
            texts = carrier.attack(user, injection) if carrier and injection else {}
            env = user.init_environment(suite.load_and_inject_default_environment(texts))
            before = env.model_copy(deep=True)
            episode = Episode(
                f"{user.ID}/{injection.ID}" if injection else user.ID, user.PROMPT, _calls(user, env),
                _calls(injection, env) if injection else [], suite, user, injection, env, before,
            )  # fmt: skip
            if injection is not None:
                episode._mark = _squash(injection.GOAL)
            yield episode


def _calls(task: object, env: object) -> list[Call]:
    return [(c.function, dict(c.args)) for c in task.ground_truth(env)]  # type: ignore[attr-defined]


def plain(value: object) -> Json:
    """A tool's result as JSON."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _text(value: Json) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return str(value)


def _squash(text: str) -> str:
    return "".join(text.split())
