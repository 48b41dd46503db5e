"""Exporting: rows of a task for others to read."""
