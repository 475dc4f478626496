"""Budgets: what a call may cost is reserved, settled and shared between partitions. Next: `budgets.py`."""
