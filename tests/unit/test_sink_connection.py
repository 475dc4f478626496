"""A connection that breaks while an insert is under way: it is not sent again behind the sink's back."""

from __future__ import annotations

import socket
import threading

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import Error
from sluicegate.sinks.writer import Sink

from tests.clickhouse_contract import one_range
from tests.ledger_records import Ledger


class Hangup:
    """Answers what a client asks when it connects; reads each insert to its end, and hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.inserts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                self._talk(connection, stream)

    def _talk(self, connection: socket.socket, stream: object) -> None:
        while True:
            line: bytes = stream.readline()  # type: ignore[attr-defined]
            if not line:
                return
            headers = {}
            while (header := stream.readline().strip()) != b"":  # type: ignore[attr-defined]
                name, _, value = header.partition(b":")
                headers[name.lower()] = value.strip()
            body: bytes = stream.read(int(headers.get(b"content-length", b"0")))  # type: ignore[attr-defined]
            if b"INSERT" in line + body[:200]:
                self.inserts += 1
                return
            version = b"version()" in body + line
            answer = b"25.8.1.1\tUTC\n" if version else b""
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

    def close(self) -> None:
        self._listener.close()


def test_an_insert_is_sent_once() -> None:
    """A token makes a repetition safe only while the rows of the first one are there; so who repeats must look first."""
    server = Hangup()
    try:
        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=server.port, compress=False, autogenerate_session_id=False
        )
        sink = Sink(lambda: client, "test", None)
        frozen = one_range(Ledger().many(4))
        with pytest.raises(Error):
            sink._put_events(frozen, True)
        assert server.inserts == 1
    finally:
        server.close()
