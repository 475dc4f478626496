"""Old records and large results beside the log, in folders and object stores. Next: `archive.py`."""
