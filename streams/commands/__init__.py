"""The commands of `sluicegate`, one file a group; `output.py` prints for all of them."""
