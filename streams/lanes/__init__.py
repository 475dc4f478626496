"""What surrounds the ledger of a partition: recovery, snapshots, who owns which. Next: `recovery.py`; the loop is `streams/ledger.py`."""
