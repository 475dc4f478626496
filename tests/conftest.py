"""Fixtures every test may use; each lives in a module of its own."""

pytest_plugins = ["tests.kafka_fixture", "tests.clickhouse_fixture"]
