"""Taking calls back, one compensation after the other. Next: `saga.py`."""
