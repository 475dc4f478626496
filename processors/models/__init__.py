"""Model routing: candidates, health, attempts, and what may be shown of an answer early. Next: `routes.py`."""
