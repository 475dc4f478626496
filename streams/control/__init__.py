"""The control ledger from outside: read by everybody, appended by operators. Next: `log.py`."""
