"""Evidence bundles: what goes in, and the `verify.py` that reads them alone. Next: `build.py`, `verify.py`."""
