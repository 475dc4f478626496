"""The transparency log: RFC 6962 trees, tiles, checkpoints, witnesses and proofs. Next: `merkle.py`."""
