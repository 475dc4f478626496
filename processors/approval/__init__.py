"""Held calls: what is asked of people, and their words. Next: `approvals.py`."""
