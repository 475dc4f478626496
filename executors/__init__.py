"""Executors: the only part of Sluicegate that touches tools. Start reading in `dispatcher.py`."""
