"""Fixtures every test may use; each lives in a module of its own."""

import gc
from collections.abc import Generator

import pytest

pytest_plugins = ["tests.kafka_fixture", "tests.clickhouse_fixture"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, object, object]:
    """No garbage is collected while a report is made.

    CPython 3.11 ends with "AST constructor recursion depth mismatch" when a collection runs Python code (an aiokafka
    future nobody read) in the middle of `ast.parse`, which a failure's report calls: the run would end without its name.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
