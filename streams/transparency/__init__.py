"""Trees, checkpoints, witnesses and proofs where they touch Kafka, files and the network. Next: `checkpointer.py`."""
