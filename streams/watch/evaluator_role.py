"""The evaluator as a role of a process: its control follower, its key, its producer. Next: `watch/evaluator.py`, `roles.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

from aiokafka import AIOKafkaProducer
from sluicegate.executors.adapter import Adapter
from sluicegate.executors.model import ModelAdapter
from sluicegate.executors.python import PythonAdapter
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, SluicegateError
from sluicegate.schemas.records import Score
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import kafka
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.keys.role_keys import RoleSigner
from sluicegate.streams.lanes.service import wall_clock
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.evaluator import Evaluator

REVIEWS = "reviews"


class EvaluatorRole:
    """The evaluator's component."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader = ControlReader(settings)
        self._signer = RoleSigner(
            settings.home, "evaluator", REVIEWS, lambda: self._reader.control, wall_clock
        )
        self._producer: AIOKafkaProducer | None = None
        self._adapters: dict[str, Adapter] = {}
        self._evaluator: Evaluator | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        try:
            await self._reader.start()
            if self._reader.control.head < 0:
                raise Retryable("the environment has no genesis yet, make it: sluicegate topics create")
            if self._reader.control.signing == "signed":
                self._signer.ready()
        except SluicegateError:
            await self._reader.stop()
            raise
        self._producer = await kafka.connect(kafka.producer(self._settings))
        self._adapters = {
            "python": PythonAdapter.from_env(os.environ),
            "model": ModelAdapter.from_env(os.environ),
        }
        self._evaluator = Evaluator(
            lambda: connect(self._settings, "reader", database(self._settings)),
            lambda: self._reader.control,
            self._adapters,
            self._publish,
            wall_clock,
        )
        self._task = asyncio.create_task(self._evaluator.run(), name="evaluator")

    async def _publish(self, score: Score) -> None:
        assert self._producer is not None
        index = partition_of(score.agent_id, self._reader.control.partitions)
        value = self._signer(codec.encode(score))
        topic = full_name(self._settings.space, REVIEWS)
        await self._producer.send_and_wait(topic, value, key=score.agent_id.encode(), partition=index)

    async def stop(self) -> None:
        """Leave the session at hand: whoever starts next scores it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for adapter in self._adapters.values():
            await adapter.close()
        if self._producer is not None:
            await self._producer.stop()
        await self._reader.stop()

    @property
    def alive(self) -> str:
        """What is wrong, or nothing: a scorer that fails is no fault of this process."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return f"the evaluator ended: {self._task.exception()!r}"
        return self._evaluator.counters.waiting.get("", "") if self._evaluator is not None else ""

    def metrics(self) -> Mapping[str, float]:
        """Counters."""
        if self._evaluator is None:
            return {}
        c = self._evaluator.counters
        return {
            "sluicegate_evaluator_looks_total": c.looks,
            "sluicegate_evaluator_scores_total": c.scores,
            "sluicegate_evaluator_failures_total": c.failures,
            "sluicegate_evaluator_over_budget_total": c.over_budget,
        }
