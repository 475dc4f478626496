"""A transaction: a refused batch never commits, and a silent EndTxn fails it."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from sluicegate.streams import transactions


class _Batch:
    def __init__(self, room: int) -> None:
        self.room, self.items = room, []

    def append(self, **item: object) -> object:
        if len(self.items) >= self.room:
            return None
        self.items.append(item)
        return object()


class _Producer:
    """A producer whose n-th batch is refused."""

    def __init__(self, refuse: int = -1, room: int = 2) -> None:
        self.refuse, self.room = refuse, room
        self.sent: list[tuple[str, int, int]] = []
        self.committed = False

    def create_batch(self) -> _Batch:
        return _Batch(self.room)

    async def begin_transaction(self) -> None:
        pass

    async def send_batch(self, batch: _Batch, topic: str, partition: int) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if len(self.sent) == self.refuse:
            future.set_exception(MessageSizeTooLargeError())
        else:
            offset = sum(n for t, p, n in self.sent if (t, p) == (topic, partition))
            future.set_result(type("M", (), {"offset": 100 + offset})())
        self.sent.append((topic, partition, len(batch.items)))
        return future

    async def commit_transaction(self) -> None:
        self.committed = True


def _fill(producer: _Producer, count: int = 5) -> transactions.Transaction:
    transaction = transactions.Transaction(producer)
    for n in range(count):
        transaction.add("t", 0, b"k", b"%d" % n, 0, [])
    return transaction


def test_a_refused_batch_raises_before_the_commit() -> None:
    async def run() -> None:
        producer = _Producer(refuse=1)
        transaction = _fill(producer)
        with pytest.raises(MessageSizeTooLargeError):
            await transaction.append()
        assert not producer.committed

    asyncio.run(run())


def test_order_is_kept_and_the_last_offset_is_known() -> None:
    async def run() -> None:
        producer = _Producer()
        transaction = _fill(producer)
        assert await transaction.append() == {("t", 0): 104}
        assert [n for _, _, n in producer.sent] == [2, 2, 1]

    asyncio.run(run())


def test_an_endtxn_without_an_answer_fails_the_transaction() -> None:
    class _Manager:
        error: object = None

        def error_transaction(self, error: object) -> None:
            self.error = error

    class _Client:
        async def send(self, *_: object, **__: object) -> object:
            raise KafkaConnectionError("cut")

    class _Sender:
        client, _txn_manager, _retry_backoff = _Client(), _Manager(), 0.01

    async def run() -> None:
        handler = transactions._StrictEndTxnHandler(_Sender(), True)
        handler.create_request = lambda: object()
        assert await handler.do(0) is True
        assert isinstance(_Sender._txn_manager.error, KafkaConnectionError)

    asyncio.run(run())
    import aiokafka.producer.sender as sender

    assert sender.EndTxnHandler is transactions._StrictEndTxnHandler
