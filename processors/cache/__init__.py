"""The cache: equal calls are made once, also across partitions. Next: `cache.py`."""
