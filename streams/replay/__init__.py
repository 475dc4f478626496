"""Deciding again: replay in each mode, reproduce, replay without an event. Next: `replay.py`."""
