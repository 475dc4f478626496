"""The comparison: a Faust agent that only passes events through. `python -m bench.faust_passthrough worker`.

Settings as this project uses Faust, and its default at-least-once delivery: it decides nothing and records nothing.
"""

from __future__ import annotations

import os

import faust

app = faust.App(
    os.environ["BENCH_ID"],
    broker="kafka://" + os.environ["BENCH_KAFKA"],
    store="memory://",
    value_serializer="raw",
    key_serializer="raw",
    datadir=os.environ["BENCH_DATA"],
    web_enabled=False,
    topic_disable_leader=True,
    cython_optimizations=True,
)
source = app.topic(os.environ["BENCH_SOURCE"], value_serializer="raw", key_serializer="raw")
target = app.topic(os.environ["BENCH_TARGET"], value_serializer="raw", key_serializer="raw")


@app.agent(source)
async def passthrough(stream):
    """Every event on, unchanged."""
    async for event in stream.events():
        await target.send(key=event.key, value=event.value)


if __name__ == "__main__":
    app.main()
