"""The python adapter: real processes, results, and time-outs that really end the work."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import psutil
import pytest
from sluicegate.executors import python_worker
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.python import PythonAdapter
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import MAX_RESULT_BYTES

from tests.executor_fakes import dispatch, until

TOOLS = "tests.unit.python_tools"

Call = Callable[..., Awaitable[Answer]]


def run(
    scenario: Callable[[PythonAdapter, Call], Awaitable[None]], adapter: PythonAdapter | None = None
) -> None:
    """A scenario with an adapter that may run `python_tools`."""

    async def main() -> None:
        made = adapter or PythonAdapter(prefixes=[TOOLS], processes=2)

        async def call(function: str, *, timeout_s: float = 20.0, **arguments: object) -> Answer:
            entry = function if ":" in function or not function.islower() else f"{TOOLS}:{function}"
            executor = orjson.dumps({"kind": "python", "entry": entry})
            return await made.call(
                dispatch(1, executor=executor, arguments=orjson.dumps(arguments)), timeout_s
            )

        try:
            await scenario(made, call)
        finally:
            await made.close()

    asyncio.run(main())


def value(answer: Answer) -> object:
    assert isinstance(answer, Finished), answer
    return json.loads(answer.result)


def test_results() -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        assert value(await call("add", a=2, b=3)) == 5
        assert value(await call("later", value={"ü": [None, True]})) == {"ü": [None, True]}
        assert value(await call("noisy")) == "quiet"
        assert value(await call("add", a=1)) == 1

    run(scenario)


def test_a_process_is_kept_and_is_not_this_one() -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        first, second = value(await call("pid")), value(await call("pid"))
        assert first == second != os.getpid()

    run(scenario)


@pytest.mark.parametrize(
    ("function", "arguments", "error_class", "error"),
    [
        ("fail", {"text": "first line\nsecond line with a secret"}, "crashed", "ValueError: first line"),
        ("fail", {"text": ""}, "crashed", "ValueError: "),
        ("leave", {}, "crashed", "SystemExit: 3"),
        ("die", {}, "crashed", "the process of the function ended before it answered"),
        ("no_json", {}, "malformed_result", "the result is no json (TypeError)"),
        ("nan", {}, "malformed_result", "the result is no json (ValueError)"),
        ("sized", {"count": MAX_RESULT_BYTES - 1}, "result_too_large", None),
        ("missing", {}, "crashed", None),
        ("add", {"no": 1}, "crashed", None),
    ],
)
def test_failures(function: str, arguments: dict[str, object], error_class: str, error: str | None) -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        answer = await call(function, **arguments)
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == (error_class, True)
        assert error is None or answer.error == error
        assert value(await call("add", a=1, b=1)) == 2  # the next call is not harmed

    run(scenario)


def test_largest_result_passes() -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        assert value(await call("sized", count=MAX_RESULT_BYTES - 2)) == "x" * (MAX_RESULT_BYTES - 2)

    run(scenario)
    assert python_worker.MAX_RESULT_BYTES == MAX_RESULT_BYTES


def test_a_function_can_ask_about_its_call() -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        got = value(await call("about", value=7))
        assert got == [
            7,
            {
                "tool": "a.tool", "agent_id": "agent-1", "session_id": "session-1", "intent_id": "intent-1",
                "idempotency_key": "key-agent-1-1", "attempt": 1,
            },
        ]  # fmt: skip
        for function in ("about", "add"):
            answer = await call(function, value=7, sluicegate_call={"session_id": "another"})
            assert isinstance(answer, Failed) and "not the agent's to set" in answer.error

    run(scenario)


@pytest.mark.parametrize("function", ["busy", "child"])
def test_timeout_really_ends_the_work(function: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        await call("pid")  # a process is there, so the time-out hits the work and not its start
        process = psutil.Process(adapter._idle[0].pid)
        began = time.monotonic()
        answer = await call(function, timeout_s=0.3, mark=str(mark), seconds=1.2)
        assert time.monotonic() - began < 1.0
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("timeout", True)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        assert value(await call("add", a=1, b=1)) == 2  # a new process took its place
        await asyncio.sleep(max(0.0, began + 1.6 - time.monotonic()))
        assert not mark.exists()

    run(scenario)


def test_the_pool_serves_on_after_functions_that_loop_for_ever(tmp_path: Path) -> None:
    """One more of them than there are processes."""

    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        for n in range(3):
            await call("pid")
            answer = await call("busy", timeout_s=0.3, mark=str(tmp_path / f"mark-{n}"), seconds=1e9)
            assert isinstance(answer, Failed) and answer.error_class == "timeout"
        assert [value(await call("add", a=n, b=1)) for n in range(3)] == [1, 2, 3]

    run(scenario)


def test_the_mark_is_left_when_there_is_time(tmp_path: Path) -> None:
    """What the test above proves the absence of would be seen."""

    async def scenario(_: PythonAdapter, call: Call) -> None:
        for function in ("busy", "child"):
            mark = tmp_path / function
            assert value(await call(function, mark=str(mark), seconds=0.05)) is None
            assert mark.exists()

    run(scenario)


def test_cancelling_the_call_ends_the_work(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        process = psutil.Process(int(str(value(await call("pid")))))
        task = asyncio.ensure_future(call("busy", mark=str(mark), seconds=30))
        await until(lambda: not adapter._idle)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    run(scenario)
    assert not mark.exists()


def test_no_free_process_in_time_is_proof_that_nothing_ran(tmp_path: Path) -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        await call("pid")
        long = asyncio.ensure_future(call("busy", mark=str(tmp_path / "mark"), seconds=0.6))
        await asyncio.sleep(0.1)
        answer = await call("add", timeout_s=0.1, a=1)
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("timeout", False)
        assert value(await long) is None

    run(scenario, PythonAdapter(prefixes=[TOOLS], processes=1))


def test_calls_run_side_by_side_up_to_the_bound(tmp_path: Path) -> None:
    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        answers = await asyncio.gather(*[call("pid") for _ in range(6)])
        assert len({value(answer) for answer in answers}) <= 2
        assert len(adapter._idle) == 2

    run(scenario)


@pytest.mark.parametrize(
    "entry",
    [
        "os:getpid",
        "tests.unit:add",
        TOOLS + "_more:add",
        f"{TOOLS}:add.__globals__",
        f"{TOOLS}:_private",
        f"{TOOLS}",
        "",
        "../x:y",
    ],
)
def test_entry_off_the_list(entry: str) -> None:
    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        executor = orjson.dumps({"kind": "python", "entry": entry})
        answer = await adapter.call(dispatch(1, executor=executor), 5)
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("egress_denied", False)
        assert adapter._idle == []  # no process was even started

    run(scenario)


@pytest.mark.parametrize("name", ["getpid", "subprocess", "Path", "TOOLS"])
def test_what_a_tool_module_imports_is_no_tool(name: str) -> None:
    async def scenario(_: PythonAdapter, call: Call) -> None:
        answer = await call(f"{TOOLS}:{name}")
        assert isinstance(answer, Failed)
        assert answer.error_class == "crashed"

    run(scenario)


def test_named_entries() -> None:
    adapter = PythonAdapter({"sum": f"{TOOLS}:add"})

    async def scenario(_: PythonAdapter, call: Call) -> None:
        executor = orjson.dumps({"kind": "python", "entry": "sum"})
        assert value(await adapter.call(dispatch(1, executor=executor, arguments=b'{"a":4}'), 20)) == 4
        direct = await call(f"{TOOLS}:add", a=1)
        assert isinstance(direct, Failed)
        assert direct.error_class == "egress_denied"

    run(scenario, adapter)


def test_from_env() -> None:
    adapter = PythonAdapter.from_env({"SLUICEGATE_PYTHON_TOOLS": f" sum={TOOLS}:add , tests.unit ,"})
    assert adapter._entries == {"sum": f"{TOOLS}:add"}
    assert adapter._prefixes == ("tests.unit",)
    for text in ("no module", "x=notafunction", "a.b:c"):
        with pytest.raises(Terminal, match="SLUICEGATE_PYTHON_TOOLS"):
            PythonAdapter.from_env({"SLUICEGATE_PYTHON_TOOLS": text})


def test_tools_do_not_see_our_own_variables() -> None:
    environ = {**os.environ, "SLUICEGATE_KAFKA_PASSWORD": "canary", "SLUICEGATE_SECRET_X": "for tools"}

    async def scenario(_: PythonAdapter, call: Call) -> None:
        names = value(await call("environment"))
        assert isinstance(names, list)
        assert "SLUICEGATE_SECRET_X" in names
        assert "SLUICEGATE_KAFKA_PASSWORD" not in names

    run(scenario, PythonAdapter(prefixes=[TOOLS], environ=environ))


def test_worker_ends_when_its_parent_is_gone() -> None:
    """The pipe closes, as it does when the parent is killed, in the middle of a tool."""

    async def scenario(adapter: PythonAdapter, call: Call) -> None:
        await call("pid")
        process = adapter._idle[0]
        assert process.stdin is not None
        frame = orjson.dumps(
            {
                "module": TOOLS,
                "function": "busy",
                "arguments": {"mark": "/dev/null", "seconds": 30},
                "inside": [TOOLS],
            }
        )
        process.stdin.write(python_worker.LENGTH.pack(len(frame)) + frame)
        await process.stdin.drain()
        await asyncio.sleep(0.1)
        process.stdin.close()
        async with asyncio.timeout(5):
            await process.wait()

    run(scenario)
