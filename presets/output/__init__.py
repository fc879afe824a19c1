"""The output of a run: its formats, and what becomes of it when a path or a format changes."""
