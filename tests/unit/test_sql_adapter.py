"""The sql adapter against real sqlite files: parameters, read-only, bounds, and statements that are cut."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.sql import SqlAdapter
from sluicegate.schemas.errors import Terminal

from tests.executor_fakes import dispatch

SELECT = "select id, name from people where name = :name order by id"
INSERT = "insert into people (id, name) values (:id, :name)"
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) as c from n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table people (id integer primary key, name text, photo blob)")
        connection.executemany(
            "insert into people (id, name) values (?, ?)", [(1, "ann"), (2, "bo"), (3, "ann")]
        )
    return path


def run(
    file: Path, statement: str, arguments: dict[str, object] | None = None, *, tool_class: str = "read_only",
    mode: str = "", timeout_s: float = 5.0, **executor: object,
) -> Answer:  # fmt: skip
    async def main() -> Answer:
        adapter = SqlAdapter.from_env({"SLUICEGATE_SQL_DATABASES": f"people={mode}{file}"})
        contract = {"kind": "sql", "database": "people", "statement": statement, **executor}
        work = dispatch(
            1, executor=orjson.dumps(contract), arguments=orjson.dumps(arguments or {}), tool_class=tool_class
        )
        try:
            return await adapter.call(work, timeout_s)
        finally:
            await adapter.close()

    return asyncio.run(main())


def people(file: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("select id, name from people order by id").fetchall()


def failed(answer: Answer) -> tuple[str, bool]:
    assert isinstance(answer, Failed), answer
    return answer.error_class, answer.sent


def test_rows_by_parameters(file: Path) -> None:
    answer = run(file, SELECT, {"name": "ann"})
    assert answer == Finished(b'{"rows":[{"id":1,"name":"ann"},{"id":3,"name":"ann"}],"truncated":false}')
    assert run(file, SELECT, {"name": "nobody"}) == Finished(b'{"rows":[],"truncated":false}')


@pytest.mark.parametrize(
    "name", ["' or 1=1 --", "ann'; drop table people; --", '" or ""="', "ann\0", "%", ":name", "?", "\\"]
)
def test_text_of_a_call_is_only_ever_a_value(file: Path, name: str) -> None:
    assert run(file, SELECT, {"name": name}) == Finished(b'{"rows":[],"truncated":false}')
    run(file, INSERT, {"id": 9, "name": name}, write=True, mode="rw:", tool_class="irreversible")
    assert people(file)[-1] == (9, name)
    assert len(people(file)) == 4


@pytest.mark.parametrize(
    ("mode", "write", "tool_class", "error_class"),
    [
        ("", False, "irreversible", "refused_by_tool"),
        ("rw:", False, "irreversible", "refused_by_tool"),
        ("", True, "irreversible", "egress_denied"),
        ("rw:", True, "read_only", "egress_denied"),
    ],
)
def test_nothing_is_written_unless_all_say_so(
    file: Path, mode: str, write: bool, tool_class: str, error_class: str
) -> None:
    answer = run(file, INSERT, {"id": 9, "name": "x"}, mode=mode, write=write, tool_class=tool_class)
    assert failed(answer) == (error_class, False)
    assert len(people(file)) == 3
    answer = run(file, INSERT, {"id": 9, "name": "x"}, mode="rw:", write=True, tool_class="idempotent")
    assert answer == Finished(b'{"rows":[],"truncated":false,"changed":1}')
    assert people(file)[-1] == (9, "x")


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "drop table people", "create table t (a)", "alter table people add column x", "attach 'other.db' as other",
        "pragma table_info(people)", "pragma writable_schema = on", "vacuum", "begin", "commit", "savepoint a",
        "select 1; delete from people", "select load_extension('x')", "", "select", "select * from nowhere",
        "update sqlite_master set sql = ''", "delete from people where id = ?", "insert into people (id) values (1)",
    ],
)  # fmt: skip
def test_what_is_no_plain_statement(file: Path, statement: str, write: bool) -> None:
    answer = run(file, statement, {"id": 1}, write=write, mode="rw:", tool_class="irreversible")
    if statement == "" and not write:
        assert answer == Finished(b'{"rows":[],"truncated":false}')
    elif statement == "":
        assert answer == Finished(b'{"rows":[],"truncated":false,"changed":0}')
    else:
        assert failed(answer)[1] is False
    assert [name for _, name in people(file)] == ["ann", "bo", "ann"]
    assert [p.name for p in file.parent.iterdir()] == ["people.db"]


def test_a_statement_that_fails_half_way_changes_nothing(file: Path) -> None:
    statement = "update people set id = id + 1 where id >= :id"
    answer = run(file, statement, {"id": 1}, write=True, mode="rw:", tool_class="irreversible")
    assert failed(answer) == ("refused_by_tool", False)
    assert [i for i, _ in people(file)] == [1, 2, 3]


def test_more_changes_than_the_contract_allows_are_rolled_back(file: Path) -> None:
    for statement in ("delete from people", "delete from people returning id"):
        answer = run(file, statement, write=True, mode="rw:", tool_class="irreversible", max_rows=2)
        assert failed(answer) == ("refused_by_tool", False)
        assert len(people(file)) == 3
    answer = run(
        file, "delete from people returning id", write=True, mode="rw:", tool_class="irreversible", max_rows=3
    )
    assert answer == Finished(b'{"rows":[{"id":1},{"id":2},{"id":3}],"truncated":false,"changed":3}')


def test_rows_are_bounded_and_said_to_be(file: Path) -> None:
    assert run(file, "select id from people", max_rows=2) == Finished(
        b'{"rows":[{"id":1},{"id":2}],"truncated":true}'
    )
    assert run(file, "select id from people", max_rows=3) == Finished(
        b'{"rows":[{"id":1},{"id":2},{"id":3}],"truncated":false}'
    )
    many = "with recursive n(i) as (select 1 union all select i + 1 from n limit 500) select i from n"
    answer = run(file, many)
    assert isinstance(answer, Finished) and len(orjson.loads(answer.result)["rows"]) == 100


def test_bytes_are_bounded(file: Path) -> None:
    assert failed(run(file, "select hex(zeroblob(40000)) as x")) == ("result_too_large", True)
    assert (
        failed(run(file, "select hex(zeroblob(900000)) as x"))[0] == "refused_by_tool"
    )  # sqlite's own bound


def test_what_json_cannot_say(file: Path) -> None:
    assert failed(run(file, "select x'00ff' as x")) == ("malformed_result", True)
    assert failed(run(file, "select 1 as x, 2 as x")) == ("malformed_result", True)


@pytest.mark.parametrize(
    "arguments", [{}, {"name": ["ann"]}, {"name": {"a": 1}}, {"name": 2**70}, {"other": "ann"}]
)  # fmt: skip
def test_arguments_that_fit_no_parameter(file: Path, arguments: dict[str, object]) -> None:
    if arguments.get("name") == 2**70:
        arguments = {"name": 2**64 - 1}  # the most json can say here
    assert failed(run(file, SELECT, arguments))[1] is False


@pytest.mark.parametrize("tool_class", ["read_only", "irreversible"])
def test_an_endless_statement_is_cut_with_proof(file: Path, tool_class: str) -> None:
    write = tool_class == "irreversible"
    statement = f"insert into people (id) select c from ({ENDLESS})" if write else ENDLESS
    answer = run(file, statement, write=write, mode="rw:", tool_class=tool_class, timeout_s=0.1)
    assert failed(answer) == ("timeout", False)
    assert len(people(file)) == 3


def test_a_locked_database_is_waited_for_in_time_only(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin exclusive")
        answer = run(
            file,
            INSERT,
            {"id": 9, "name": "x"},
            write=True,
            mode="rw:",
            tool_class="irreversible",
            timeout_s=0.2,
        )
        assert failed(answer) == ("timeout", False)


def test_a_call_that_is_cut_rolls_back(file: Path) -> None:
    async def main() -> None:
        adapter = SqlAdapter.from_env({"SLUICEGATE_SQL_DATABASES": f"people=rw:{file}"})
        statement = f"insert into people (id) select c from ({ENDLESS})"
        contract = {"kind": "sql", "database": "people", "statement": statement, "write": True}
        task = asyncio.create_task(adapter.call(dispatch(1, executor=orjson.dumps(contract)), 60))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        adapter._threads.shutdown(wait=True)  # it ends, and soon: the suite's own time-out says so
        await adapter.close()

    asyncio.run(main())
    assert len(people(file)) == 3


def test_a_call_that_finds_no_free_thread_says_so(file: Path) -> None:
    async def main() -> list[Answer]:
        adapter = SqlAdapter.from_env({"SLUICEGATE_SQL_DATABASES": f"people={file}"})
        contract = {"kind": "sql", "database": "people", "statement": ENDLESS}
        work = dispatch(1, executor=orjson.dumps(contract))
        blocking = [asyncio.create_task(adapter.call(work, 0.5)) for _ in range(4)]
        await asyncio.sleep(0)
        late = await adapter.call(work, 0.05)
        answers = [late, *await asyncio.gather(*blocking)]
        await adapter.close()
        return answers

    late, *others = asyncio.run(main())
    assert failed(late) == ("timeout", False) and "no thread" in late.error  # type: ignore[union-attr]
    assert [failed(answer) for answer in others] == [("timeout", False)] * 4


def test_databases_are_on_a_list(file: Path, tmp_path: Path) -> None:
    for name in ("other", str(file), 7, None):
        assert failed(run(file, "select 1", database=name)) == ("egress_denied", False)
    assert failed(run(tmp_path / "none.db", "select 1 as x")) == ("unreachable", False)
    assert not (tmp_path / "none.db").exists()
    for text in ("people", "people=relative.db", "=/x.db", "people=rw:x.db"):
        with pytest.raises(Terminal):
            SqlAdapter.from_env({"SLUICEGATE_SQL_DATABASES": text})
    for more in (
        {"statement": 7},
        {"write": "yes"},
        {"max_rows": 0},
        {"max_rows": True},
        {"max_rows": 10_001},
    ):
        contract = {"statement": "select 1 as x", **more}
        assert failed(run(file, **contract)) == ("crashed", False)  # type: ignore[arg-type]
