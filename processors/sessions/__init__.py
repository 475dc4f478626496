"""Sessions: opened, heard, at rest, closed, scored. Next: `sessions.py`."""
