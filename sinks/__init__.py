"""The ledger in ClickHouse: exactly once, readable by analysts, good enough to rebuild the state from.

    clickhouse.py   the service and its five steps         ddl.py, views.sql     tables and views
    ranges.py       step 1: which records make a range     embedded.py           chDB as a server of its own
    rows.py         one Kafka record -> one row            chdb_server.py        that server
    facts.py        its facts -> columns they share        chdb_rules.py         who may do what there
    block.py        rows -> columns                        native.py             columns -> bytes
    writer.py       steps 3 and 4: a range -> ClickHouse   contents.py           opened contents -> JSON
    source.py       a ledger partition of Kafka

Nothing here decides anything and nothing here writes to Kafka but the sink's own group offsets.
Start with `clickhouse.py`.
"""
