"""Deciding again what stands in a ledger, and reading what became of it. Next: `rederive.py`."""
