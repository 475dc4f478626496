"""Sluicegate: an execution layer for AI agents. Read README.md, then processors/lifecycle.py."""

__version__ = "0.1.0"
