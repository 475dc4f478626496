"""What goes from one partition to another. Next: `exchanges.py`."""
