"""One agent's state: folded, shown, and taken back to an earlier point. Next: `restore.py`."""
