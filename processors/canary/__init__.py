"""Canaries: sessions as scores, and a verdict that may be looked at after each of them. Next: `judge.py`."""
