"""States folded anew from Kafka or ClickHouse, of partitions and of one agent. Next: `rebuild.py`."""
