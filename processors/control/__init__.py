"""Control: the fold of the control ledger, and who may change it. Next: `control.py`."""
