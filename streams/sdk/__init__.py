"""The agent SDK behind `streams/client.py`: sessions, calls, streams, replies. Next: `session.py`."""
