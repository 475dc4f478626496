"""Real servers that fail on purpose. Next: `faults.py`."""
