"""One embedded ClickHouse for the whole test session, as a url that may write.

Tests share it, so each uses an environment, hence a database, of its own. Who kills the server starts its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sluicegate.sinks.embedded import SINK_USER, EmbeddedClickHouse


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What to set `SLUICEGATE_CLICKHOUSE` to."""
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse-session")) as server:
        yield server.url.replace("://", f"://{SINK_USER}:{server.key}@")
