"""What the ledger tells of intents and sessions: explain, access, status, tail. Next: `explain.py`."""
