"""Is a Kafka ready? Asked through its API: the cluster's id, and both coordinators, which are up last.

Never starts, stops or waits for a process. Read next: `streams/broker.py`, which asks until the answer is yes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiokafka.errors import KafkaError, for_code
from sluicegate.schemas.errors import Retryable
from sluicegate.streams import kafka
from sluicegate.streams.settings import KafkaSecurity

CALL_LIMIT_S = 5  # for all questions together; 20 ms is usual
GROUP_NOT_FOUND_CODE = 69
_NOBODY = "sluicegate-ready"  # a group and a transactional id that are asked about and never exist

_T = TypeVar("_T")


def cluster_id(address: str, security: KafkaSecurity) -> str:
    """The id of the cluster at `address`, once metadata and both coordinators answer.

    Raises `Retryable` until they do and `Terminal` when the user is refused. Asking for the coordinators makes a
    fresh broker create their topics now and not under its first client.
    """
    # The port first: aiokafka logs an error for every connection that is refused.
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CALL_LIMIT_S):
            pass
        return in_thread(_cluster_id(address, security))
    except (KafkaError, OSError) as error:  # a TimeoutError is an OSError
        raise Retryable(str(error) or type(error).__name__) from error


async def _cluster_id(address: str, security: KafkaSecurity) -> str:
    await kafka.probe(address, security, timeout_ms=CALL_LIMIT_S * 1000)
    async with asyncio.timeout(CALL_LIMIT_S):
        admin = kafka.admin(address, security)
        try:
            await admin.start()
            cluster = await admin.describe_cluster()
            await admin.find_coordinator(_NOBODY, coordinator_type=1)  # of transactions
            node = await admin.find_coordinator(_NOBODY)
            # Found is not loaded: a description comes from the coordinator itself.
            for response in await admin.describe_consumer_groups([_NOBODY], node):
                for error_code, *_ in response.groups:
                    if error_code not in (0, GROUP_NOT_FOUND_CODE):
                        raise for_code(error_code)("the group coordinator is not ready")
            await admin.list_consumer_groups([node])  # fails while any of its partitions is loading
        finally:
            await admin.close()
    return str(cluster["cluster_id"])


def in_thread(coroutine: Coroutine[object, object, _T]) -> _T:
    """Run it to its end in an event loop of its own: the caller may be inside one."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()
