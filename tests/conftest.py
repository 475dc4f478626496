"""Fixtures every test may use; each lives in a module of its own."""

import gc
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# No timed assertion in tests: a busy machine is no counter-example.
settings.register_profile("sluicegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluicegate")

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
