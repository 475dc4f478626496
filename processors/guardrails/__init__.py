"""Guardrails: what is looked for in calls and results, and what is taken out. Next: `guardrails.py`."""
