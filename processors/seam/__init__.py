"""Generations of a log, and what goes from one to the next. Next: `seam.py`."""
