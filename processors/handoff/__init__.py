"""Hand-offs: an agent opens a session for another one. Next: `handoff.py`."""
