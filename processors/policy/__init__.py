"""Cedar and CEL: what policies say, where they say it, and why nothing permitted. Decides nothing by itself. Next: `cedar.py`."""
