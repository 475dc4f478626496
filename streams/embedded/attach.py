"""Find what runs here: the embedded Kafka of this state directory, for clients that start nothing.

Never starts, stops or waits for a broker, and never opens a connection. Read next: `broker.py` (which starts it),
`settings.py` (SLUICEGATE_HOME, SLUICEGATE_KAFKA).
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.schemas.errors import Terminal
from sluicegate.streams.embedded import process as broker_process
from sluicegate.streams.settings import Settings


def attach(settings: Settings) -> Settings:
    """`settings` with `kafka` filled: your own cluster as given, else the embedded broker if it runs.

    Raises `Terminal` when nothing runs in `settings.home`, or when what runs there asks for a password.
    """
    if settings.kafka is not None:
        return settings
    started = broker_process.last_started(settings.home / "kafka")
    if started is None or broker_process.find(started) is None:
        raise Terminal(
            f"nothing runs here: no embedded kafka in `{settings.home}`, start it with `sluicegate up`, or set "
            "SLUICEGATE_KAFKA to your own cluster (SLUICEGATE_HOME when it runs elsewhere)"
        )
    if started.sasl and not settings.security.sasl:
        raise Terminal(
            f"the kafka at `{started.bootstrap}` asks for a password: set SLUICEGATE_KAFKA={started.bootstrap}, "
            "SLUICEGATE_KAFKA_SECURITY_PROTOCOL, SLUICEGATE_KAFKA_USERNAME and SLUICEGATE_KAFKA_PASSWORD"
        )
    return replace(settings, kafka=started.bootstrap)
