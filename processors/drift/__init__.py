"""Drift: streams of what agents do, detectors over them, and alarms that cite their evidence. Next: `watch.py`."""
