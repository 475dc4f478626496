"""Releases: contracts, rules and prompts under one digest, checked, compiled and compared. Next: `release.py`."""
