"""Keys: of subjects, of roles, and what wraps them. Next: `store.py`."""
