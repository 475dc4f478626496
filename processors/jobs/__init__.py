"""Work that goes on at the tool, calls in doubt, and what takes a call back. Next: `jobs.py`."""
