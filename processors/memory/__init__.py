"""Memory: what agents remember, as cells of the state. Next: `memory.py`."""
