"""`sluicegate topics repartition`: the log goes on in another generation. Next: `repartition.py`."""
