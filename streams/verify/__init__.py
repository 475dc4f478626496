"""`sluicegate ledger verify`: the ledger from Kafka against its rules, inputs, heads and ClickHouse. Next: `ledger.py`."""
