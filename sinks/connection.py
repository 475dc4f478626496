"""A clickhouse-connect client, made the one way Sluicegate makes them.

Never starts a server and never picks a role's password: `embedded.py` does. Next: `embedded.py`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error
from sluicegate.schemas.errors import Retryable

CONNECT_LIMIT_S = 5
QUERY_LIMIT_S = 120  # one insert or query over HTTP


def open_client(url: str, user: str, password: str, database: str | None) -> Client:
    """A client for the url's host and port, which several threads may use at once.

    Raises:
        Retryable: it does not answer, or refuses the user; the message never has the password.
    """
    parts = urlsplit(url)
    port = parts.port or (8443 if parts.scheme == "https" else 8123)
    extra: dict[str, Any] = {"username": user, "password": password} if user else {}
    try:
        return clickhouse_connect.get_client(
            host=parts.hostname or "127.0.0.1",
            port=port,
            secure=parts.scheme == "https",
            database=database or "default",
            compress=False,
            connect_timeout=CONNECT_LIMIT_S,
            send_receive_timeout=QUERY_LIMIT_S,
            autogenerate_session_id=False,  # a session takes one query at a time
            client_name="sluicegate",
            **extra,
        )
    except (Error, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise Retryable(
            f"clickhouse at `{parts.hostname}:{port}` does not answer: {said}: check that it is up and SLUICEGATE_CLICKHOUSE"
        ) from error
