"""Event streams: what waits for a slow client is bounded, for one and for all, and one key does not take them all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from sluicegate.gateway import events
from sluicegate.gateway.events import MAX_QUEUED, MAX_QUEUED_BYTES, MAX_STREAMS, MAX_STREAMS_OF_KEY, Stream
from sluicegate.schemas.records import Reply

from tests.driver import Driver
from tests.unit.test_gateway_access import a_gate


def reply(size: int = 0) -> Reply:
    return Reply(bytes(16), "i", "a", "s", "released", "execute", "", [], 1, b"x" * size)


def test_a_slow_client_is_cut_off(tmp_path: Path) -> None:
    gate = a_gate(Driver(), tmp_path)
    stream = Stream(gate)
    for offset in range(MAX_QUEUED):
        stream.offer(offset, reply(10))
    assert not stream.over and gate.waiting_bytes == 10 * MAX_QUEUED
    stream.offer(MAX_QUEUED, reply())
    assert stream.over and gate.waiting_bytes == 0
    large = Stream(gate)
    for offset in range(MAX_QUEUED_BYTES // 65_536):
        large.offer(offset, reply(65_536))
    assert not large.over
    large.offer(99, reply(1))
    assert large.over and gate.waiting_bytes == 0
    large.offer(100, reply(1))
    assert gate.waiting_bytes == 0  # what comes after the end waits for nobody


def test_what_waits_for_all_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_WAITING_BYTES", 100)
    gate = a_gate(Driver(), tmp_path)
    first, second = Stream(gate), Stream(gate)
    first.offer(1, reply(60))
    second.offer(1, reply(60))
    assert second.over and not first.over and gate.waiting_bytes == 60


def test_events_come_in_order_and_are_let_go(tmp_path: Path) -> None:
    gate = a_gate(Driver(), tmp_path)

    async def run() -> list[int]:
        stream = Stream(gate)
        waiting = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        stream.offer(1, reply(5))
        stream.offer(2, reply(5))
        seen = [await waiting, await stream.next()]
        stream.end()
        assert await stream.next() is None
        return [found[0] for found in seen if found is not None]

    assert asyncio.run(run()) == [1, 2]
    assert gate.waiting_bytes == 0


def test_one_key_does_not_take_the_streams_of_all(tmp_path: Path) -> None:
    gate = a_gate(Driver(), tmp_path)
    gate.streams_of["greedy"] = MAX_STREAMS_OF_KEY
    with pytest.raises(web.HTTPTooManyRequests):
        events._room(gate, "greedy")
    events._room(gate, "other")
    gate.streams |= {Stream(gate).end for _ in range(MAX_STREAMS)}
    with pytest.raises(web.HTTPServiceUnavailable):
        events._room(gate, "other")
    assert MAX_STREAMS_OF_KEY * 5 <= MAX_STREAMS
