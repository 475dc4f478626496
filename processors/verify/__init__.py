"""The invariants of the ledger, checked record by record. Next: `partition.py`."""
